//! `assayd hash` through the real binary: digests, roots, and lists checked.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on must stop"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assayd::digest::{merkle_root, sha256};
use assayd::domain::text::is_plain;
use assayd::model::gguf::write::{TensorData, write_file};
use assayd::model::gguf::{GgmlType, Value, read_strict};

#[path = "hash/lists.rs"]
mod lists;
#[path = "hash/others.rs"]
mod others;

fn hash(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_assayd"))
        .current_dir(folder)
        .arg("hash")
        .args(arguments)
        .env("ASSAYD_CACHE", folder.join("cache"))
        .output()
        .unwrap()
}

fn json(folder: &Path, arguments: &[&str]) -> (serde_json::Value, Option<i32>) {
    let output = hash(folder, &[arguments, &["--json"]].concat());
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (document, output.status.code())
}

fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

const FIRST: [u8; 256] = [1; 256];
const SECOND: [u8; 128] = [2; 128];

fn write(path: &Path, name: &str, tensors: &[(&str, &[u8])]) {
    let tensors: Vec<(&str, [u64; 1], &[u8])> =
        tensors.iter().map(|(name, data)| (*name, [data.len() as u64 / 4], *data)).collect();
    let list: Vec<TensorData<'_>> = tensors
        .iter()
        .map(|(name, shape, data)| TensorData { name, kind: GgmlType::F32, shape, data })
        .collect();
    write_file(path, &[("general.name", name.into())], &list).unwrap();
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("m.gguf"), "m", &[("first", &FIRST), ("second", &SECOND)]);
    folder
}

#[test]
fn tensors_and_roots() {
    let folder = folder();
    let (plain, code) = json(folder.path(), &["m.gguf"]);
    assert_eq!(code, Some(0));
    let tensors = plain["tensor_digests"].as_array().unwrap();
    // Each is one chunk.
    assert_eq!(tensors[0]["root"], merkle_root([FIRST]).to_string());
    assert_eq!(tensors[1]["root"], merkle_root([SECOND]).to_string());
    assert_eq!(tensors[1]["name"], "second");
    let file = fs::read(folder.path().join("m.gguf")).unwrap();
    assert_eq!(plain["files"][0]["sha256"], sha256(&file).to_string());
    assert_eq!(plain["merkle_root"], plain["weights_root"]);
    // What each edit changes of (file, content, weights).
    type Tensors<'a> = &'a [(&'a str, &'a [u8])];
    let cases: [(&str, &str, Tensors<'_>, [bool; 3]); 4] = [
        ("metadata", "n", &[("first", &FIRST), ("second", &SECOND)], [true, true, false]),
        ("order", "m", &[("second", &SECOND), ("first", &FIRST)], [true, false, false]),
        ("name", "m", &[("first", &FIRST), ("Second", &SECOND)], [true, true, true]),
        ("dropped", "m", &[("first", &FIRST)], [true, true, true]),
    ];
    for (what, name, tensors, expected) in cases {
        write(&folder.path().join("other.gguf"), name, tensors);
        let (other, _) = json(folder.path(), &["other.gguf"]);
        let changed = ["file_root", "content_root", "weights_root"].map(|root| {
            assert!(other[root].is_string(), "{what} {root}");
            other[root] != plain[root]
        });
        assert_eq!(changed, expected, "{what}");
    }
}

/// What is no model has digests all the same, and a list of it can be checked.
#[test]
fn files_that_are_no_models() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("config.json", &b"{\"a\": 1}"[..]),
        ("README.md", b"# read me"),
        ("x.txt", b"text"),
        ("r.bin", b"\x07\x00random"),
        ("m.gguf", b"<html>no model</html>"),
        ("empty", b""),
        ("empty.gguf", b""),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
        let (plain, code) = json(folder.path(), &[name]);
        assert_eq!(code, Some(0), "{name}");
        assert_eq!(plain["files"][0]["sha256"], sha256(bytes).to_string(), "{name}");
        let leaves = (!bytes.is_empty()).then_some(bytes);
        assert_eq!(plain["file_root"], merkle_root(leaves).to_string(), "{name} is one stretch");
        assert!(plain["content_root"].is_null() && plain["weights_root"].is_null(), "{name}");
        fs::write(folder.path().join("list"), text(&hash(folder.path(), &[name]))).unwrap();
        assert_eq!(hash(folder.path(), &[name, "--check", "list"]).status.code(), Some(0), "{name}");
        fs::write(folder.path().join(name), "other").unwrap();
        assert_eq!(hash(folder.path(), &[name, "--check", "list"]).status.code(), Some(1), "{name}");
    }
}

