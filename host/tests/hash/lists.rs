//! Lists against folders, sets and files: what counts, what does not, and how things are called.

use std::os::unix::fs::symlink;

use super::*;

/// A list as `sha256sum` writes it: names, and the files they are of.
fn sums(folder: &Path, names: &[(&str, &str)]) -> String {
    let line =
        |(name, file): &(&str, &str)| format!("{}  {name}\n", sha256(&fs::read(folder.join(file)).unwrap()));
    names.iter().map(line).collect()
}

/// Exit code and words of a check.
#[track_caller]
fn checked(folder: &Path, path: &str, list: &str, code: i32, words: &[&str]) {
    let output = hash(folder, &[path, "--check", list]);
    let said = format!("{}{}", text(&output), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}");
    words.iter().for_each(|words| assert!(said.contains(words), "{words} in:\n{said}"));
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
}

/// A file of weights with one tensor.
fn weights(name: &str, value: u8) -> Vec<u8> {
    let json = format!(
        r#"{{"__metadata__":{{"format":"pt"}},"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#
    );
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &[value; 8]].concat()
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const FILES: [&str; 6] = [
    SHARDS[0],
    SHARDS[1],
    "config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "additional_chat_templates/rag.jinja",
];

/// A folder `hf` as Hugging Face lays it out, and what else people publish in it.
fn hf() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let within = folder.path().join("hf");
    fs::create_dir_all(within.join("additional_chat_templates")).unwrap();
    fs::create_dir_all(within.join("sub")).unwrap();
    for name in FILES.into_iter().chain(["README.md", "code.py", "sub/more.json"]) {
        fs::write(within.join(name), "{}").unwrap();
    }
    fs::write(within.join(SHARDS[0]), weights("a", 1)).unwrap();
    fs::write(within.join(SHARDS[1]), weights("b", 2)).unwrap();
    folder
}

/// Whoever checks a folder relies on every line that is about something in it.
#[test]
fn all_that_is_listed_below_a_folder_counts() {
    let all: Vec<&str> = FILES.into_iter().chain(["README.md", "code.py", "sub/more.json"]).collect();
    // Where the list is kept, and what its names begin with.
    for (list, prefix) in [
        ("sums", ""),
        ("hf/SHA256SUMS", ""),
        ("sums", "hf/"),
        ("lists/sums", "hf/"),
        ("lists/sums", "/data/models/hf/"),
        ("sums", "./"),
        ("sums", "of-old/"),
    ] {
        let folder = hf();
        fs::create_dir(folder.path().join("lists")).unwrap();
        let at = |name: &str| folder.path().join("hf").join(name);
        let names: Vec<(String, String)> =
            all.iter().map(|name| (format!("{prefix}{name}"), format!("hf/{name}"))).collect();
        let names: Vec<(&str, &str)> = names.iter().map(|(name, file)| (&**name, &**file)).collect();
        fs::write(folder.path().join(list), sums(folder.path(), &names)).unwrap();
        let check = |code: i32, words: &[&str]| checked(folder.path(), "hf", list, code, words);
        check(0, &["9 of 9 as expected"]);
        for name in &all {
            let good = fs::read(at(name)).unwrap();
            fs::write(at(name), weights("x", 9)).unwrap();
            check(1, &[&format!("CHANGED  file {name}\n"), "8 of 9 as expected"]);
            fs::remove_file(at(name)).unwrap();
            if *name != "config.json" {
                check(1, &[&format!("MISSING  file {name}\n"), "8 of 9 as expected"]);
            }
            fs::write(at(name), good).unwrap();
        }
        check(0, &["9 of 9 as expected"]);
    }
}

