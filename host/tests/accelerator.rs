//! Models on a second device, for real: with a back end of the same llama.cpp in the folder that
//! `ASSAYD_TEST_BACKENDS` names (beside the `libggml-cpu-*.so`), such as Vulkan on Mesa's software
//! device (`GGML_VK_VISIBLE_DEVICES=0`). `make test-accelerator`. Safetensors folders need a build
//! with the feature `cuda`, and a card.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop"
)]

use std::path::{Path, PathBuf};

use assayd::engine::EngineKind;
use hf::{Folder, Source, Stored};
use place::example;
use serde_json::Value;

#[expect(dead_code, reason = "each test file uses a part of it")]
mod hf;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod place;

/// The binary with the back ends beside it.
struct Accelerated {
    folder: tempfile::TempDir,
    binary: PathBuf,
}

impl Accelerated {
    /// `None`, and says so, where there are none to try.
    #[expect(clippy::print_stderr, reason = "a test that did not test must say so")]
    fn new() -> Option<Self> {
        let Some(backends) = std::env::var_os("ASSAYD_TEST_BACKENDS") else {
            eprintln!("NOT TESTED: ASSAYD_TEST_BACKENDS names no folder of back ends");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("assayd");
        // Where it is decides which back ends it finds, so a link to it would not do.
        std::fs::copy(env!("CARGO_BIN_EXE_assayd"), &binary).unwrap();
        std::os::unix::fs::symlink(backends, folder.path().join("backends")).unwrap();
        Some(Self { folder, binary })
    }

    /// Exit code and what is printed, as JSON.
    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        json(&self.binary, self.folder.path(), arguments)
    }
}

fn json(binary: &Path, folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = place::command(binary, folder).args(arguments).arg("--json").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code().unwrap(), value)
}

fn logprobs(value: &Value) -> Vec<f64> {
    let sequences = value["sequences"].as_array().unwrap().iter();
    sequences.flat_map(|s| s["logprobs"].as_array().unwrap()).map(|x| x.as_f64().unwrap()).collect()
}

/// Bytes of weights by device.
fn weights(estimate: &Value) -> Vec<(String, u64)> {
    let devices = estimate["devices"].as_array().unwrap().iter();
    devices.map(|d| (d["name"].as_str().unwrap().to_owned(), d["model_bytes"].as_u64().unwrap())).collect()
}

#[test]
#[ignore = "needs a back end for another device: make test-accelerator"]
fn layers_and_experts_lie_where_they_are_told_to() {
    let Some(place) = Accelerated::new() else { return };
    let model = example("reference.gguf");
    let of = |layers: &str, more: &[&str]| {
        let arguments = [&["estimate", model.to_str().unwrap(), "--gpu-layers", layers], more].concat();
        weights(&place.json(&arguments).1)
    };
    let (none, one, all) = (of("0", &[]), of("1", &[]), of("-1", &[]));
    assert_eq!(none.len(), 1, "{none:?}");
    assert_eq!((one.len(), all.len()), (2, 2), "{one:?} {all:?}");
    assert!(0 < one[1].1 && one[1].1 < all[1].1 && all[0].1 < one[0].1, "{one:?} {all:?}");
    let arguments = ["estimate", model.to_str().unwrap(), "--gpu-layers", "-1"];
    let device = place.json(&arguments).1["devices"][1].clone();
    assert!(device["free_bytes"].as_u64().unwrap() > device["total_bytes"].as_u64().unwrap(), "{device}");
    // What is loaded is what was counted.
    let (code, bench) = place.json(&[
        "bench",
        model.to_str().unwrap(),
        "--gpu-layers",
        "-1",
        "--runs",
        "1",
        "--new-tokens",
        "8",
        "--prompt-tokens",
        "64",
    ]);
    assert_eq!((code, bench["memory"]["devices"].as_array().unwrap().len()), (0, 2), "{bench}");
    if let Some(moe) = place::beside("models/gguf/moe.gguf", "a mixture of experts") {
        let of = |more: &[&str]| {
            let arguments = [&["estimate", moe.to_str().unwrap(), "--gpu-layers", "-1"], more].concat();
            weights(&place.json(&arguments).1)
        };
        let (all, two, none) = (of(&[]), of(&["--n-cpu-moe", "2"]), of(&["--cpu-moe"]));
        let layer = (all[1].1 - two[1].1) / 2;
        assert!(layer > 0 && (two[0].1 - all[0].1).abs_diff(2 * layer) < 4096, "{all:?} {two:?}");
        assert!((all[1].1 - none[1].1) % layer == 0 && none[1].1 < two[1].1 && none[1].1 > 0, "{none:?}");
    }
}

