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
        ("xxh64     b75c5e0a2b7c1d3f  m.gguf:first\n".to_owned(), 1),
        ("md5       b75c5e0a2b7c1d3f  m.gguf:first\n".to_owned(), 4),
    ];
    for (list, code) in cases {
        fs::write(folder.path().join("list"), &list).unwrap();
        let output = hash(folder.path(), &["m.gguf", "--check", "list"]);
        assert_eq!(output.status.code(), Some(code), "{list}{}", text(&output));
    }
    let output = hash(folder.path(), &["m.gguf", "--check", "list"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 1 is of none of"), "the line is named");
}

/// What it prints in the form of `llama-gguf-hash` is checked in that form.
#[test]
fn every_kind_of_llama_gguf_hash() {
    let folder = folder();
    let kinds = ["sha256", "sha1", "xxh64", "xxh3", "uuid"];
    let arguments: Vec<&str> = kinds.iter().flat_map(|kind| ["--kind", kind]).collect();
    let printed = hash(folder.path(), &[&["m.gguf"], arguments.as_slice()].concat());
    let lines: Vec<&str> =
        text(&printed).lines().filter(|line| kinds.iter().any(|kind| line.starts_with(kind))).collect();
    assert_eq!(lines.len(), 2 * 4 + 5, "{}", text(&printed));
    fs::write(folder.path().join("list"), lines.join("\n")).unwrap();
    let check = || hash(folder.path(), &["m.gguf", "--check", "list"]);
    assert_eq!(check().status.code(), Some(0), "{}", text(&check()));
    assert!(text(&check()).contains("13 of 13 as expected"));
    let mut changed = FIRST;
    changed[0] = 9;
    write(&folder.path().join("m.gguf"), "m", &[("first", &changed), ("second", &SECOND)]);
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    let count = |what: &str| text(&output).lines().filter(|line| line.starts_with(what)).count();
    assert_eq!((count("CHANGED  tensor first"), count("CHANGED  weights of")), (4, 5), "{}", text(&output));
}

#[test]
fn manifests_of_registries() {
    let folder = folder();
    let bytes = fs::read(folder.path().join("m.gguf")).unwrap();
    let digest = sha256(&bytes);
    let manifest = |digest: String, size: usize| {
        serde_json::json!({
            "schemaVersion": 2,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": format!("sha256:{}", sha256(b"{}")), "size": 2},
            "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": format!("sha256:{digest}"), "size": size}],
        })
        .to_string()
    };
    let pointer = |digest: String| {
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {}\n", bytes.len())
    };
    let other = sha256(b"other").to_string();
    for (list, code) in [
        (manifest(digest.to_string(), bytes.len()), 0),
        (manifest(other.clone(), bytes.len()), 1),
        (manifest(digest.to_string(), bytes.len() + 1), 1),
        (pointer(digest.to_string()), 0),
        (pointer(other), 1),
        ("{\"layers\": []}".to_owned(), 4),
    ] {
        fs::write(folder.path().join("list"), &list).unwrap();
        let output = hash(folder.path(), &["m.gguf", "--check", "list"]);
        assert_eq!(output.status.code(), Some(code), "{list}{}", text(&output));
    }
    // In ollama's own folder the other layers are looked at, too.
    let blobs = folder.path().join("blobs");
    fs::create_dir(&blobs).unwrap();
    let blob = blobs.join(format!("sha256-{digest}"));
    fs::write(&blob, &bytes).unwrap();
    fs::write(folder.path().join("list"), manifest(digest.to_string(), bytes.len())).unwrap();
    let check = || hash(folder.path(), &[blob.to_str().unwrap(), "--check", "list"]);
    assert_eq!(check().status.code(), Some(1), "the configuration is missing");
    let config = blobs.join(format!("sha256-{}", sha256(b"{}")));
    fs::write(&config, "{}").unwrap();
    assert_eq!(check().status.code(), Some(0), "{}", text(&check()));
    fs::write(&config, "[]").unwrap();
    assert_eq!(check().status.code(), Some(1));
}