#[test]
fn inspect_states_the_roots_in_the_full_pass_only() {
    let folder = folder();
    let inspect = |arguments: &[&str]| -> serde_json::Value {
        let output = Command::new(env!("CARGO_BIN_EXE_assayd"))
            .current_dir(folder.path())
            .args(["inspect", "--json", "m.gguf"])
            .args(arguments)
            .env("ASSAYD_CACHE", folder.path().join("cache"))
            .output()
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()[0].clone()
    };
    let (hashed, _) = json(folder.path(), &["m.gguf"]);
    let (quick, full) = (inspect(&[]), inspect(&["--full"]));
    for key in ["file_root", "weights_root", "content_root", "merkle_root"] {
        assert!(quick.get(key).is_some_and(serde_json::Value::is_null), "{key}");
        assert_eq!(full[key], hashed[key], "{key}");
        assert!(full[key].is_string(), "{key}");
    }
    assert_eq!(full["tensor_digests"], hashed["tensor_digests"]);
}

#[test]
fn its_own_list_names_what_changed() {
    let folder = folder();
    let list = hash(folder.path(), &["m.gguf"]);
    fs::write(folder.path().join("list"), text(&list)).unwrap();
    let check = || hash(folder.path(), &["m.gguf", "--check", "list"]);
    assert_eq!(check().status.code(), Some(0), "{}", text(&check()));
    let mut changed = SECOND;
    changed[100] ^= 1;
    write(&folder.path().join("m.gguf"), "m", &[("first", &FIRST), ("second", &changed), ("third", &FIRST)]);
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    for line in [
        "CHANGED  file m.gguf",
        "CHANGED  tensor second",
        "DUPLICATE  tensor third: it has the bytes of first",
    ] {
        assert!(text(&output).contains(line), "{line} in:\n{}", text(&output));
    }
    assert!(!text(&output).contains("tensor first"));
    write(&folder.path().join("m.gguf"), "m", &[("first", &FIRST)]);
    assert!(text(&check()).contains("MISSING  tensor second"));
}

