//! Pickles assembled by hand. Nothing here is ever loaded.

use std::fs;

use super::*;
use crate::domain::inspection::Status;
use crate::model::{InspectOptions, inspect};

/// A dictionary with one tensor, as torch.save writes it.
fn clean() -> Vec<u8> {
    let mut bytes =
        b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((".to_vec();
    bytes.extend_from_slice(
        b"X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05",
    );
    bytes.extend_from_slice(b"X\x03\x00\x00\x00cpuq\x06K\x04tq\x07QK\x00K\x04\x85q\x08K\x01\x85q\x09\x89");
    bytes.extend_from_slice(b"ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs.");
    bytes
}

fn calling(module: &str, name: &str) -> Vec<u8> {
    format!("\u{0}c{module}\n{name}\n(X\u{2}\u{0}\u{0}\u{0}idtR.").replacen('\u{0}', "", 1).into_bytes()
}

fn with_protocol(protocol: u8, body: &[u8]) -> Vec<u8> {
    [&[0x80, protocol], body].concat()
}

/// The same call, with the names put on the stack first (protocol 4).
fn stacked() -> Vec<u8> {
    with_protocol(4, b"\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.")
}

/// Names that come out of the memo.
fn remembered() -> Vec<u8> {
    with_protocol(4, b"\x8c\x05posix\x940\x8c\x06system\x940h\x00h\x01\x93\x8c\x02id\x85R.")
}

/// A file in PyTorch's old format: four storages of numbers, and what follows them. The second
/// has so many numbers that their count begins like a pickle.
fn old(behind: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let storage = |kind: &str, key: &str, count: u16| {
        let [low, high] = count.to_le_bytes();
        let key = format!("X\u{1}\0\0\0{key}");
        let mut tuple = format!("((X\u{7}\0\0\0storagectorch\n{kind}\n{key}X\u{3}\0\0\0cpuM").into_bytes();
        tuple.extend([low, high]);
        tuple.extend(b"NtQK\0t0");
        tuple
    };
    let main = [storage("HalfStorage", "a", 640), storage("LongStorage", "b", 3)].concat();
    let number = |value: u8| vec![0x80, 2, b'M', value, 3, b'.'];
    let keys = b"\x80\x02]q\x00(X\x01\0\0\0aX\x01\0\0\0be.".to_vec();
    let mut bytes =
        [magic.to_vec(), number(1), number(2), [b"\x80\x02", main.as_slice(), b"N."].concat(), keys].concat();
    bytes.extend(640u64.to_le_bytes());
    bytes.extend([7; 1280]);
    bytes.extend(3u64.to_le_bytes());
    bytes.extend([7; 24]);
    bytes.extend(behind);
    bytes
}

struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
    /// Checksum of the next entry in its local header, and in the directory.
    crc32: [u32; 2],
}

impl Zip {
    fn new() -> Self {
        Self { bytes: Vec::new(), directory: Vec::new(), count: 0, crc32: [0; 2] }
    }

    fn checksums(mut self, local: u32, directory: u32) -> Self {
        self.crc32 = [local, directory];
        self
    }

    fn add(mut self, name: &str, data: &[u8], flags: u16, method: u16, local_name: &str) -> Self {
        let offset = u32::try_from(self.bytes.len()).unwrap();
        let length = u32::try_from(data.len()).unwrap().to_le_bytes();
        let fields = |name: &str, crc32: u32| {
            let name_length = u16::try_from(name.len()).unwrap();
            let mut out = vec![20, 0];
            out.extend(flags.to_le_bytes());
            out.extend(method.to_le_bytes());
            out.extend([0; 4]);
            out.extend(crc32.to_le_bytes());
            out.extend(length);
            out.extend(length);
            out.extend(name_length.to_le_bytes());
            out.extend([0, 0]);
            out
        };
        self.bytes.extend(b"PK\x03\x04");
        let [local, listed] = std::mem::take(&mut self.crc32);
        self.bytes.extend(fields(local_name, local));
        self.bytes.extend(local_name.as_bytes());
        self.bytes.extend(data);
        self.directory.extend(b"PK\x01\x02\x14\x00");
        self.directory.extend(fields(name, listed));
        self.directory.extend([0; 10]);
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.count += 1;
        self
    }

    fn store(self, name: &str, data: &[u8]) -> Self {
        self.add(name, data, 0, 0, name)
    }

    fn finish(mut self) -> Vec<u8> {
        let start = u32::try_from(self.bytes.len()).unwrap();
        let length = u32::try_from(self.directory.len()).unwrap();
        self.bytes.append(&mut self.directory);
        self.bytes.extend(b"PK\x05\x06\0\0\0\0");
        self.bytes.extend(self.count.to_le_bytes());
        self.bytes.extend(self.count.to_le_bytes());
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(start.to_le_bytes());
        self.bytes.extend([0, 0]);
        self.bytes
    }
}

/// A checkpoint with one tensor.
fn checkpoint(numbers: &[u8]) -> Zip {
    Zip::new().store("m/data.pkl", &clean()).store("m/data/0", numbers)
}

fn look(name: &str, bytes: &[u8]) -> (Status, ArtifactKind, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let inspection = inspect(&path, &InspectOptions { full: true }, &mut |_, _| {}).unwrap();
    let codes = inspection.findings.into_iter().map(|finding| finding.code).collect();
    (inspection.status, inspection.kind, codes)
}

#[test]
fn tensors_only_is_a_warning() {
    let numbers = [&[0x80, 2, 1, 0xff, 9], [7; 11].as_slice()].concat();
    let zip = checkpoint(&numbers).finish();
    let plain = with_protocol(2, b"}K\x01K\x02s.");
    for (name, bytes) in [("m.bin", plain), ("m.pt", zip), ("old.pth", old(b""))] {
        assert_eq!(
            look(name, &bytes),
            (Status::Warn, ArtifactKind::Pickle, vec!["pickle-format".to_owned()]),
            "{name}"
        );
    }
}

#[test]
fn whatever_runs_code_is_rejected() {
    let evil = with_protocol(2, &calling("posix", "system"));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("bare.bin", evil.clone(), "pickle-code-execution"),
        ("protocol0.bin", calling("os", "system"), "pickle-code-execution"),
        ("inst.bin", b"(S'id'\nios\nsystem\n.".to_vec(), "pickle-code-execution"),
        ("stacked.bin", stacked(), "pickle-code-execution"),
        ("memo.bin", remembered(), "pickle-code-execution"),
        ("eval.bin", with_protocol(2, &calling("builtins", "eval")), "pickle-code-execution"),
        ("py2.bin", with_protocol(2, &calling("__builtin__", "exec")), "pickle-code-execution"),
        ("timeit.bin", with_protocol(2, &calling("timeit", "timeit")), "pickle-code-execution"),
        (
            "load.bin",
            with_protocol(2, &calling("torch.storage", "_load_from_bytes")),
            "pickle-code-execution",
        ),
        ("hub.bin", with_protocol(2, &calling("torch.hub", "load")), "pickle-code-execution"),
        ("other.bin", with_protocol(2, &calling("my.module", "Thing")), "pickle-unknown-import"),
        ("computed.bin", with_protocol(4, b"N\x8c\x06system\x93)R."), "pickle-code-execution"),
        ("extension.bin", with_protocol(2, b"\x82\x07)R."), "pickle-code-execution"),
        ("second.bin", [with_protocol(2, b"N."), evil.clone()].concat(), "pickle-code-execution"),
        // The old format in the oldest protocol, and after a first pickle in a newer one.
        (
            "old.bin",
            [b"I119547037146038801333356\n.I1001\n.(d.", &calling("os", "system")[..]].concat(),
            "pickle-code-execution",
        ),
        (
            "mixed.bin",
            [with_protocol(2, b"N."), b"(d.".to_vec(), calling("os", "system")].concat(),
            "pickle-code-execution",
        ),
        ("escaped.bin", b"S'\\x6fs'\nS'system'\n\x93(S'id'\ntR.".to_vec(), "pickle-code-execution"),
        ("through.bin", calling("torch.serialization.os", "system"), "pickle-code-execution"),
        ("tail.bin", [&evil[..evil.len() - 1], b"\xff"].concat(), "pickle-code-execution"),
        ("cut.bin", clean()[..90].to_vec(), "pickle-broken"),
        ("zip.pt", Zip::new().store("m/data.pkl", &evil).finish(), "pickle-code-execution"),
        (
            "hidden.pt",
            Zip::new().store("m/data.pkl", &clean()).store("m/x", &evil).finish(),
            "pickle-code-execution",
        ),
        ("flag.pt", Zip::new().add("m/data.pkl", &evil, 1, 0, "m/data.pkl").finish(), "archive-inconsistent"),
        (
            "packed.pt",
            Zip::new().add("m/data.pkl", &evil, 0, 8, "m/data.pkl").finish(),
            "archive-inconsistent",
        ),
        (
            "names.pt",
            Zip::new().add("m/readme.md", &evil, 0, 0, "m/data.pkl").finish(),
            "archive-inconsistent",
        ),
        (
            "slip.pt",
            Zip::new().store("m/data.pkl", &clean()).store("../../x", b"1").finish(),
            "path-traversal",
        ),
        (
            "twice.pt",
            Zip::new().store("m/data.pkl", &clean()).store("m/data.pkl", &clean()).finish(),
            "archive-inconsistent",
        ),
        ("as.gguf", evil.clone(), "pickle-code-execution"),
        ("as.gguf", evil.clone(), "disguised-format"),
        ("as.safetensors", Zip::new().store("m/data.pkl", &clean()).finish(), "disguised-format"),
    ];
    for (name, bytes, code) in cases {
        let (status, _, codes) = look(name, &bytes);
        assert_eq!(status, Status::Reject, "{name}");
        assert!(codes.iter().any(|found| found == code), "{name}: {codes:?}");
    }
    let mut cut = Zip::new().store("m/data.pkl", &clean()).finish();
    cut.truncate(cut.len() - 30);
    assert_eq!(look("cut.pt", &cut).2, ["archive-inconsistent"]);
    assert_eq!(look("text.bin", b"hello world, no pickle\n").2, ["bad-magic"]);
}

