//! Folders as people publish them: nothing is wrong with any.

use super::*;

fn look(config: &str, tensors: &[(String, Vec<u64>)], others: &[(&str, &[u8])]) -> Vec<String> {
    let weights = weights("{}", tensors);
    let mut files = vec![("config.json", config.as_bytes()), ("model.safetensors", weights.as_slice())];
    files.extend(others);
    let findings = Made::new(&files).look().findings;
    findings.into_iter().map(|finding| format!("{} {}", finding.code, finding.message)).collect()
}

fn with_class(class: &str) -> String {
    CONFIG.replace('{', &format!("{{\"architectures\":[{class:?}],")).replace(":true", ":false")
}

/// Models for embeddings are stored without a prefix, and models that classify have another head.
#[test]
fn models_without_a_language_head() {
    let bare: Vec<_> =
        tensors().into_iter().map(|(name, shape)| (name.replacen("model.", "", 1), shape)).collect();
    for class in ["MistralModel", "Qwen3ForCausalLM"] {
        assert_eq!(look(&with_class(class), &bare, &[]), [""; 0], "{class}");
    }
    let scores =
        || tensors().into_iter().chain([("score.weight".to_owned(), vec![1, 4])]).collect::<Vec<_>>();
    assert_eq!(look(&with_class("LlamaForSequenceClassification"), &scores(), &[]), [""; 0]);
    let missing = ["missing-tensor the tensor lm_head.weight is missing"];
    assert_eq!(look(&with_class("LlamaForCausalLM"), &scores(), &[]), missing);
    assert_eq!(look(&CONFIG.replace(":true", ":false"), &scores(), &[]), missing);
    // They are held to their configuration all the same.
    assert_eq!(look(&with_class("MistralModel"), &bare[..bare.len() - 1], &[]).len(), 1);
    let mut narrow = bare;
    for (name, shape) in narrow.iter_mut().filter(|(name, _)| name.ends_with("k_proj.weight")) {
        assert!(name.starts_with("layers.0."));
        *shape = vec![3, 4];
    }
    assert!(look(&with_class("MistralModel"), &narrow, &[])[0].starts_with("shape-mismatch layers.0."));
}

#[test]
fn halves_have_layers_of_their_own() {
    let halves = [("encoder", 4), ("decoder", 2)];
    let layers = halves.into_iter().flat_map(|(half, count)| (0..count).map(move |layer| (half, layer)));
    let both: Vec<_> =
        layers.map(|(half, layer)| (format!("model.{half}.layers.{layer}.fc1.weight"), vec![4, 4])).collect();
    let config = r#"{"model_type":"whisper","num_hidden_layers":4,"is_encoder_decoder":true}"#;
    assert_eq!(look(config, &both, &[]), [""; 0]);
    assert_eq!(look(&config.replace("true", "false"), &both, &[]).len(), 1);
}

#[test]
fn configurations_of_others() {
    let any = [("a".to_owned(), vec![4, 4])];
    assert_eq!(look(r#"{"_class_name":"UNet2DConditionModel"}"#, &any, &[]), [""; 0]);
    assert_eq!(look(r#"{"model_type":"mamba2","time_step_limit":[0.0,Infinity]}"#, &any, &[]), [""; 0]);
}

/// Layers that guess further tokens are not among those that are counted.
#[test]
fn layers_behind_the_others() {
    let more = tensors().into_iter().map(|(name, shape)| (name.replace("layers.0", "layers.1"), shape));
    let both: Vec<_> =
        tensors().into_iter().chain(more.filter(|(name, _)| name.contains("layers"))).collect();
    let config = CONFIG.replace('{', "{\"num_nextn_predict_layers\":1,");
    assert_eq!(look(&config, &both, &[]), [""; 0]);
    assert!(look(CONFIG, &both, &[])[0].starts_with("unexpected-tensor"));
}

/// The adapter is the model here, and its base another one.
#[test]
fn an_adapter_with_its_base() {
    let adapter = ["A", "B"].map(|half| {
        let shape = if half == "A" { vec![2, 4] } else { vec![4, 2] };
        (format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight"), shape)
    });
    let settings = br#"{"peft_type":"LORA","r":2,"lora_alpha":2,"target_modules":["q_proj"]}"#;
    let map: serde_json::Map<_, _> =
        tensors().into_iter().map(|(name, _)| (name, "model.safetensors".into())).collect();
    let index = serde_json::json!({"weight_map": map}).to_string();
    let others: &[(&str, &[u8])] = &[
        ("adapter_config.json", settings),
        ("adapter_model.safetensors", &weights("{}", &adapter)),
        ("model.safetensors.index.json", index.as_bytes()),
    ];
    for count in [2, 3] {
        let told = look(CONFIG, &tensors(), &others[..count]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("other-weights model.safetensors is beside"), "{told:?}");
    }
}

/// Weights of other runtimes are called `.bin`, too, and some of their bytes can be followed.
#[test]
fn numbers_are_no_pickles() {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let named = |first: u8| (format!("m{first}.mlpackage/weights/weight.bin"), vec![first, 0, 0, 0, 2]);
    let simple = |first: u8| (format!("openvino_model_{first}.bin"), vec![first, b'.', b'\n']);
    let mut files: Vec<(String, Vec<u8>)> =
        (0..=255).map(named).chain([b'N', b'\x84', b'c'].map(simple)).collect();
    for (_, bytes) in &mut files {
        bytes.extend((0..4000).map(|_| random()));
    }
    let others: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    assert_eq!(look(CONFIG, &tensors(), &others), [""; 0]);
}