/// A second entry of a name changes what loaders read, wherever it stands and whatever it holds.
#[test]
fn duplicates_are_named() {
    let folder = folder();
    let path = folder.path().join("m.gguf");
    let kinds = ["--kind", "sha256", "--kind", "xxh64"];
    let printed = hash(folder.path(), &[&["m.gguf"], kinds.as_slice()].concat());
    fs::write(folder.path().join("own"), text(&printed)).unwrap();
    let layers: Vec<&str> = text(&printed).lines().filter(|line| line.contains("m.gguf:")).collect();
    assert_eq!(layers.len(), 4);
    fs::write(folder.path().join("layers"), layers.join("\n")).unwrap();
    let check = |list: &str| hash(folder.path(), &["m.gguf", "--check", list]);
    assert_eq!((check("own").status.code(), check("layers").status.code()), (Some(0), Some(0)));

    // Names of equal length: the writer refuses duplicates, so one is renamed in the header.
    let rename = |from: &str, to: &str| {
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, bytes).unwrap();
    };
    let roots = || {
        let (document, _) = json(folder.path(), &["m.gguf"]);
        [document["content_root"].clone(), document["weights_root"].clone()]
    };
    let altered = [9; 256];
    let named = |list: &str| {
        let output = check(list);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let line = text(&output).lines().find(|line| line.starts_with("DUPLICATE  tensor first"));
        assert!(line.is_some_and(|line| line.ends_with(": it is there more than once")), "{}", text(&output));
        assert!(!text(&output).contains("note: every tensor"), "{}", text(&output));
    };
    for tensors in [
        [("First", &altered[..]), ("first", &FIRST), ("second", &SECOND)],
        [("first", &FIRST), ("First", &altered), ("second", &SECOND)],
        [("first", &FIRST), ("second", &SECOND), ("First", &FIRST)],
    ] {
        write(&path, "m", &tensors);
        rename("First", "first");
        assert_eq!(roots(), [serde_json::Value::Null, serde_json::Value::Null]);
        ["own", "layers"].into_iter().for_each(named);
    }
    // Two entries for the same bytes: one of them overlaps, and is not read.
    write(&path, "m", &[("first", &FIRST), ("First", &FIRST), ("second", &SECOND)]);
    rename("First", "first");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).rposition(|window| window == b"first").unwrap() + 5 + 4 + 8 + 4;
    assert_eq!(bytes[at..at + 8], 256u64.to_le_bytes());
    bytes[at..at + 8].copy_from_slice(&0u64.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    ["own", "layers"].into_iter().for_each(named);

    let pair = [("general.nama", "evil".into()), ("general.name", "m".into())];
    let back = [pair[1].clone(), pair[0].clone()];
    let first = TensorData { name: "first", kind: GgmlType::F32, shape: &[64], data: &FIRST };
    let second = TensorData { name: "second", kind: GgmlType::F32, shape: &[32], data: &SECOND };
    for metadata in [pair, back] {
        write_file(&path, &metadata, &[first, second]).unwrap();
        rename("general.nama", "general.name");
        assert_eq!(roots(), [serde_json::Value::Null, serde_json::Value::Null]);
        let output = check("own");
        assert_eq!(output.status.code(), Some(1));
        let line = "DUPLICATE  metadata general.name: it is there more than once";
        assert!(text(&output).contains(line), "{}", text(&output));
    }
    assert_eq!(check("layers").status.code(), Some(4), "nothing of the metadata is listed");
}

/// As `git hash-object` has it.
fn git_blob(bytes: &[u8]) -> String {
    let mut blob = assayd::digest::GitBlob::new(bytes.len() as u64);
    blob.update(bytes);
    blob.finish()
}

#[test]
fn names_that_are_digests_are_checked() {
    let folder = folder();
    let bytes = fs::read(folder.path().join("m.gguf")).unwrap();
    let blobs = folder.path().join("blobs");
    fs::create_dir(&blobs).unwrap();
    for (name, code) in [
        (sha256(&bytes).to_string(), 0),
        (format!("sha256-{}", sha256(&bytes)), 0),
        (sha256(b"other").to_string(), 1),
        (format!("sha256-{}", sha256(b"other")), 1),
        (git_blob(&bytes), 0),
        ("0".repeat(40), 1),
    ] {
        fs::write(blobs.join(&name), &bytes).unwrap();
        let path = blobs.join(&name);
        assert_eq!(hash(folder.path(), &[path.to_str().unwrap()]).status.code(), Some(code), "{name}");
    }
    let link = folder.path().join("link.gguf");
    std::os::unix::fs::symlink(blobs.join(sha256(b"other").to_string()), &link).unwrap();
    assert_eq!(hash(folder.path(), &["link.gguf"]).status.code(), Some(1), "as the cache links to its blobs");
}

/// A tensor to write: name, type, shape and bytes.
#[derive(Clone)]
struct Tensor {
    name: String,
    kind: GgmlType,
    shape: Vec<u64>,
    data: Vec<u8>,
}

type Metadata = Vec<(String, Value)>;

fn example() -> (Metadata, Vec<Tensor>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/reference-f16.gguf");
    let bytes = fs::read(path).unwrap();
    let header = read_strict(&bytes.as_slice()).unwrap();
    let mut metadata: Metadata =
        header.metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    metadata.push((
        "tokenizer.chat_template".into(),
        "{% for m in messages %}{{ m.content }}{% endfor %}".into(),
    ));
    let tensors = header.tensors.iter().map(|tensor| Tensor {
        name: tensor.name.clone(),
        kind: tensor.kind,
        shape: tensor.shape.clone(),
        data: bytes[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize].to_vec(),
    });
    let tensors = tensors.collect();
    (metadata, tensors)
}