/// Nothing outside of the folder is read, whatever the list says or the folder holds.
#[test]
fn a_list_does_not_lead_out_of_the_folder() {
    let folder = hf();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("secret"), "secret").unwrap();
    let good = FILES.map(|name| (name.to_owned(), format!("hf/{name}")));
    let good: Vec<(&str, &str)> = good.iter().map(|(name, file)| (&**name, &**file)).collect();
    let good = sums(folder.path(), &good);
    let more = |name: &str, file: &str| {
        fs::write(at("sums"), good.clone() + &sums(folder.path(), &[(name, file)])).unwrap();
    };
    let not_checked =
        |words: &str| checked(folder.path(), "hf", "sums", 4, &["NOT CHECKED", words, "6 of 6"]);
    more("../secret", "secret");
    not_checked("../secret leads out of the folder");
    more("sub/../../secret", "secret");
    not_checked("leads out of the folder");
    symlink("../secret", at("hf/link")).unwrap();
    more("link", "secret");
    not_checked("link is a symbolic link that leads out of the folder");
    symlink("..", at("hf/up")).unwrap();
    more("up/secret", "secret");
    not_checked("leads out of the folder");
    more("sub", "secret");
    not_checked("sub is no regular file");
    symlink("README.md", at("hf/inner")).unwrap();
    more("inner", "hf/README.md");
    checked(folder.path(), "hf", "sums", 0, &["7 of 7"]);
    symlink("nowhere", at("hf/dangling")).unwrap();
    more("dangling", "secret");
    checked(folder.path(), "hf", "sums", 1, &["MISSING  file dangling"]);
    // Elsewhere is elsewhere.
    let beside = FILES.map(|name| (format!("hf/{name}"), format!("hf/{name}")));
    let mut beside: Vec<(&str, &str)> = beside.iter().map(|(name, file)| (&**name, &**file)).collect();
    beside.push(("secret", "secret"));
    fs::write(at("sums"), sums(folder.path(), &beside)).unwrap();
    checked(folder.path(), "hf", "sums", 0, &["note: lines about other files: 1, not looked at\n", "6 of 6"]);
    // As `sha256sum * > SHA256SUMS` has it, which makes the list before it reads it.
    fs::write(at("hf/SHA256SUMS"), format!("{good}{}  SHA256SUMS\n", sha256(b""))).unwrap();
    checked(folder.path(), "hf", "hf/SHA256SUMS", 0, &["note: SHA256SUMS is the list", "6 of 6"]);
}

#[test]
fn its_own_list_of_a_folder() {
    let folder = hf();
    let at = |name: &str| folder.path().join("hf").join(name);
    let list = || fs::write(folder.path().join("list"), text(&hash(folder.path(), &["hf"]))).unwrap();
    list();
    let check = |code: i32, words: &[&str]| checked(folder.path(), "hf", "list", code, words);
    check(0, &["10 of 10 as expected"]);
    for name in FILES.into_iter().skip(3) {
        let good = fs::read(at(name)).unwrap();
        fs::write(at(name), "{ }").unwrap();
        check(1, &[&format!("CHANGED  file {name}\n"), "9 of 10 as expected"]);
        fs::remove_file(at(name)).unwrap();
        check(1, &[&format!("MISSING  file {name}\n"), "9 of 10 as expected"]);
        list();
        fs::write(at(name), good).unwrap();
        check(1, &[&format!("EXTRA  file {name}\n")]);
        list();
    }
    fs::remove_file(at(SHARDS[1])).unwrap();
    check(
        1,
        &[
            &format!("MISSING  file {}\n", SHARDS[1]),
            "MISSING  tensor b",
            "MISSING  metadata format of part 1",
        ],
    );
    // Renamed as a whole, and one file renamed.
    let folder = hf();
    fs::write(folder.path().join("list"), text(&hash(folder.path(), &["hf"]))).unwrap();
    fs::rename(folder.path().join("hf"), folder.path().join("other")).unwrap();
    checked(folder.path(), "other", "list", 0, &["10 of 10 as expected"]);
    let folder = super::folder();
    fs::write(folder.path().join("list"), text(&hash(folder.path(), &["m.gguf"]))).unwrap();
    fs::rename(folder.path().join("m.gguf"), folder.path().join("n.gguf")).unwrap();
    checked(folder.path(), "n.gguf", "list", 0, &["4 of 4 as expected"]);
    let longer = [fs::read(folder.path().join("n.gguf")).unwrap(), vec![0; 100]].concat();
    fs::write(folder.path().join("n.gguf"), longer).unwrap();
    checked(folder.path(), "n.gguf", "list", 1, &["CHANGED  file n.gguf", "belongs to none of them"]);
}