#[test]
fn what_follows_a_pickle_is_named() {
    let evil = with_protocol(2, &calling("posix", "system"));
    let empty = with_protocol(2, b"N.");
    let evil_zip = || Zip::new().store("m/data.pkl", &evil).finish();
    let good_zip = || checkpoint(&[7; 16]).finish();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("junk.bin", [&empty, b"junk".as_slice()].concat(), &["trailing-bytes", "pickle-format"]),
        ("junk.pth", old(b"junk"), &["trailing-bytes", "pickle-format"]),
        ("junk.pt", [good_zip(), b"junk".to_vec()].concat(), &["trailing-bytes", "pickle-format"]),
        (
            "zip.bin",
            [empty.clone(), evil_zip()].concat(),
            &["archive-inconsistent", "pickle-code-execution", "trailing-bytes"],
        ),
        ("zip.pth", old(&good_zip()), &["archive-inconsistent", "trailing-bytes"]),
        ("two.pt", [good_zip(), evil_zip()].concat(), &["archive-inconsistent", "pickle-code-execution"]),
        ("again.pt", [evil_zip(), good_zip()].concat(), &["archive-inconsistent"]),
        ("pickle.pth", old(&evil), &["pickle-code-execution", "trailing-bytes"]),
        ("short.pth", old(b"")[..1400].to_vec(), &["truncated"]),
        ("short.bin", clean(), &["truncated"]),
    ];
    for (name, bytes, codes) in cases {
        assert_eq!(look(name, &bytes).2, codes, "{name}");
    }
    // Large archives have a second end record.
    let mut large = [empty, evil_zip()].concat();
    let (end, start) = (large.split_off(large.len() - 22), 4u64);
    let directory = u64::from(u32::from_le_bytes(*end[16..].first_chunk().unwrap()));
    let length = u64::from(u32::from_le_bytes(*end[12..].first_chunk().unwrap()));
    large.extend(b"PK\x06\x06");
    large.extend([0; 28]);
    for number in [1, length, directory] {
        large.extend(u64::to_le_bytes(number));
    }
    large.extend(b"PK\x06\x07\0\0\0\0");
    large.extend((start + directory + length).to_le_bytes());
    large.extend([1, 0, 0, 0]);
    large.extend(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff");
    large.extend([0xff; 8]);
    large.extend([0, 0]);
    assert!(look("large.bin", &large).2.contains(&"pickle-code-execution".to_owned()));
}