fn write_model(path: &Path, (metadata, tensors): &(Metadata, Vec<Tensor>)) {
    let metadata: Vec<(&str, Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let tensors: Vec<TensorData<'_>> = tensors
        .iter()
        .map(|t| TensorData { name: &t.name, kind: t.kind, shape: &t.shape, data: &t.data })
        .collect();
    write_file(path, &metadata, &tensors).unwrap();
}

/// Every way to change a real model gives a difference that is named.
#[test]
fn each_mutation_of_an_example_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let original = example();
    write_model(&folder.path().join("m.gguf"), &original);
    let list = hash(folder.path(), &["m.gguf"]);
    fs::write(folder.path().join("list"), text(&list)).unwrap();
    let check = || hash(folder.path(), &["m.gguf", "--check", "list"]);
    assert_eq!(check().status.code(), Some(0), "{}", text(&check()));
    let (a, b) = ("blk.0.attn_q.weight", "blk.1.attn_q.weight");
    fn at<'a>(tensors: &'a mut [Tensor], name: &str) -> &'a mut Tensor {
        tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }
    type Edit = fn(&mut Metadata, &mut Vec<Tensor>);
    let cases: [(&str, Edit, &[String]); 10] = [
        (
            "renamed",
            |_, tensors| at(tensors, "blk.0.attn_q.weight").name = "blk.0.attn_x.weight".into(),
            &[format!("RENAMED  tensor {a}: it is called blk.0.attn_x.weight now")],
        ),
        (
            "retyped",
            |_, tensors| at(tensors, "blk.0.attn_q.weight").kind = GgmlType::BF16,
            &[format!("RETYPED  tensor {a}: was F16 ")],
        ),
        (
            "reshaped",
            |_, tensors| {
                let tensor = at(tensors, "blk.0.attn_q.weight");
                tensor.shape = vec![tensor.shape.iter().product()];
            },
            &[format!("RETYPED  tensor {a}: was F16 ")],
        ),
        (
            "dropped",
            |_, tensors| tensors.retain(|tensor| tensor.name != "blk.0.attn_q.weight"),
            &[format!("MISSING  tensor {a}")],
        ),
        (
            "duplicated",
            |_, tensors| {
                let copy = at(tensors, "blk.0.attn_q.weight").clone();
                tensors.push(Tensor { name: "another".into(), ..copy });
            },
            &[format!("DUPLICATE  tensor another: it has the bytes of {a}")],
        ),
        (
            "swapped",
            |_, tensors| {
                let one = at(tensors, "blk.0.attn_q.weight").data.clone();
                let other = std::mem::replace(&mut at(tensors, "blk.1.attn_q.weight").data, one);
                at(tensors, "blk.0.attn_q.weight").data = other;
            },
            &[
                format!("SWAPPED  tensor {a}: it has the bytes of {b}"),
                format!("SWAPPED  tensor {b}: it has the bytes of {a}"),
            ],
        ),
        (
            "damaged",
            |_, tensors| at(tensors, "blk.0.attn_q.weight").data[4321] ^= 1,
            &[format!("CHANGED  tensor {a}")],
        ),
        (
            "template edited",
            |metadata, _| {
                metadata.retain(|(key, _)| key != "tokenizer.chat_template");
                metadata.push(("tokenizer.chat_template".into(), "{{ messages }}".into()));
            },
            &["CHANGED  metadata tokenizer.chat_template".to_owned()],
        ),
        (
            "metadata dropped",
            |metadata, _| metadata.retain(|(key, _)| key != "llama.rope.freq_base"),
            &["MISSING  metadata llama.rope.freq_base".to_owned()],
        ),
        (
            "order",
            |_, tensors| tensors.reverse(),
            &["note: every tensor and every metadata entry is as listed".to_owned()],
        ),
    ];
    for (what, edit, expected) in cases {
        let (mut metadata, mut tensors) = original.clone();
        edit(&mut metadata, &mut tensors);
        write_model(&folder.path().join("m.gguf"), &(metadata, tensors));
        let output = check();
        assert_eq!(output.status.code(), Some(1), "{what}: {}", text(&output));
        for line in expected {
            assert!(text(&output).contains(line.as_str()), "{what}: {line} in\n{}", text(&output));
        }
        // Nothing else is blamed but the file.
        let told = text(&output).lines().filter(|line| {
            !line.contains("file m.gguf") && !line.contains("as expected") && !line.starts_with("note")
        });
        let most = if what == "order" { 0 } else { expected.len() };
        assert_eq!(told.count(), most, "{what}: {}", text(&output));
    }
}