/// What the note about tensors and metadata says is said where it is so.
#[test]
fn the_note_about_the_layout_is_true() {
    let folder = hf();
    fs::write(folder.path().join("list"), text(&hash(folder.path(), &["hf"]))).unwrap();
    fs::write(folder.path().join("hf/tokenizer.json"), "{ }").unwrap();
    let output = hash(folder.path(), &["hf", "--check", "list"]);
    assert_eq!(text(&output), "CHANGED  file tokenizer.json\n9 of 10 as expected\n");
    // The same header with other spaces.
    let json = r#"{"__metadata__": {"format":"pt"}, "a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let spaced = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &[1; 8]].concat();
    fs::write(folder.path().join("hf").join(SHARDS[0]), spaced).unwrap();
    let note =
        format!("note: every tensor and every metadata entry is as listed: what differs in {}", SHARDS[0]);
    checked(folder.path(), "hf", "list", 1, &[&note, "8 of 10 as expected"]);
}

/// Of a list of a whole repository, the lines of a file are those with its folder.
#[test]
fn one_file_of_a_large_list() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let all = ["x/a.gguf", "y/a.gguf", "a.gguf"];
    ["x", "y", "lists", "z"].into_iter().for_each(|name| fs::create_dir(at(name)).unwrap());
    for (name, value) in all.into_iter().zip([1, 2, 3]) {
        write(&at(name), name, &[("first", &[value; 64]), ("second", &[value + 3; 64])]);
    }
    let list = sums(folder.path(), &all.map(|name| (name, name)));
    let layers = all.map(|name| {
        let printed = hash(folder.path(), &[name, "--kind", "xxh64"]);
        let lines = text(&printed).lines().filter(|line| line.starts_with("xxh64"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    });
    assert!(layers[0].contains("  x/a.gguf:first\n") && layers[0].contains("  x/a.gguf\n"), "{}", layers[0]);
    fs::write(at("layers"), layers.concat()).unwrap();
    for place in ["SHA256SUMS", "lists/SHA256SUMS"] {
        fs::write(at(place), &list).unwrap();
    }
    for name in all {
        let note = "note: lines about other files: 2, not looked at; name the folder";
        checked(folder.path(), name, "SHA256SUMS", 0, &[note, "1 of 1 as expected"]);
        checked(
            folder.path(),
            name,
            "layers",
            0,
            &["note: lines about other files: 6", "3 of 3 as expected"],
        );
    }
    for name in &all[..2] {
        checked(folder.path(), name, "lists/SHA256SUMS", 0, &["1 of 1 as expected"]);
    }
    // A file alone is one of those with its name.
    fs::copy(at("y/a.gguf"), at("z/a.gguf")).unwrap();
    checked(folder.path(), "z/a.gguf", "lists/SHA256SUMS", 0, &["1 of 1 as expected"]);
    fs::copy(at("y/a.gguf"), at("x/a.gguf")).unwrap();
    checked(folder.path(), "x/a.gguf", "SHA256SUMS", 1, &["CHANGED  file a.gguf", "0 of 1 as expected"]);
    checked(folder.path(), "x/a.gguf", "layers", 1, &["CHANGED  tensor first (xxh64)", "0 of 3 as expected"]);
}

#[test]
fn a_part_that_is_listed_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let parts = [1, 2, 3].map(|number| format!("m-0000{number}-of-00003.gguf"));
    for (number, part) in (0u16..).zip(&parts) {
        let metadata = [
            ("split.no", Value::U16(number)),
            ("split.count", Value::U16(3)),
            ("split.tensors.count", Value::I32(3)),
        ];
        let name = format!("tensor{number}");
        let tensor = TensorData { name: &name, kind: GgmlType::F32, shape: &[64], data: &FIRST };
        write_file(&folder.path().join(part), &metadata, &[tensor]).unwrap();
    }
    let names: Vec<(&str, &str)> = parts.iter().map(|part| (part.as_str(), part.as_str())).collect();
    let list = sums(folder.path(), &names);
    let item = |line: &str| serde_json::json!({"path": &line[66..], "sha256": &line[..64]});
    let manifest = serde_json::json!({"formats": list.lines().map(item).collect::<Vec<_>>()});
    fs::write(folder.path().join("sums"), &list).unwrap();
    fs::write(folder.path().join("formats"), manifest.to_string()).unwrap();
    for (list, path) in [("sums", "."), ("sums", &parts[0]), ("formats", &parts[0])] {
        checked(folder.path(), path, list, 0, &["3 of 3 as expected"]);
    }
    fs::remove_file(folder.path().join(&parts[2])).unwrap();
    let missing = format!("MISSING  file {}\n", parts[2]);
    for (list, path) in [("sums", "."), ("sums", &parts[0]), ("formats", &parts[0])] {
        checked(folder.path(), path, list, 1, &[&missing, "2 of 3 as expected"]);
    }
}

