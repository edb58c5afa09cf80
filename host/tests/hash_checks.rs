//! The built-in hash checks on an example model: the host digests, the plugin judges.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::path::Path;

use assayd::assay;
use assayd::digest::sha256;
use assayd::model::gguf::GgmlType;
use assayd::model::gguf::write::{TensorData, write_file};
use assayd::model::{InspectOptions, inspect, manifest};
use assayd::plugin::{
    CheckOutcome, FaultClass, HashTarget, Outcome, PluginFault, PluginSet, TargetFile, TargetManifest,
};
use serde_json::json;

fn model(name: &str) -> HashTarget {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models").join(name);
    let bytes = path.metadata().unwrap().len();
    HashTarget {
        name: name.into(),
        files: vec![TargetFile { name: name.into(), path, bytes }],
        manifests: Vec::new(),
    }
}

fn run(id: &str, target: &HashTarget, params: &serde_json::Value) -> Result<CheckOutcome, PluginFault> {
    let check = PluginSet::builtin().unwrap().hash_check(id).unwrap();
    let params = if params.is_null() { String::new() } else { params.to_string() };
    check.run(target, &params, &mut |request| assay::digest(target, None, request))
}

fn outcome(id: &str, target: &HashTarget, params: &serde_json::Value) -> (Outcome, Vec<String>) {
    let checked = run(id, target, params).unwrap();
    (checked.outcome, checked.findings.into_iter().map(|found| found.finding.code).collect())
}

const NOTHING: serde_json::Value = serde_json::Value::Null;

#[test]
fn roots_that_are_pinned() {
    let target = model("reference-q8_0.gguf");
    let full = inspect(&target.files[0].path, &InspectOptions { full: true }, &mut |_, _| {}).unwrap();
    let digests = &full.digests;
    let pins = json!({"file_root": digests.file_root, "content_root": digests.content_root, "weights_root": digests.weights_root});
    assert_eq!(outcome("root-pin", &target, &pins), (Outcome::Passed, vec![]));
    let other = outcome("root-pin", &model("reference-f16.gguf"), &pins);
    assert_eq!(other, (Outcome::Failed, vec!["root-mismatch".to_owned(); 3]));
    let broken =
        outcome("root-pin", &model("truncated.gguf"), &json!({"weights_root": digests.weights_root}));
    assert_eq!(broken.0, Outcome::Failed, "what is not whole has no root");
    assert_eq!(outcome("root-pin", &target, &NOTHING).0, Outcome::NotApplicable);
    let fault = run("root-pin", &target, &json!({"weights_root": "00"})).unwrap_err();
    assert!(matches!(fault.class, FaultClass::Refused { .. }), "{fault}");
}

#[test]
fn files_that_are_allowed() {
    let target = model("reference-q8_0.gguf");
    let digest = sha256(&std::fs::read(&target.files[0].path).unwrap()).to_string();
    let list = json!({"digests": [digest.clone()]});
    assert_eq!(outcome("allow-list", &target, &list), (Outcome::Passed, vec![]));
    assert_eq!(
        outcome("allow-list", &target, &json!({"digests": format!("{digest}  x\n")})).0,
        Outcome::Passed
    );
    let other = outcome("allow-list", &model("finetuned.gguf"), &list);
    assert_eq!(other, (Outcome::Failed, vec!["digest-not-allowed".to_owned()]));
    assert_eq!(outcome("allow-list", &target, &json!({"digests": []})).0, Outcome::Failed);
    assert_eq!(outcome("allow-list", &target, &NOTHING).0, Outcome::NotApplicable);
    assert!(run("allow-list", &target, &json!({"digests": ["abc"]})).is_err());
    assert!(run("allow-list", &target, &json!({"allowed": []})).is_err(), "an unknown parameter");
}

#[test]
fn tensors_that_are_listed() {
    let mut target = model("reference-q8_0.gguf");
    assert_eq!(outcome("tensor-manifest", &target, &NOTHING).0, Outcome::NotApplicable);
    let full = inspect(&target.files[0].path, &InspectOptions { full: true }, &mut |_, _| {}).unwrap();
    let list = manifest::write_list(&full);
    target.manifests.push(TargetManifest { name: "model.hashes".into(), text: list.clone() });
    assert_eq!(outcome("tensor-manifest", &target, &NOTHING), (Outcome::Passed, vec![]));
    let given = json!({"list": list});
    let tuned = outcome("tensor-manifest", &model("finetuned.gguf"), &given);
    assert_eq!(tuned.0, Outcome::Failed);
    assert!(tuned.1.iter().any(|code| code == "tensor-changed"), "{:?}", tuned.1);
    let without =
        list.lines().filter(|line| !line.ends_with("\"output.weight\"")).collect::<Vec<_>>().join("\n");
    let extra = outcome("tensor-manifest", &target, &json!({"list": without}));
    assert_eq!(extra, (Outcome::Failed, vec!["tensor-extra".to_owned()]));
    assert!(run("tensor-manifest", &target, &json!({"list": "#tensor nonsense"})).is_err());
}

#[test]
fn bytes_that_are_alike() {
    let target = model("reference-q8_0.gguf");
    let mut stream = assayd::digest::TlshStream::default();
    stream.update(&std::fs::read(&target.files[0].path).unwrap());
    // Small enough to be sampled whole.
    let digest = stream.finish().unwrap();
    let params = |distance: u32| json!({"digest": digest, "max_distance": distance});
    assert_eq!(
        outcome("tlsh-similarity", &target, &params(0)),
        (Outcome::Passed, vec!["fuzzy-near".to_owned()])
    );
    let other = outcome("tlsh-similarity", &model("reference.gguf"), &params(30));
    assert_eq!(other, (Outcome::Failed, vec!["fuzzy-far".to_owned()]));
    assert_eq!(outcome("tlsh-similarity", &target, &NOTHING).0, Outcome::NotApplicable);
    assert!(run("tlsh-similarity", &target, &json!({"digest": "TNULL"})).is_err());
}

/// What `assayd hash` prints is what the plugin takes, also of a file that is sampled.
#[test]
fn the_printed_digest_of_bytes_is_the_one_that_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    let mut state = 1u64;
    let data: Vec<u8> = (0..6 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8 & 0x3f
        })
        .collect();
    let tensor =
        |name| TensorData { name, kind: GgmlType::Q8_0, shape: &[1024, 5779], data: &data[..6_287_552] };
    write_file(&path, &[], &[tensor("t.weight")]).unwrap();
    let bytes = path.metadata().unwrap().len();
    let file = TargetFile { name: "large.gguf".into(), path: path.clone(), bytes };
    let target = HashTarget { name: "large.gguf".into(), files: vec![file], manifests: Vec::new() };
    let digests = inspect(&path, &InspectOptions { full: true }, &mut |_, _| {}).unwrap().digests;
    let sample = digests.byte_samples[0].clone();
    let (plain, weights) = (sample.digest.unwrap(), digests.fuzzy.unwrap());
    for given in [plain.clone(), format!("{}:{plain}", sample.algorithm)] {
        let same = outcome("tlsh-similarity", &target, &json!({"digest": given, "max_distance": 0}));
        assert_eq!(same, (Outcome::Passed, vec!["fuzzy-near".to_owned()]));
    }
    let other = weights.digest.unwrap();
    for given in [other.clone(), format!("{}:{other}", weights.algorithm)] {
        let fault = run("tlsh-similarity", &target, &json!({"digest": given})).unwrap_err();
        assert!(fault.to_string().contains("tlsh_bytes"), "{fault}");
    }
}