#[test]
#[ignore = "needs a back end for another device: make test-accelerator"]
fn the_other_device_computes_the_same_and_only_when_it_is_asked_to() {
    let Some(place) = Accelerated::new() else { return };
    let folder = place.folder.path();
    let model = example("reference.gguf");
    let model = model.to_str().unwrap();
    let tokens = folder.join("tokens.json");
    let sequence: Vec<u32> = (0..200).map(|i| 260 + i * 7 % 200).collect();
    std::fs::write(&tokens, serde_json::to_string(&[sequence]).unwrap()).unwrap();
    let arguments = ["logprobs", model, "--tokens", tokens.to_str().unwrap()];
    let plain = json(Path::new(env!("CARGO_BIN_EXE_assayd")), folder, &arguments).1;
    let beside = place.json(&arguments).1;
    let there = place.json(&[&arguments[..], &["--gpu-layers", "-1"]].concat()).1;
    assert_eq!(logprobs(&plain), logprobs(&beside), "no layer is on it, and yet it is used");
    assert_ne!(plain["engine"]["device"], there["engine"]["device"]);
    let apart = logprobs(&plain).iter().zip(logprobs(&there)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // Its kernels may multiply in half precision.
    assert!(0.0 < apart && apart < 0.05, "{apart}");

    // A verdict does not depend on where both ran, and the report says where.
    let run = ["verify", model, "--reference", model, "--mode", "quick"];
    let (code, report) = place.json(&[&run[..], &["--gpu-layers", "-1"]].concat());
    assert_eq!((code, &report["final_decision"]), (0, &"SAME".into()), "{}", report["errors"]);
    assert_eq!(report["engine"]["device"], there["engine"]["device"]);
    let (_, found) = place.json(&["determinism", model, "--new-tokens", "16"]);
    let axes = found["axes"].as_array().unwrap();
    let device = axes.iter().find(|axis| axis["axis"] == "device").unwrap();
    assert!(device["identical"].is_boolean() && device["values"].as_array().unwrap().len() == 2, "{device}");
}

/// As above, of weights in a safetensors folder.
#[test]
#[ignore = "needs a build with the feature cuda, and a card: make test-accelerator FEATURES=cuda"]
fn a_folder_is_computed_the_same_on_the_other_device() {
    if !EngineKind::Candle.accelerates(None) {
        eprintln!("NOT TESTED: a build without the feature cuda, or no card");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (plain, tokens) = (dir.path().join("plain"), dir.path().join("tokens.json"));
    Folder::of_llama(&Source::read(&example("reference.gguf"))).write(&plain, Stored::F32);
    let sequence: Vec<u32> = (0..200).map(|i| 260 + i * 7 % 200).collect();
    std::fs::write(&tokens, serde_json::to_string(&[sequence]).unwrap()).unwrap();
    let model = plain.to_str().unwrap();
    let of = |layers: &str, arguments: &[&str]| {
        let all = [arguments, &["--gpu-layers", layers]].concat();
        json(Path::new(env!("CARGO_BIN_EXE_assayd")), dir.path(), &all).1
    };
    let arguments = ["logprobs", model, "--tokens", tokens.to_str().unwrap()];
    let (here, there) = (of("0", &arguments), of("-1", &arguments));
    assert_eq!((&here["engine"]["device"], &there["engine"]["device"]), (&"CPU".into(), &"CUDA0".into()));
    let apart = logprobs(&here).iter().zip(logprobs(&there)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(0.0 < apart && apart < 1e-3, "{apart}");
    let counted = weights(&of("-1", &["estimate", model]));
    assert_eq!((counted.len(), counted[0].1), (2, 0), "{counted:?}");
    let report = of("-1", &["verify", model, "--reference", model, "--mode", "quick"]);
    assert_eq!((&report["final_decision"], &report["engine"]["device"]), (&"SAME".into(), &"CUDA0".into()));
}