/// A list that says two things of one name cannot be right in both.
#[test]
fn contradictions() {
    let folder = folder();
    let printed = hash(folder.path(), &["m.gguf", "--kind", "sha1"]);
    let lines: Vec<&str> = text(&printed).lines().filter(|line| !line.starts_with("# ")).collect();
    for (what, words) in [
        ("#tensor", "CHANGED  tensor first: the list says two things of it"),
        ("#metadata", "CHANGED  metadata general.name"),
        ("sha1 ", "CHANGED  tensor first (sha1): the list says two things of it"),
    ] {
        let line = lines.iter().find(|line| line.starts_with(what)).unwrap();
        let digest = line.split_whitespace().nth(1).unwrap();
        let other = line.replace(digest, &"0".repeat(digest.len()));
        for both in [[line, other.as_str()], [other.as_str(), line]] {
            let rest = lines.iter().filter(|other| *other != line).copied();
            let list: Vec<&str> = rest.chain(both).collect();
            fs::write(folder.path().join("list"), list.join("\n")).unwrap();
            checked(folder.path(), "m.gguf", "list", 1, &[words, "7 of 8 as expected"]);
        }
        let twice = [lines.as_slice(), &[line]].concat();
        fs::write(folder.path().join("list"), twice.join("\n")).unwrap();
        checked(folder.path(), "m.gguf", "list", 0, &["7 of 7 as expected"]);
    }
}

