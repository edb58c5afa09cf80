//! `assayd inspect` through the real binary: exit codes, JSON, what people read.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assayd::model::gguf::write::{TensorData, write_file};
use assayd::model::gguf::{Array, GgmlType, Value};

fn assayd(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_assayd"))
        .current_dir(folder)
        .arg("inspect")
        .args(arguments)
        .env("ASSAYD_CACHE", folder.join("cache"))
        .output()
        .unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// A folder with a good file (a small importance matrix: whole, but no model), one that
/// is cut, and one that cannot be a model.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let data = [1u8; 256];
    let tensor = TensorData { name: "t", kind: GgmlType::F32, shape: &[64], data: &data };
    let metadata: [(&str, Value); 1] = [("general.type", "imatrix".into())];
    write_file(&folder.path().join("good.gguf"), &metadata, &[tensor]).unwrap();
    let mut bytes = fs::read(folder.path().join("good.gguf")).unwrap();
    bytes.truncate(bytes.len() - 100);
    fs::write(folder.path().join("cut.gguf"), bytes).unwrap();
    fs::write(folder.path().join("notes.md"), "text").unwrap();
    fs::write(folder.path().join("x.gguf.part"), "GG").unwrap();
    folder
}

#[test]
fn exit_codes() {
    let folder = folder();
    let code = |arguments: &[&str]| assayd(folder.path(), arguments).status.code();
    assert_eq!(code(&["good.gguf"]), Some(0));
    assert_eq!(code(&["good.gguf", "cut.gguf"]), Some(1));
    assert_eq!(code(&["cut.gguf", "missing.gguf"]), Some(4));
    assert_eq!(code(&["."]), Some(1));
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&["good.gguf", "--nonsense"]), Some(2));
    assert_eq!(code(&["--help"]), Some(0));
}

#[test]
fn json_is_one_document_with_an_object_per_path_in_order() {
    let folder = folder();
    let output = assayd(folder.path(), &["--json", "--full", "cut.gguf", "missing.gguf", "good.gguf"]);
    let document: serde_json::Value = serde_json::from_str(out(&output)).unwrap();
    let list = document.as_array().unwrap();
    let of = |key: &str| -> Vec<&str> { list.iter().map(|object| object[key].as_str().unwrap()).collect() };
    assert_eq!(of("path"), ["cut.gguf", "missing.gguf", "good.gguf"]);
    assert_eq!(of("status"), ["reject", "reject", "warn"]);
    assert_eq!(of("kind"), ["gguf", "unknown", "gguf"]);
    assert_eq!(list[0]["findings"][0]["code"], "truncated");
    assert_eq!(list[0]["findings"][0]["severity"], "error");
    assert_eq!(list[1]["findings"][0]["code"], "unreadable");
    for object in list {
        for key in [
            "path",
            "kind",
            "status",
            "findings",
            "format_version",
            "architecture",
            "parameters",
            "quantization",
            "context_length",
            "tensors",
            "files",
            "merkle_root",
            "config_hash",
            "tokenizer_hash",
        ] {
            assert!(object.get(key).is_some(), "{key} must be there, if only as null");
        }
    }
    let digest = list[2]["files"][0]["sha256"].as_str().unwrap();
    let expected = assayd::digest::sha256_file(&folder.path().join("good.gguf"), &mut |_, _| {}).unwrap();
    assert_eq!(digest, expected.to_string());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("missing.gguf"),
        "problems go to standard error"
    );
}

