//! `assayd hash` through the real binary: digests, roots, and lists checked.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assayd::digest::sha256;
use assayd::model::gguf::GgmlType;
use assayd::model::gguf::write::{TensorData, write_file};

fn hash(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_assayd"))
        .current_dir(folder)
        .arg("hash")
        .args(arguments)
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
    assert_eq!(tensors[0]["sha256"], sha256(&FIRST).to_string());
    assert_eq!(tensors[1]["sha256"], sha256(&SECOND).to_string());
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

#[test]
fn inspect_states_the_roots_in_the_full_pass_only() {
    let folder = folder();
    let inspect = |arguments: &[&str]| -> serde_json::Value {
        let output = Command::new(env!("CARGO_BIN_EXE_assayd"))
            .current_dir(folder.path())
            .args(["inspect", "--json", "m.gguf"])
            .args(arguments)
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
    for line in ["CHANGED  file m.gguf", "CHANGED  tensor second", "EXTRA  tensor third"] {
        assert!(text(&output).contains(line), "{line} in:\n{}", text(&output));
    }
    assert!(!text(&output).contains("tensor first"));
    write(&folder.path().join("m.gguf"), "m", &[("first", &FIRST)]);
    assert!(text(&check()).contains("MISSING  tensor second"));
}

#[test]
fn lists_of_others() {
    let folder = folder();
    let bytes = fs::read(folder.path().join("m.gguf")).unwrap();
    let good = sha256(&bytes).to_string();
    let bad = sha256(b"other").to_string();
    let (first, second) = (sha256(&FIRST), sha256(&SECOND));
    let all = sha256(&[&FIRST[..], &SECOND[..]].concat());
    let cases = [
        (format!("{good}  m.gguf\n"), 0),
        (format!("{good} *m.gguf\n{bad}  another.gguf\n"), 0),
        (format!("{bad}  m.gguf\n"), 1),
        (format!("{good}  another.gguf\n"), 4),
        ("nonsense\n".to_owned(), 4),
        (
            format!(
                "sha256    {first}  m.gguf:first\nsha256    {second}  m.gguf:second\nsha256    {all}  m.gguf\n"
            ),
            0,
        ),
        (
            format!(
                "sha256    {first}  m.gguf:first\nsha256    {second}  m.gguf:second\nsha256    {good}  m.gguf\n"
            ),
            1,
        ),
        (format!("sha256    {first}  renamed.gguf:first\nsha256    {second}  renamed.gguf:second\n"), 0),
        (format!("sha256    {first}  m.gguf:first\n"), 1),
        (format!("sha256    {first}  m.gguf:first\nsha256    {first}  m.gguf:second\n"), 1),
        ("xxh64     b75c5e0a2b7c1d3f  m.gguf:first\n".to_owned(), 4),
    ];
    for (list, code) in cases {
        fs::write(folder.path().join("list"), &list).unwrap();
        let output = hash(folder.path(), &["m.gguf", "--check", "list"]);
        assert_eq!(output.status.code(), Some(code), "{list}{}", text(&output));
    }
    let output = hash(folder.path(), &["m.gguf", "--check", "list"]);
    assert!(text(&output).contains("xxh64"), "an unsupported kind is named: {}", text(&output));
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
    ] {
        fs::write(blobs.join(&name), &bytes).unwrap();
        let path = blobs.join(&name);
        assert_eq!(hash(folder.path(), &[path.to_str().unwrap()]).status.code(), Some(code), "{name}");
    }
    let link = folder.path().join("link.gguf");
    std::os::unix::fs::symlink(blobs.join(sha256(b"other").to_string()), &link).unwrap();
    assert_eq!(hash(folder.path(), &["link.gguf"]).status.code(), Some(1), "as the cache links to its blobs");
}