/// Whatever a file or a tensor is called, a list of it is checked, by others too, and steers nothing.
#[test]
fn names_of_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = ["--kind", "sha1", "--kind", "uuid"];
    for name in [
        "sp ace.gguf",
        " lead.gguf",
        "trail.gguf ",
        "back\\slash.gguf",
        "new\nline.gguf",
        "cr\rx.gguf",
        "esc\u{1b}[31m.gguf",
        "c1\u{9b}.gguf",
        "bidi\u{202e}fugg.x.gguf",
        "zero\u{200b}width.gguf",
        "colon:a.gguf",
        "par(en) = x.gguf",
        "#hash.gguf",
        "*star.gguf",
        "\u{fc}n\u{ef}.gguf",
    ] {
        fs::create_dir_all(folder.path().join("o:dd")).unwrap();
        let path = format!("o:dd/{name}");
        let (one, other) = (format!("t:{}", &path[..5]), "first");
        write(&folder.path().join(&path), "m", &[(&one, &FIRST), (other, &SECOND)]);
        for list in [
            hash(folder.path(), &[&[path.as_str()], kinds.as_slice()].concat()),
            hash(&folder.path().join("o:dd"), &[&[name], kinds.as_slice()].concat()),
        ] {
            assert!(is_plain(&text(&list).replace('\n', "")), "{:?}", text(&list));
            fs::write(folder.path().join("list"), text(&list)).unwrap();
            checked(folder.path(), &path, "list", 0, &["8 of 8 as expected"]);
        }
        // The last one was made within the folder.
        let by_others = |arguments: &[&str]| {
            let mut command = Command::new("sha256sum");
            command.current_dir(folder.path().join("o:dd")).args(arguments).output().unwrap()
        };
        let quoted = !is_plain(&name.replace(['\n', '\r'], ""));
        let read = by_others(&["--check", "../list"]);
        assert_eq!(read.status.success(), !quoted, "{name:?} {}", String::from_utf8_lossy(&read.stderr));
        for arguments in [&["--", name][..], &["--tag", "--", name]] {
            fs::write(folder.path().join("sums"), by_others(arguments).stdout).unwrap();
            checked(folder.path(), &path, "sums", 0, &["1 of 1 as expected"]);
        }
        fs::remove_file(folder.path().join(&path)).unwrap();
    }
    // As Windows writes them.
    write(&folder.path().join("m.gguf"), "m", &[("first", &FIRST), ("second", &SECOND)]);
    let printed = hash(folder.path(), &[&["m.gguf"], kinds.as_slice()].concat());
    let lines = text(&printed).lines().filter(|line| line.starts_with("sha1") || line.starts_with("uuid"));
    let list: String = lines.map(|line| line.replace("m.gguf", "C:\\models\\m.gguf") + "\r\n").collect();
    fs::write(folder.path().join("list"), format!("\u{feff}{list}")).unwrap();
    checked(folder.path(), "m.gguf", "list", 0, &["4 of 4 as expected"]);
    let sums = sums(folder.path(), &[("C:\\models\\m.gguf", "m.gguf")]);
    fs::write(folder.path().join("list"), format!("\u{feff}{sums}")).unwrap();
    checked(folder.path(), "m.gguf", "list", 0, &["1 of 1 as expected"]);
}

/// A list of files that are called after their digest can be checked, and says what they are.
#[test]
fn files_called_after_their_digest() {
    let folder = hf();
    let hub = folder.path().join("models--a--b");
    let (blobs, snapshot) = (hub.join("blobs"), hub.join("snapshots/abc"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(snapshot.join("additional_chat_templates")).unwrap();
    for name in FILES {
        let bytes = fs::read(folder.path().join("hf").join(name)).unwrap();
        let blob = if name.ends_with(".safetensors") { sha256(&bytes).to_string() } else { git_blob(&bytes) };
        fs::write(blobs.join(&blob), bytes).unwrap();
        let up = if name.contains('/') { "../../../blobs" } else { "../../blobs" };
        symlink(format!("{up}/{blob}"), snapshot.join(name)).unwrap();
    }
    for path in ["models--a--b", "models--a--b/snapshots/abc"] {
        fs::write(folder.path().join("list"), text(&hash(folder.path(), &[path]))).unwrap();
        checked(folder.path(), path, "list", 0, &["10 of 10 as expected", "6 of 6 as expected"]);
    }
    let blob = blobs.join(sha256(&weights("a", 1)).to_string());
    let blob = blob.to_str().unwrap();
    fs::write(folder.path().join("list"), text(&hash(folder.path(), &[blob]))).unwrap();
    checked(folder.path(), blob, "list", 0, &["1 of 1 as expected"]);
    // A damaged one, by the name that people know.
    fs::write(fs::canonicalize(snapshot.join("config.json")).unwrap(), "{ }").unwrap();
    let output = hash(folder.path(), &["models--a--b"]);
    assert_eq!(output.status.code(), Some(1));
    // Several small files have the same bytes, and so one blob.
    let line = format!("# CHANGED  file config.json (git-blob): its blob is called {}\n", git_blob(b"{}"));
    assert!(text(&output).contains(&line), "{}", text(&output));
}
