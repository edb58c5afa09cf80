//! What lies in a folder beside the weights that loaders take.

use super::*;
use crate::domain::inspection::Severity;

/// Pickles, by what loading them would do.
const EVIL: &[u8] = b"\x80\x02cos\nsystem\nX\x01\0\0\0x\x85R.";
const CLEAN: &[u8] = b"\x80\x02}X\x01\0\0\0aK\x01s.";
const SETTINGS: &[u8] = b"\x80\x02ctransformers.training_args\nTrainingArguments\n)\x81.";

fn with(files: &[(&str, &[u8])]) -> Inspection {
    let weights = weights("{}", &tensors());
    let mut all = vec![("config.json", CONFIG.as_bytes()), ("model.safetensors", weights.as_slice())];
    all.extend(files);
    Made::new(&all).look()
}

/// "code part severity" of each finding.
fn told(inspection: &Inspection) -> Vec<String> {
    let list = inspection.findings.iter();
    list.map(|of| format!("{} {} {:?}", of.code, of.part.as_deref().unwrap_or_default(), of.severity))
        .collect()
}

/// Nobody who asks for the weights loads these, but people do.
#[test]
fn pickles_are_followed() {
    for name in ["pytorch_model.bin", "optimizer.pt", "x.PKL", "checkpoint-5/a/rng_state.pth"] {
        let evil = with(&[(name, EVIL)]);
        assert_eq!(evil.status, Status::Reject);
        assert_eq!(told(&evil), [format!("pickle-code-execution {name} Error")]);
        assert_eq!(told(&with(&[(name, CLEAN)])), [format!("pickle-format {name} Warning")]);
    }
    let settings = with(&[("training_args.bin", SETTINGS)]);
    assert_eq!(
        told(&settings),
        ["pickle-unknown-import training_args.bin Warning", "pickle-format training_args.bin Warning"]
    );
    let cut = with(&[("a.bin", &EVIL[..EVIL.len() - 3])]);
    assert!(told(&cut).contains(&"pickle-broken a.bin Error".to_owned()), "{:?}", told(&cut));
    // What is no pickle, whatever it is called, and what nothing loads.
    for (name, bytes) in [("lut.bin", &[7; 64][..]), ("notes.txt", EVIL), (".git/x.pkl", EVIL)] {
        assert_eq!(told(&with(&[(name, bytes)])), [""; 0], "{name}");
    }
}

/// A link to somewhere else is told of as one; what is there is nobody's business.
#[test]
fn pickles_elsewhere_are_left_alone() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x.pt"), EVIL).unwrap();
    let weights = weights("{}", &tensors());
    let made = Made::new(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", &weights)]);
    std::os::unix::fs::symlink(outside.path().join("x.pt"), made.0.path().join("x.pt")).unwrap();
    std::os::unix::fs::symlink(outside.path(), made.0.path().join("folder")).unwrap();
    assert_eq!(told(&made.look()), ["symlink-escape folder Warning", "symlink-escape x.pt Warning"]);
}

/// The only file leads away: that is the cause, not that there is no model.
#[test]
fn a_folder_of_links_out_of_it_says_so() {
    let (outside, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["model.gguf", "model.safetensors"] {
        fs::write(outside.path().join(name), weights("{}", &tensors())).unwrap();
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(outside.path().join(name), &link).unwrap();
        let inspection =
            crate::model::inspect(folder.path(), &crate::model::InspectOptions::default(), &mut |_, _| {})
                .unwrap();
        assert_eq!(inspection.status, Status::Reject);
        assert_eq!(told(&inspection), [format!("symlink-escape {name} Error")]);
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn a_gguf_beside_the_weights_is_told_of() {
    assert_eq!(told(&with(&[("x.GGUF", b"GGUF")])), ["other-weights x.GGUF Info"]);
}

#[test]
fn pickles_belong_to_the_files_of_the_model() {
    let look = |bytes: &[u8]| with(&[("optimizer.pt", bytes)]);
    let (one, other) = (look(CLEAN), look(SETTINGS));
    assert!(one.files.iter().any(|file| file.path.ends_with("optimizer.pt") && file.sha256.is_some()));
    assert_ne!(one.digests.content_root, other.digests.content_root);
    assert_eq!(one.digests.weights_root, other.digests.weights_root);
}

/// Only so many are looked at, and then nobody knows.
#[test]
fn too_many_pickles_are_no_pass() {
    let names: Vec<String> = (0..=budget::PICKLES_BESIDE).map(|number| format!("c/{number}.pt")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &[7; 64][..])).collect();
    let inspection = with(&files);
    assert_eq!((inspection.status, inspection.findings[0].code.as_str()), (Status::Reject, "not-examined"));
    assert_eq!(with(&files[1..]).status, Status::Accept);
}

/// A second copy, or a variant, is not taken for a part of the model.
#[test]
fn other_weights_are_told() {
    let weights = weights("{}", &tensors());
    let plain = with(&[]);
    for name in ["model.fp16.safetensors", "consolidated.safetensors", "model-00001-of-00002.safetensors"] {
        let found = with(&[(name, &weights)]);
        assert_eq!(told(&found), [format!("other-weights {name} Info")]);
        assert_eq!(found.parameters, plain.parameters);
        assert_eq!(found.digests.weights_root, plain.digests.weights_root);
        assert!(found.files.iter().any(|file| file.path.ends_with(name) && file.sha256.is_some()));
        let cut = with(&[(name, &weights[..weights.len() - 4])]);
        assert_eq!((cut.status, cut.findings[0].code.as_str()), (Status::Reject, "truncated"));
    }
    // Some loaders prefer this one to the files of the index.
    let index = br#"{"weight_map":{"a":"m-00001-of-00001.safetensors"}}"#;
    let (part, listed) = (weights.as_slice(), "model.safetensors.index.json");
    let rival = with(&[(listed, index), ("m-00001-of-00001.safetensors", part)]);
    let rival = rival.findings.iter().find(|finding| finding.code == "other-weights").unwrap();
    assert_eq!((rival.part.as_deref(), rival.severity), (Some("model.safetensors"), Severity::Warning));
}

/// A part that is something else is called what it is.
#[test]
fn parts_that_never_came() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for (bytes, code) in [
        (&pointer[..], "lfs-pointer"),
        (b"<!DOCTYPE html><html>", "html-page"),
        (&[0; 4096], "zeroed-header"),
        (b"", "empty"),
        (b"GGUF\x03\0\0\0", "disguised-format"),
        (EVIL, "disguised-format"),
    ] {
        let made = Made::new(&[("config.json", CONFIG.as_bytes()), ("model.safetensors", bytes)]);
        let inspection = made.look();
        assert_eq!(inspection.status, Status::Reject, "{code}");
        assert_eq!(told(&inspection), [format!("{code} model.safetensors Error")]);
    }
}

/// A configuration that is a way out of the folder makes no other thing of it.
#[test]
fn a_configuration_from_elsewhere() {
    let made = Made::new(&[("model.safetensors", &weights("{}", &tensors()))]);
    let outside = Made::new(&[("secret", b"root:x:0:0")]);
    std::os::unix::fs::symlink(outside.0.path().join("secret"), made.0.path().join("config.json")).unwrap();
    let inspection = made.look();
    assert_eq!(inspection.status, Status::Reject);
    assert_eq!(told(&inspection), ["bad-json config.json Error", "symlink-escape config.json Warning"]);
    assert!(!inspection.findings.iter().any(|finding| finding.message.contains("root")));
}