#[test]
fn people_get_code_place_and_remedy() {
    let folder = folder();
    let text = out(&assayd(folder.path(), &["cut.gguf"])).to_owned();
    for part in ["REJECT", "cut.gguf", "[truncated]", "at byte", "what to do:", "Download it again"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    assert!(!text.contains("what it means"));
    let text = out(&assayd(folder.path(), &[".", "--explain"])).to_owned();
    for part in
        ["what it means", "Ignored:", "notes.md", "x.gguf.part", "still being downloaded", "1 rejected"]
    {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    // Also where nothing is left.
    fs::create_dir(folder.path().join("no")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("no/m.gguf")).unwrap();
    let output = assayd(folder.path(), &["no", "--explain"]);
    assert_eq!(output.status.code(), Some(4));
    for part in ["holds no model", "no/m.gguf: it is a symbolic link that leads out of the folder"] {
        assert!(
            format!("{}{}", out(&output), String::from_utf8_lossy(&output.stderr)).contains(part),
            "{part}"
        );
    }
}

/// A document on its own is no model: it is warned of, with every marker and placeholder and what
/// to do about them, and it is never rejected for what it says.
#[test]
fn a_document_is_looked_through() {
    let folder = tempfile::tempdir().unwrap();
    let conflict = "<<<<<<< HEAD\nours\n=======\ntheirs\n>>>>>>> topic\n";
    fs::write(folder.path().join("plan.md"), format!("Plan\n=======\n{}", conflict.repeat(10))).unwrap();
    fs::write(folder.path().join("card.md"), "[![badge](x)](y)\n# {MODEL_NAME}\n").unwrap();
    fs::write(folder.path().join("page.md"), "<!doctype html><p>text\n").unwrap();
    fs::write(folder.path().join("program.md"), b"\x7fELF and more").unwrap();
    fs::write(folder.path().join("empty.md"), "").unwrap();
    let names = ["plan.md", "card.md", "page.md", "program.md", "empty.md"];
    let output = assayd(folder.path(), &[&["--json", "--full"][..], &names].concat());
    let list: serde_json::Value = serde_json::from_str(out(&output)).unwrap();
    let codes = |place: usize, code: &str| {
        let findings = list[place]["findings"].as_array().unwrap().iter();
        findings.filter(|finding| finding["code"] == code).count()
    };
    assert_eq!(codes(0, "merge-marker"), 30);
    assert_eq!(list[0]["findings"][0]["offset"], "Plan\n=======\n".len());
    assert_eq!((codes(1, "open-placeholder"), codes(2, "open-placeholder")), (1, 0));
    for (place, status) in ["warn", "warn", "warn", "reject", "reject"].into_iter().enumerate() {
        assert_eq!(
            (&list[place]["kind"], &list[place]["status"]),
            (&"unknown".into(), &status.into()),
            "{list}"
        );
    }
    assert_eq!((codes(3, "disguised-format"), codes(4, "empty")), (1, 1));
    let digest = assayd::digest::sha256_file(&folder.path().join("card.md"), &mut |_, _| {}).unwrap();
    assert_eq!(list[1]["files"][0]["sha256"], digest.to_string());
    let output = assayd(folder.path(), &["--explain", "card.md"]);
    assert_eq!(output.status.code(), Some(0));
    for part in
        ["WARN", "line 2", "{MODEL_NAME}", "[open-placeholder] at byte 19", "what it means", "what to do"]
    {
        assert!(out(&output).contains(part), "{part} in:\n{}", out(&output));
    }
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = folder();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let output = assayd(folder.path(), &["empty"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds no model"));
    let pipe = folder.path().join("pipe.gguf");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    // Opening a pipe without a writer would wait for ever.
    let output = assayd(folder.path(), &["pipe.gguf"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a regular file"));
}

/// Forty gigabytes of which only the header is there: reading it takes no longer than that
/// of a small file.
#[test]
fn a_sparse_file_of_40_gigabytes_takes_less_than_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    let tensors = 40u64;
    header.extend(tensors.to_le_bytes());
    header.extend(1u64.to_le_bytes());
    header.extend([text("general.type"), 8u32.to_le_bytes().to_vec(), text("imatrix")].concat());
    let (columns, rows) = (16_384u64, 16_384u64);
    let bytes = columns * rows * 4;
    for number in 0..tensors {
        header.extend(text(&format!("t{number}")));
        header.extend(2u32.to_le_bytes());
        header.extend(columns.to_le_bytes());
        header.extend(rows.to_le_bytes());
        header.extend(0u32.to_le_bytes());
        header.extend((number * bytes).to_le_bytes());
    }
    header.resize(header.len().next_multiple_of(32), 0);
    fs::write(&path, &header).unwrap();
    let size = header.len() as u64 + tensors * bytes;
    assert!(size > 40_000_000_000);
    fs::File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
    let began = std::time::Instant::now();
    let output = assayd(folder.path(), &["large.gguf", "--json"]);
    let took = began.elapsed();
    assert_ne!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_str(out(&output)).unwrap();
    assert_eq!(document[0]["tensors"], tensors);
    assert_eq!(document[0]["parameters"], tensors * columns * rows);
    assert_eq!(document[0]["files"][0]["bytes"], size);
    assert!(document[0]["files"][0]["sha256"].is_null(), "nothing was hashed");
    assert_ne!(document[0]["status"], "reject", "{document}");
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
}

/// Whatever names, metadata and paths hold: of it people see what is there, on as few lines as the
/// program means to write.
#[test]
fn nothing_from_a_file_steers_a_terminal_or_hides_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = "x\u{1b}]0;pwn\u{7}\u{1b}[31m\u{9b}31m\u{202e}LTR\u{2066}\u{200b}\u{e0041}\r";
    let model = format!("{hostile}.gguf");
    let data = [1u8; 256];
    let tensor = TensorData { name: "t\u{202e}\u{200b}", kind: GgmlType::F32, shape: &[64], data: &data };
    let metadata: [(&str, Value); 3] = [
        ("general.architecture", hostile.into()),
        ("tokenizer.chat_template", format!("{{{{ ''.__class__ }}}}{hostile}").as_str().into()),
        (hostile, hostile.into()),
    ];
    write_file(&folder.path().join(&model), &metadata, &[tensor]).unwrap();
    let missing = format!("no{hostile}.gguf");
    let list = format!("{hostile}.list");
    fs::write(folder.path().join(&list), format!("{}  {hostile}\n", "0".repeat(64))).unwrap();
    let document = format!("{hostile}.md");
    fs::write(folder.path().join(&document), format!("{{EVIL}}{hostile}\n<<<<<<< {hostile}\n")).unwrap();
    let commands: Vec<Vec<&str>> = vec![
        vec!["inspect", "--explain", &model, &document, &missing],
        vec!["inspect", "--full", "--cache", &document, &model],
        vec!["hash", &model],
        vec!["hash", &model, "--kind", "xxh64"],
        vec!["hash", &model, "--check", &list],
        vec!["hash", &missing],
        vec!["lineage", &model, "--reference", &model],
        vec!["estimate", &model],
        vec!["models", "."],
        vec!["models", &model],
        vec!["logprobs", &model, "--tokens", &list],
        vec!["plugin", "check", &model],
        vec!["bundle", "verify", &model],
        vec!["bundle", "verify", &missing],
        vec!["keys", "pin", hostile, hostile],
        vec![hostile],
    ];
    for arguments in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_assayd"))
            .current_dir(folder.path())
            .args(&arguments)
            .env("XDG_CACHE_HOME", folder.path().join("cache"))
            .env("XDG_DATA_HOME", folder.path())
            .output()
            .unwrap();
        let text = [&output.stdout[..], &output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(!text.is_empty(), "{arguments:?}");
        assert_eq!(text, assayd::domain::text::page(&text), "{arguments:?}");
    }
}

/// A metadata text of megabytes: nobody is shown all of it, and no program gets it again and again.
/// The largest vocabularies in use, as JSON and as GGUF, under a limit that the operating system keeps.
#[test]
fn a_large_vocabulary_takes_less_than_64_megabytes() {
    const TOKENS: usize = 262_144;
    let folder = tempfile::tempdir().unwrap();
    let tokens = || (0..TOKENS).map(|id| format!("\u{2581}token{id}"));
    let merges = || (0..2 * TOKENS).map(|place| (format!("\u{2581}le{place}"), format!("ft{place}")));
    let hf = folder.path().join("hf");
    fs::create_dir(&hf).unwrap();
    let vocab: Vec<String> = tokens().enumerate().map(|(id, token)| format!("\"{token}\": {id}")).collect();
    let pairs: Vec<String> = merges()
        .map(|(left, right)| format!("[\n        \"{left}\",\n        \"{right}\"\n      ]"))
        .collect();
    let text = format!(
        "{{\"model\":{{\"type\":\"BPE\",\"vocab\":{{{}}},\"merges\":[{}]}}}}",
        vocab.join(",\n      "),
        pairs.join(",\n      ")
    );
    fs::write(hf.join("tokenizer.json"), text).unwrap();
    fs::write(hf.join("config.json"), "{\"model_type\": \"novel\"}").unwrap();
    fs::write(hf.join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
    let entries: [(&str, Value); 4] = [
        ("general.architecture", "llama".into()),
        ("tokenizer.ggml.model", "gpt2".into()),
        ("tokenizer.ggml.tokens", Array::of_strings(tokens()).into()),
        (
            "tokenizer.ggml.merges",
            Array::of_strings(merges().map(|(left, right)| format!("{left} {right}"))).into(),
        ),
    ];
    write_file(&folder.path().join("m.gguf"), &entries, &[]).unwrap();
    for path in ["hf", "m.gguf"] {
        let output = Command::new("sh")
            .current_dir(folder.path())
            .args(["-c", "ulimit -d 65536 && exec \"$0\" inspect --full --json \"$1\""])
            .args([env!("CARGO_BIN_EXE_assayd"), path])
            .env("ASSAYD_CACHE", folder.path().join("cache"))
            .output()
            .unwrap();
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{path}: {}", String::from_utf8_lossy(&output.stderr)));
        assert!(document[0]["tokenizer_hash"].is_string(), "{document}");
    }
}

/// File names are bytes, and JSON is Unicode: one such name spoils no document.
#[test]
fn names_that_are_no_unicode() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = folder();
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"od\xff.gguf"));
    fs::copy(folder.path().join("good.gguf"), odd).unwrap();
    for arguments in [&["--json", "."][..], &["--json", "--full", "."]] {
        let output = assayd(folder.path(), arguments);
        let document: serde_json::Value = serde_json::from_str(out(&output)).unwrap();
        let paths: Vec<&str> =
            document.as_array().unwrap().iter().map(|object| object["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["./cut.gguf", "./good.gguf", "./od\u{fffd}.gguf"]);
    }
}

/// A blob is called after its digest; a full pass knows whether it is right.
#[test]
fn a_blob_that_is_not_what_its_name_says() {
    let folder = folder();
    let blobs = folder.path().join("blobs");
    fs::create_dir(&blobs).unwrap();
    let bytes = fs::read(folder.path().join("good.gguf")).unwrap();
    let own = assayd::digest::sha256(&bytes).to_string();
    for (name, status) in [(format!("sha256-{own}"), "warn"), (own, "warn"), ("0".repeat(64), "reject")] {
        fs::write(blobs.join(&name), &bytes).unwrap();
        let path = format!("blobs/{name}");
        let output = assayd(folder.path(), &["--json", "--full", &path]);
        let document: serde_json::Value = serde_json::from_str(out(&output)).unwrap();
        assert_eq!(document[0]["status"], status, "{name}");
        let told = document[0]["findings"][0]["code"] == "name-digest";
        assert_eq!(told, status == "reject", "{name}");
        let quick = assayd(folder.path(), &["--json", &path]);
        assert!(!out(&quick).contains("name-digest"), "nothing was read");
    }
}

/// A part that is a link to somewhere else is told of, as other files of a model are.
#[test]
fn parts_of_a_set_that_are_elsewhere() {
    let folder = folder();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("set")).unwrap();
    let part = |number: u32| folder.path().join(format!("set/m-{number:05}-of-00002.gguf"));
    fs::copy(folder.path().join("good.gguf"), part(1)).unwrap();
    fs::copy(folder.path().join("good.gguf"), outside.path().join("x.gguf")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("x.gguf"), part(2)).unwrap();
    let looked = |path: &str| out(&assayd(folder.path(), &[path])).to_owned();
    assert!(looked("set/m-00001-of-00002.gguf").contains("m-00002-of-00002.gguf is a symbolic link"));
    // One within is fine; and a part that never came is called what it is.
    fs::remove_file(part(2)).unwrap();
    std::os::unix::fs::symlink("m-00001-of-00002.gguf", part(2)).unwrap();
    assert!(!looked("set/m-00001-of-00002.gguf").contains("symbolic link"));
    fs::remove_file(part(2)).unwrap();
    fs::write(part(2), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap();
    assert!(looked("set/m-00001-of-00002.gguf").contains("[lfs-pointer]"));
}

#[test]
fn long_texts_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let long = "a".repeat(15 << 20);
    let tensor = TensorData { name: "t", kind: GgmlType::F32, shape: &[64], data: &[1u8; 256] };
    let metadata: [(&str, Value); 1] = [("general.architecture", long.as_str().into())];
    write_file(&folder.path().join("long.gguf"), &metadata, &[tensor]).unwrap();
    for (arguments, most) in [(&["long.gguf"][..], 32 << 10), (&["--json", "long.gguf"], 128 << 10)] {
        let output = assayd(folder.path(), arguments);
        assert!(out(&output).contains('…'), "{arguments:?}");
        assert!(output.stdout.len() < most, "{arguments:?}: {} bytes", output.stdout.len());
    }
}

/// A folder for passes that cannot be used is no reason not to make one, and it is told.
#[test]
fn a_cache_that_cannot_be_used_is_told() {
    let folder = folder();
    let said = |cache: &str| {
        let output = assayd(folder.path(), &["--full", "--cache", cache, "good.gguf"]);
        assert_eq!(output.status.code(), Some(0), "{cache}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said("notes.md").contains("warning: nothing is kept of this pass: notes.md"));
    assert_eq!(said("other"), "");
}