#[test]
fn a_chunk_is_proven_without_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("m.gguf"), &example());
    let (proof, code) = json(folder.path(), &["m.gguf", "--prove", "500000"]);
    assert_eq!(code, Some(0));
    let root = proof["file_root"].as_str().unwrap().to_owned();
    assert_eq!(proof["proof"]["root"], root.as_str());
    fs::write(folder.path().join("proof.json"), proof.to_string()).unwrap();
    let verify = |arguments: &[&str]| {
        hash(folder.path(), &[&["m.gguf", "--verify-proof", "proof.json"], arguments].concat()).status.code()
    };
    assert_eq!(verify(&[]), Some(0));
    assert_eq!(verify(&["--root", &root]), Some(0));
    assert_eq!(verify(&["--root", &"00".repeat(32)]), Some(1), "not that root");
    assert_eq!(verify(&["--root", "00"]), Some(2));
    let path = folder.path().join("m.gguf");
    let (offset, bytes) =
        (proof["proof"]["offset"].as_u64().unwrap(), proof["proof"]["bytes"].as_u64().unwrap());
    assert!((offset..offset + bytes).contains(&500_000));
    let good = fs::read(&path).unwrap();
    for (at, code) in [(offset, 1), (offset + bytes - 1, 1), (offset + bytes, 0), (offset - 1, 0)] {
        let mut bent = good.clone();
        bent[at as usize] ^= 1;
        fs::write(&path, bent).unwrap();
        assert_eq!(verify(&["--root", &root]), Some(code), "byte {at}");
    }
    let beyond = hash(folder.path(), &["m.gguf", "--prove", "99999999"]);
    assert_eq!(beyond.status.code(), Some(2));
}

/// The second time nothing is read, until the file changes in any way that can be seen.
#[test]
fn passes_are_kept_until_the_file_changes() {
    let folder = folder();
    let path = folder.path().join("m.gguf");
    let cached = |arguments: &[&str]| {
        let (document, code) = json(folder.path(), &[&["m.gguf"], arguments].concat());
        assert_eq!(code, Some(0));
        (document["files_from_cache"] == 1, document["files"][0]["sha256"].as_str().unwrap().to_owned())
    };
    let truth = || sha256(&fs::read(&path).unwrap()).to_string();
    assert_eq!(cached(&[]), (false, truth()));
    assert_eq!(cached(&[]), (false, truth()), "it was written a moment ago, and could change unseen");
    std::thread::sleep(std::time::Duration::from_millis(3100));
    assert_eq!(cached(&[]), (false, truth()), "the entry is too near to the file's last change");
    assert_eq!(cached(&[]), (true, truth()));
    assert_eq!(cached(&["--rehash"]), (false, truth()));
    assert_eq!(cached(&["--kind", "sha1"]), (false, truth()), "other digests were not kept");
    assert_eq!(cached(&[]), (true, truth()));
    // Another content under the old times: the time of change cannot be put back.
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
    assert_eq!(cached(&[]), (false, truth()));
    // A damaged entry is none, be it another digest in its place.
    let damage = |how: &dyn Fn(String) -> String| {
        for entry in fs::read_dir(folder.path().join("cache/passes")).unwrap() {
            let entry = entry.unwrap().path();
            fs::write(&entry, how(fs::read_to_string(&entry).unwrap())).unwrap();
        }
    };
    std::thread::sleep(std::time::Duration::from_millis(3100));
    assert_eq!(cached(&[]), (false, truth()));
    assert_eq!(cached(&[]), (true, truth()));
    damage(&|text| text.replace(&truth(), &sha256(b"other").to_string()));
    assert_eq!(cached(&[]), (false, truth()));
    assert_eq!(cached(&[]), (true, truth()), "the damaged one was replaced");
    damage(&|_| "{".to_owned());
    assert_eq!(cached(&[]), (false, truth()));
}