/// A pipeline's manifest, as it should be and in both of the older forms; what cannot prove
/// anything, or names a file elsewhere, is no pass.
#[test]
fn manifests_of_pipelines() {
    let folder = folder();
    let bytes = fs::read(folder.path().join("m.gguf")).unwrap();
    let (size, digest) = (bytes.len(), sha256(&bytes).to_string());
    let item = serde_json::json!({"type": "gguf", "format": "gguf", "method": "Q4_K_M", "path": "gguf/Q4_K_M/m.gguf",
        "sha256": digest, "size_bytes": size});
    let with = |key: &str, value: serde_json::Value| {
        let mut item = item.clone();
        item[key] = value;
        serde_json::json!({"version": "1.0", "formats": [{"type": "mlx", "path": "mlx/other.safetensors"}, item]})
    };
    let old = serde_json::json!({"format": "gguf", "file_path": "m.gguf", "file_size_bytes": size});
    let mut worse = old.clone();
    worse["file_size_bytes"] = (size + 1).into();
    for (document, code, words) in [
        (with("method", "Q4_K_M".into()), 0, "1 of 1 as expected"),
        (with("sha256", sha256(b"other").to_string().into()), 1, "CHANGED"),
        (with("size_bytes", (size + 1).into()), 1, "CHANGED"),
        (with("path", "gguf/n.gguf".into()), 4, "names no file of this artifact"),
        (with("path", "../m.gguf".into()), 4, "outside of its folder"),
        (with("path", "/m.gguf".into()), 4, "outside of its folder"),
        (with("path", "a\\m.gguf".into()), 4, "outside of its folder"),
        (with("path", serde_json::Value::Null), 4, "has no path"),
        (with("sha256", "abc".into()), 4, "has a sha256 that is none"),
        (with("size_bytes", "many".into()), 4, "has a size that is no number"),
        (serde_json::json!({"formats": [old]}), 4, "no sha256 of m.gguf"),
        (serde_json::json!({"formats": [worse]}), 1, "CHANGED"),
        (
            serde_json::json!({"formats": {"gguf": {"file": "m.gguf", "sha256": digest}}}),
            0,
            "1 of 1 as expected",
        ),
        (
            serde_json::json!({"formats": {"gguf": {"file": "m.gguf", "sha256": sha256(b"").to_string()}}}),
            1,
            "CHANGED",
        ),
        (serde_json::json!({"formats": []}), 4, "must list"),
        (serde_json::json!({"formats": "m.gguf"}), 4, "neither a list nor an object"),
        (serde_json::json!({"formats": vec![item.clone(); 1001]}), 4, "must list"),
        // Formats of one name in several folders: this one is the second.
        (
            serde_json::json!({"formats": [{"path": "q8/m.gguf", "sha256": sha256(b"").to_string()}, item]}),
            0,
            "1 of 1 as expected",
        ),
        (
            serde_json::json!({"formats": [{"path": "m.gguf", "sha256": digest, "bytes": size + 1}]}),
            1,
            "CHANGED",
        ),
    ] {
        fs::write(folder.path().join("manifest.json"), document.to_string()).unwrap();
        let output = hash(folder.path(), &["m.gguf", "--check", "manifest.json"]);
        let said = format!("{}{}", text(&output), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{document}\n{said}");
        assert!(said.contains(words), "{words} in:\n{said}");
    }
}

/// Every part of a set counts: a second one that differs, or of which nothing is said.
#[test]
fn a_pipeline_s_manifest_speaks_of_every_part() {
    let folder = tempfile::tempdir().unwrap();
    let parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    let item = |part: &str| {
        let path = folder.path().join(part);
        serde_json::json!({"path": format!("gguf/{part}"), "sha256": sha256(&fs::read(path).unwrap()).to_string()})
    };
    for (number, part) in (0u16..).zip(parts) {
        let metadata = [
            ("split.no", Value::U16(number)),
            ("split.count", Value::U16(2)),
            ("split.tensors.count", Value::I32(2)),
        ];
        let name = format!("tensor{number}");
        let tensor = TensorData { name: &name, kind: GgmlType::F32, shape: &[64], data: &FIRST };
        write_file(&folder.path().join(part), &metadata, &[tensor]).unwrap();
    }
    let [first, second] = parts.map(item);
    let mut other = second.clone();
    other["sha256"] = sha256(b"").to_string().into();
    for (formats, code, words) in [
        (vec![&first, &second], 0, "2 of 2 as expected"),
        (vec![&first, &other], 1, "CHANGED"),
        (vec![&first], 4, "m-00002-of-00002.gguf is not in the manifest"),
    ] {
        let document = serde_json::json!({"formats": formats});
        fs::write(folder.path().join("manifest.json"), document.to_string()).unwrap();
        let output = hash(folder.path(), &[parts[0], "--check", "manifest.json"]);
        let said = format!("{}{}", text(&output), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{document}\n{said}");
        assert!(said.contains(words), "{words} in:\n{said}");
    }
}

/// A signature is checked for its folder, whatever models that holds: one, none, several.
#[test]
fn a_signed_folder_need_not_be_one_model() {
    let made: serde_json::Value =
        serde_json::from_str(include_str!("../src/model/signature/peer.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    let weights: Vec<u8> = (0..300u32).map(|i| (i * 7 % 251) as u8).collect();
    fs::write(model.join("weights.bin"), &weights).unwrap();
    fs::write(model.join("config.json"), "{\"hidden_size\": 64}\n").unwrap();
    fs::write(model.join("a b.txt"), [b'x'; 128]).unwrap();
    fs::write(folder.path().join("own.pub"), made["key"].as_str().unwrap()).unwrap();
    fs::write(folder.path().join("model.sig"), made["shards"].to_string()).unwrap();
    let check = || {
        let (document, code) = json(folder.path(), &["model", "--check", "model.sig", "--key", "own.pub"]);
        let bad = document["check"]["checked"].as_array().unwrap().iter();
        let bad = bad.filter(|checked| checked["outcome"] != "ok");
        let named = |key: &serde_json::Value| key.as_str().unwrap().to_owned();
        let bad: Vec<_> = bad.map(|checked| (named(&checked["outcome"]), named(&checked["name"]))).collect();
        (code, bad, document["status"].is_null())
    };
    let (code, bad, _) = check();
    assert_eq!((code, bad), (Some(0), vec![]));
    fs::remove_file(model.join("weights.bin")).unwrap();
    let missing = |name: &str| ("missing".to_owned(), name.to_owned());
    let shards = ["weights.bin:0:128", "weights.bin:128:256", "weights.bin:256:300"].map(missing);
    assert_eq!(check(), (Some(1), shards.to_vec(), true));
    fs::write(model.join("weights.bin"), &weights).unwrap();
    for name in ["a.gguf", "b.gguf"] {
        write(&model.join(name), "m", &[("first", &FIRST)]);
    }
    let extra = |name: &str| ("extra".to_owned(), name.to_owned());
    assert_eq!(check(), (Some(1), vec![extra("a.gguf"), extra("b.gguf")], true));
    // Any other list needs a model.
    let list = hash(folder.path(), &["model/a.gguf"]).stdout;
    fs::write(folder.path().join("list"), list).unwrap();
    assert_eq!(hash(folder.path(), &["model", "--check", "list"]).status.code(), Some(2));
}

/// Who names a key wants a signature: a list of digests is none, whatever it says.
#[test]
fn a_key_needs_a_signature() {
    let folder = folder();
    let list = hash(folder.path(), &["m.gguf"]).stdout;
    fs::write(folder.path().join("list"), list).unwrap();
    assert_eq!(hash(folder.path(), &["m.gguf", "--check", "list"]).status.code(), Some(0));
    for option in ["--key", "--roots"] {
        let output = hash(folder.path(), &["m.gguf", "--check", "list", option, "any.pem"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("no signature") && said.contains(option), "{said}");
        assert!(output.stdout.is_empty());
    }
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
