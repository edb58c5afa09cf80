//! What others write: lists of other programs, manifests of registries and pipelines, signatures.

use super::*;

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
        serde_json::from_str(include_str!("../../src/model/signature/peer.json")).unwrap();
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
    // A list of tensors needs a model.
    let list = hash(folder.path(), &["model/a.gguf"]).stdout;
    fs::write(folder.path().join("list"), list).unwrap();
    assert_eq!(hash(folder.path(), &["model", "--check", "list"]).status.code(), Some(2));
}

/// One list for several quantisations in one folder, as repositories have it.
#[test]
fn a_list_of_files_is_checked_for_a_folder_of_several_models() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for name in ["a.gguf", "b.gguf"] {
        write(&model.join(name), name, &[("first", &FIRST)]);
    }
    fs::write(model.join("README.md"), "read me").unwrap();
    fs::write(folder.path().join("outside"), "x").unwrap();
    let sum = |name: &str| sha256(&fs::read(model.join(name)).unwrap());
    let list = format!("{}  a.gguf\n{} *./b.gguf\n", sum("a.gguf"), sum("b.gguf"));
    fs::write(model.join("SHA256SUMS"), &list).unwrap();
    let check = |list: &str| hash(folder.path(), &["model", "--check", list]);
    let output = check("model/SHA256SUMS");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("2 of 2 as expected"), "{}", text(&output));
    // From above, the same files have longer names; what lies elsewhere is not read.
    let above = format!("{}  model/a.gguf\n{}  outside\n", sum("a.gguf"), sum("a.gguf"));
    fs::write(folder.path().join("above"), above).unwrap();
    let output = check("above");
    assert!(text(&output).contains("1 of 1 as expected"), "{}", text(&output));
    fs::write(model.join("b.gguf"), "other").unwrap();
    fs::remove_file(model.join("a.gguf")).unwrap();
    let output = check("model/SHA256SUMS");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("MISSING  file a.gguf") && said.contains("CHANGED  file b.gguf"), "{said}");
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
