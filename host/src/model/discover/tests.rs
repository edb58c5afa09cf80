//! Folders of every layout, and what is made of them.

use super::*;
use std::os::unix::fs::symlink;

fn tree(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"GGUF").unwrap();
    }
    folder
}

/// "path kind files missing" of every artifact, and "path reason" of the rest.
fn found(folder: &tempfile::TempDir) -> (Vec<String>, Vec<String>) {
    let discovery = discover(folder.path()).unwrap();
    let short = |path: &Path| path.strip_prefix(folder.path()).unwrap().display().to_string();
    let artifacts = discovery.artifacts.iter().map(|artifact| {
        format!(
            "{} {:?} {} {}",
            short(&artifact.path),
            artifact.kind,
            artifact.files.len(),
            artifact.missing.join(",")
        )
    });
    let ignored =
        discovery.ignored.iter().map(|ignored| format!("{} {:?}", short(&ignored.path), ignored.reason));
    (artifacts.collect(), ignored.collect())
}

#[test]
fn layouts() {
    let folder = tree(&[
        "plain.gguf",
        "README.md",
        ".hidden.gguf",
        "set/m-00001-of-00003.gguf",
        "set/m-00003-of-00003.gguf",
        "hf/README.md",
        "hf/config.json",
        "hf/model-00001-of-00002.safetensors",
        "hf/model.safetensors.index.json",
        "hf/tokenizer.json",
        "hf/training_args.bin",
        "hf/additional_chat_templates/rag.jinja",
        "hf/additional_chat_templates/notes.txt",
        "hf/additional_chat_templates/x.gguf",
        "lora/adapter_config.json",
        "lora/adapter_model.safetensors",
        "lora/adapter.gguf",
        "lone/a.safetensors",
        "lone/notes.json",
        "torch/pytorch_model.bin",
        "torch/lut.bin",
        "torch/old.bin",
        "ollama/blobs/sha256-abc",
        "ollama/blobs/sha256-def-partial",
        "ollama/manifests/r/l/gone/latest",
        "ollama/manifests/r/l/gone/other",
        "ollama/manifests/r/l/here/latest",
    ]);
    for (name, blob) in [("gone/latest", "0"), ("gone/other", "0"), ("here/latest", "a")] {
        let blob = blob.repeat(64);
        let text = format!(
            r#"{{"layers": [{{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:{blob}"}}]}}"#
        );
        fs::write(folder.path().join("ollama/manifests/r/l").join(name), text).unwrap();
    }
    fs::write(folder.path().join("ollama/blobs/sha256-".to_owned() + &"a".repeat(64)), b"GGUF").unwrap();
    fs::write(folder.path().join("torch/lut.bin"), [7; 64]).unwrap();
    fs::write(folder.path().join("torch/old.bin"), b"cos\nsystem\n(S'x'\ntR.").unwrap();
    let (artifacts, ignored) = found(&folder);
    let gone = format!("ollama/blobs/sha256-{0} Gguf 0 sha256-{0}", "0".repeat(64));
    let here = format!("ollama/blobs/sha256-{} Gguf 1 ", "a".repeat(64));
    assert_eq!(
        artifacts,
        [
            "hf Safetensors 7 model-00002-of-00002.safetensors",
            "hf/additional_chat_templates/x.gguf Gguf 1 ",
            "lone/a.safetensors Safetensors 1 ",
            "lora Adapter 2 ",
            "lora/adapter.gguf Gguf 1 ",
            &gone,
            &here,
            "ollama/blobs/sha256-abc Gguf 1 ",
            "plain.gguf Gguf 1 ",
            "set/m-00001-of-00003.gguf GgufSplit 2 m-00002-of-00003.gguf",
            "torch/old.bin Pickle 1 ",
            "torch/pytorch_model.bin Pickle 1 ",
        ]
    );
    assert_eq!(
        ignored,
        [
            ".hidden.gguf Hidden",
            "README.md NotAModel",
            "hf/additional_chat_templates/notes.txt NotAModel",
            "lone/notes.json NotAModel",
            "ollama/blobs/sha256-def-partial Unfinished",
            "ollama/manifests/r/l/gone/latest Manifest",
            "ollama/manifests/r/l/gone/other Manifest",
            "ollama/manifests/r/l/here/latest Manifest",
            "torch/lut.bin NotAModel",
        ]
    );
}

#[test]
fn unfinished_downloads_are_left_alone() {
    let folder = tree(&[
        "a.gguf.part",
        "b.gguf.incomplete",
        "c.gguf",
        "c.gguf.aria2",
        "d.gguf.downloadInProgress",
        "e.gguf.tmp",
        "f.partial",
        "g.gguf",
    ]);
    let (artifacts, ignored) = found(&folder);
    assert_eq!(artifacts, ["g.gguf Gguf 1 "]);
    assert_eq!(ignored.len(), 7);
    assert!(ignored.iter().all(|line| line.ends_with("Unfinished")), "{ignored:?}");
}

