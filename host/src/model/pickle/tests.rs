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

struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl Zip {
    fn new() -> Self {
        Self { bytes: Vec::new(), directory: Vec::new(), count: 0 }
    }

    fn add(mut self, name: &str, data: &[u8], flags: u16, method: u16, local_name: &str) -> Self {
        let offset = u32::try_from(self.bytes.len()).unwrap();
        let length = u32::try_from(data.len()).unwrap().to_le_bytes();
        let fields = |name: &str| {
            let name_length = u16::try_from(name.len()).unwrap();
            let mut out = vec![20, 0];
            out.extend(flags.to_le_bytes());
            out.extend(method.to_le_bytes());
            out.extend([0; 8]);
            out.extend(length);
            out.extend(length);
            out.extend(name_length.to_le_bytes());
            out.extend([0, 0]);
            out
        };
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend(fields(local_name));
        self.bytes.extend(local_name.as_bytes());
        self.bytes.extend(data);
        self.directory.extend(b"PK\x01\x02\x14\x00");
        self.directory.extend(fields(name));
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
    let zip = Zip::new().store("m/data.pkl", &clean()).store("m/data/0", &[0x80, 2, 1, 0xff, 9]).finish();
    let old = [clean(), clean(), vec![1, 2, 3, 4]].concat();
    for (name, bytes) in [("m.bin", clean()), ("m.pt", zip), ("old.pth", old)] {
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
        ("computed.bin", with_protocol(4, b"N\x8c\x06system\x93)R."), "pickle-unknown-import"),
        ("extension.bin", with_protocol(2, b"\x82\x07)R."), "pickle-unknown-import"),
        ("second.bin", [clean(), evil.clone()].concat(), "pickle-code-execution"),
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
fn no_mutation_makes_it_panic_or_take_much() {
    let seeds = [clean(), stacked(), remembered(), calling("os", "system")];
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