#[test]
fn the_parts_of_a_checkpoint_are_there_and_whole() {
    let numbers = [7; 16];
    let crc32 = crate::digest::crc32(0, &numbers);
    let main = || Zip::new().store("m/data.pkl", &clean());
    let script = checkpoint(&numbers).store("m/code/__torch__.py", b"class M: ...");
    let format: &[&str] = &["pickle-format"];
    let cases: Vec<(&str, Zip, &[&str])> = vec![
        ("not worked out", checkpoint(&numbers), format),
        ("right", main().checksums(crc32, crc32).store("m/data/0", &numbers), format),
        (
            "other bytes",
            main().checksums(crc32, crc32).store("m/data/0", &[8; 16]),
            &["archive-inconsistent", "pickle-format"],
        ),
        (
            "two checksums",
            main().checksums(crc32, 1).store("m/data/0", &numbers),
            &["archive-inconsistent", "archive-inconsistent"],
        ),
        ("said later", main().checksums(0, crc32).add("m/data/0", &numbers, 8, 0, "m/data/0"), format),
        ("missing", main(), &["missing-storage"]),
        ("short", checkpoint(&numbers[..15]), &["missing-storage"]),
        ("elsewhere", main().store("n/data/0", &numbers), &["missing-storage"]),
        ("TorchScript", script, &["pickle-code-execution"]),
        ("code of another", checkpoint(&numbers).store("n/code/x.py", b"1"), format),
    ];
    for (what, zip, codes) in cases {
        assert_eq!(look("m.pt", &zip.finish()).2, codes, "{what}");
    }
    // A checksum over more than one chunk of the pass.
    let large = vec![5; 3 << 20];
    let crc32 = crate::digest::crc32(0, &large);
    let zip = |crc32| checkpoint(&numbers).checksums(crc32, crc32).store("m/data/1", &large).finish();
    assert_eq!(look("m.pt", &zip(crc32)).2, format);
    assert_eq!(look("m.pt", &zip(crc32 ^ 1)).2, ["archive-inconsistent", "pickle-format"]);
}