#[test]
fn links_stay_within_the_tree() {
    let outside = tree(&["secret.gguf"]);
    let folder = tree(&["blobs/abc", "snapshots/readme"]);
    let link = |to: &Path, name: &str| symlink(to, folder.path().join("snapshots").join(name)).unwrap();
    link(Path::new("../blobs/abc"), "model.gguf");
    link(&outside.path().join("secret.gguf"), "escape.gguf");
    link(Path::new("../nowhere"), "broken.gguf");
    link(Path::new(".."), "loop");
    link(outside.path(), "away");
    let (artifacts, ignored) = found(&folder);
    assert_eq!(artifacts, ["snapshots/model.gguf Gguf 1 "]);
    assert_eq!(
        ignored,
        [
            "blobs/abc NotAModel",
            "snapshots/away LinkEscapes",
            "snapshots/broken.gguf LinkBroken",
            "snapshots/escape.gguf LinkEscapes",
            "snapshots/loop LinkToFolder",
            "snapshots/readme NotAModel",
        ]
    );
}

/// What `snapshot_download` returns: every file is a link to the blobs of the repository.
#[test]
fn a_snapshot_reaches_the_blobs_of_its_repository() {
    let cache = tree(&[
        "models--a--b/blobs/1",
        "models--a--b/blobs/deep/2",
        "models--a--b/snapshots/abc/gguf/README.md",
        "models--a--c/blobs/1",
        "models--a--b/other",
    ]);
    let snapshot = cache.path().join("models--a--b/snapshots/abc");
    let link = |to: &str, name: &str| symlink(to, snapshot.join(name)).unwrap();
    link("../../blobs/1", "model.safetensors");
    link("../../blobs/1", "config.json");
    link("../../../blobs/1", "gguf/m.gguf");
    link("../../../models--a--c/blobs/1", "foreign.gguf");
    link("../../other", "other.gguf");
    link("../../blobs/../../models--a--c/blobs/1", "round.gguf");
    link("../../blobs/deep", "folder");
    let at = |folder: &Path| {
        let found = discover(folder).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        (
            found.artifacts.iter().map(|artifact| name(&artifact.path)).collect::<Vec<_>>(),
            found
                .ignored
                .iter()
                .filter(|ignored| ignored.reason != IgnoreReason::NotAModel)
                .map(|ignored| format!("{} {:?}", name(&ignored.path), ignored.reason))
                .collect::<Vec<_>>(),
        )
    };
    let (artifacts, ignored) = at(&snapshot);
    assert_eq!(artifacts, ["abc", "m.gguf"]);
    let escapes = ["foreign.gguf LinkEscapes", "other.gguf LinkEscapes", "round.gguf LinkEscapes"];
    assert_eq!(ignored, [&["folder LinkToFolder"], &escapes[..]].concat());
    assert_eq!(at(&snapshot.join("gguf")).0, ["m.gguf"]);
    // Blobs that are themselves elsewhere are out of the repository.
    let blobs = cache.path().join("models--a--b/blobs");
    fs::rename(&blobs, cache.path().join("moved")).unwrap();
    symlink("../moved", &blobs).unwrap();
    assert_eq!(at(&snapshot).0, [""; 0]);
}

#[test]
fn depth_is_bounded_and_bad_roots_are_errors() {
    let deep = "d/".repeat(budget::DISCOVER_DEPTH + 2) + "x.gguf";
    let (artifacts, ignored) = found(&tree(&[&deep, "top.gguf"]));
    assert_eq!(artifacts, ["top.gguf Gguf 1 "]);
    assert_eq!(ignored.len(), 1);
    assert!(ignored[0].ends_with("TooDeep"));
    let folder = tree(&["x.gguf"]);
    assert!(discover(&folder.path().join("x.gguf")).is_err());
    assert!(discover(&folder.path().join("nothing")).is_err());
}

/// What is wanted is what an inspection would miss: a stray part beside a whole model is not waited for.
#[test]
fn parts_are_missing_where_loaders_want_them() {
    let stray = "m-00001-of-00002.safetensors";
    let folder = tree(&[
        &format!("whole/{stray}"),
        "whole/model.safetensors",
        "whole/config.json",
        &format!("listed/{stray}"),
        "listed/n-00001-of-00002.safetensors",
        "listed/config.json",
        "listed/model.safetensors.index.json",
        "unlisted/n-00001-of-00002.safetensors",
        &format!("unlisted/{stray}"),
        "unlisted/config.json",
        &format!("downloading/{stray}"),
        "downloading/m-00002-of-00002.safetensors",
        "downloading/m-00002-of-00002.safetensors.aria2",
        "downloading/config.json",
    ]);
    let index = r#"{"weight_map": {"a": "n-00001-of-00002.safetensors"}}"#;
    fs::write(folder.path().join("listed/model.safetensors.index.json"), index).unwrap();
    assert_eq!(
        found(&folder).0,
        [
            "downloading Safetensors 2 m-00002-of-00002.safetensors",
            "listed Safetensors 4 n-00002-of-00002.safetensors",
            "unlisted Safetensors 3 m-00002-of-00002.safetensors,n-00002-of-00002.safetensors",
            "whole Safetensors 3 ",
        ]
    );
}

/// A hundred thousand empty files cannot ask for a hundred million names.
#[test]
fn missing_parts_are_listed_within_a_budget() {
    let names: Vec<String> = (0..200).map(|n| format!("m{n}-00001-of-01024.gguf")).collect();
    let folder = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let missing: Vec<usize> =
        discover(folder.path()).unwrap().artifacts.iter().map(|artifact| artifact.missing.len()).collect();
    assert_eq!(missing.iter().filter(|&&count| count == 1_023).count(), budget::PARTS_WANTED / 1_023);
    assert!(missing.iter().all(|&count| count > 0));
    assert!(missing.iter().sum::<usize>() <= budget::PARTS_WANTED + 200);
}