#[test]
fn what_torch_allows_itself_is_harmless() {
    for name in [
        "torch._tensor._rebuild_from_type_v2",
        "torch.serialization._get_layout",
        "torch.per_tensor_affine",
        "torch._utils._rebuild_sparse_tensor",
        "torch.float8_e4m3fn",
    ] {
        assert_eq!(imports::judge(name), imports::Verdict::Harmless, "{name}");
    }
    assert_eq!(imports::judge("torch.serialization.load"), imports::Verdict::Unknown);
}

/// Python 3.11 began by writing members of enumerations so; training_args.bin is full of them.
#[test]
fn members_of_enumerations_are_asked_for_by_name() {
    let imports = |body: &[u8]| {
        let seen = walk::walk(&mut Cursor::new(&body, 0, u64::MAX)).unwrap();
        seen.imports.into_keys().collect::<Vec<_>>()
    };
    let thing: &[u8] = b"cmy.module\nThing\n";
    for body in [
        [b"cbuiltins\ngetattr\n", thing, b"\x8c\x04NAME\x86R."].concat(),
        [
            b"c__builtin__\ngetattr\nq\0",
            thing,
            b"X\x06\0\0\0NO_2_X\x86q\x01Rq\x020h\0",
            thing,
            b"\x8c\x01B\x86R.",
        ]
        .concat(),
        [b"\x8c\x08builtins\x8c\x07getattr\x93", thing, b"\x8c\x04NAME\x86R."].concat(),
        [b"cbuiltins\ngetattr\n(", thing, b"S'NAME'\ntR."].concat(),
    ] {
        assert_eq!(imports(&body), ["my.module.Thing"], "{}", body.escape_ascii());
    }
    for body in [
        [b"cbuiltins\ngetattr\n", thing, b"\x8c\x04name\x86R."].concat(),
        [b"cbuiltins\ngetattr\n", thing, b"\x8c\x04NAmE\x86R."].concat(),
        [b"cbuiltins\ngetattr\n", thing, b"\x8c\x09__class__\x86R."].concat(),
        [b"cbuiltins\ngetattr\n", thing, b"\x8c\x03A.B\x86R."].concat(),
        [b"cbuiltins\ngetattr\n", thing, b"\x8c\0\x86R."].concat(),
        [b"cbuiltins\ngetattr\n", thing, b"\x85R."].concat(),
        [b"cbuiltins\ngetattr\n", thing, b"\x8c\x01AN\x87R."].concat(),
        [b"cbuiltins\ngetattr\n", thing, b"\x8c\x01A\x86\x81."].concat(),
        [b"(cbuiltins\ngetattr\n", thing, b"\x8c\x01Ao."].concat(),
        [b"(", thing, b"\x8c\x01Aibuiltins\ngetattr\n."].concat(),
        [thing, b"cbuiltins\ngetattr\n."].concat(),
        [thing, b"cbuiltins\ngetattr\n"].concat(),
        [thing, b"cbuiltins\ngetattr\n\x85."].concat(),
        [thing, b"(cbuiltins\ngetattr\nl."].concat(),
        [b"}(", thing, b"cbuiltins\ngetattr\nu."].concat(),
        [thing, b"cbuiltins\ngetattr\nb."].concat(),
        [thing, b"cbuiltins\ngetattr\nq\x000Nh\0\x85R."].concat(),
    ] {
        assert_eq!(imports(&body), ["builtins.getattr", "my.module.Thing"], "{}", body.escape_ascii());
    }
}

#[test]
fn no_mutation_makes_it_panic_or_take_much() {
    let seeds = [clean(), old(b"junk"), stacked(), remembered(), calling("os", "system")];
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    let mut broken = 0;
    for case in 0..40_000 {
        let mut bytes = seeds[case % seeds.len()].clone();
        for _ in 0..1 + random() % 3 {
            let at = random() % bytes.len();
            bytes[at] = random() as u8;
        }
        let seen = walk::walk(&mut Cursor::new(&bytes.as_slice(), 0, u64::MAX)).unwrap();
        assert!(seen.end <= bytes.len() as u64);
        broken += usize::from(seen.broken.is_some());
        let zip = Zip::new().store("m/data.pkl", &bytes).finish();
        let mut damaged = zip.clone();
        let at = random() % zip.len();
        damaged[at] = random() as u8;
        archive::look(&damaged.as_slice(), &mut Findings::default()).unwrap();
    }
    assert!(broken > 1000);
}
