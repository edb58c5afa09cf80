//! What an adapter's configuration declares beside the factors.

use super::*;

const Q: &str = "model.layers.0.attn.q_proj.lora_";

/// A pair of factors, and further tensors.
fn look(settings: &str, pair: bool, others: &[(&str, &[u64])]) -> Vec<String> {
    let pair: &[_] = if pair { &[("A.weight", &[2, 4][..]), ("B.weight", &[4, 2])] } else { &[] };
    let pair = pair.iter().map(|(side, shape)| (format!("base_model.model.{Q}{side}"), shape.to_vec()));
    let others = others.iter().map(|(name, shape)| (format!("base_model.model.{name}"), shape.to_vec()));
    let config =
        format!(r#"{{"peft_type":"LORA","r":2,"lora_alpha":2,"target_modules":["q_proj"]{settings}}}"#);
    let made = Made::new(&[
        ("adapter_config.json", config.as_bytes()),
        ("adapter_model.safetensors", &weights("{}", &pair.chain(others).collect::<Vec<_>>())),
    ]);
    let findings = made.look().findings.into_iter();
    findings.map(|of| format!("{} {:?}", of.code, of.severity)).collect()
}

#[test]
fn what_is_trained_is_declared() {
    let magnitude: &[(&str, &[u64])] = &[("model.layers.0.attn.q_proj.lora_magnitude_vector", &[4])];
    let magnitude_of_old: &[(&str, &[u64])] =
        &[("model.layers.0.attn.q_proj.lora_magnitude_vector.weight", &[4])];
    let (strange, absent) = ("unexpected-tensor Warning", "missing-tensor Warning");
    for (settings, others, expected) in [
        ("", &[][..], ""),
        ("", &[("model.norm.weight", &[4][..])], strange),
        ("", &[("model.layers.0.attn.q_proj.weight", &[4, 4])], strange),
        ("", &[("model.embed_tokens.weight", &[9, 4]), ("lm_head.weight", &[9, 4])], ""),
        ("", &[("score.weight", &[2, 4])], ""),
        (r#","modules_to_save":["norm"]"#, &[("model.norm.weight", &[4])], ""),
        (r#","modules_to_save":["norm"]"#, &[("model.norm.modules_to_save.weight", &[4])], ""),
        (
            r#","modules_to_save":["norm"]"#,
            &[("model.norm.weight", &[4]), ("model.normal.weight", &[4])],
            strange,
        ),
        (r#","modules_to_save":["norm"]"#, &[], absent),
        (r#","modules_to_save":[]"#, &[], ""),
        // PEFT lists what models that classify may call their head.
        (r#","modules_to_save":["classifier","score"]"#, &[("score.weight", &[2, 4])], ""),
        (r#","bias":"none""#, &[("model.layers.0.attn.q_proj.bias", &[4])], strange),
        (r#","bias":"all""#, &[("model.layers.0.attn.q_proj.bias", &[4])], ""),
        (r#","lora_bias":true"#, &[("model.layers.0.attn.q_proj.lora_B.bias", &[4])], ""),
        (r#","trainable_token_indices":[1]"#, &[("x.token_adapter.trainable_tokens_delta", &[1, 4])], ""),
        ("", &[("x.token_adapter.trainable_tokens_delta", &[1, 4])], strange),
        (r#","use_dora":true"#, magnitude, ""),
        (r#","use_dora":true"#, magnitude_of_old, ""),
        (r#","use_dora":true"#, &[], "missing-tensor Error"),
        (r#","use_dora":false"#, magnitude, "unexpected-tensor Error"),
    ] {
        assert_eq!(look(settings, true, others).join(", "), expected, "{settings} {others:?}");
    }
    // Of a list that is too long to be gone through for every tensor anything may be.
    let long = |count: usize| format!(r#","modules_to_save":{:?}"#, vec!["x"; count]);
    let norm: &[(&str, &[u64])] = &[("model.norm.weight", &[4])];
    assert_eq!(look(&long(budget::ADAPTER_MODULES), true, norm), [absent, strange]);
    assert_eq!(look(&long(budget::ADAPTER_MODULES + 1), true, norm), [""; 0]);
    let settings = r#","modules_to_save":["norm"]"#;
    assert_eq!(look(settings, false, norm), ["missing-tensor Error"], "no factors");
    let none = r#","modules_to_save":["norm"],"target_modules":[]"#;
    assert_eq!(look(none, false, norm), [""; 0], "none are wanted");
    let parameters = format!(r#"{none},"target_parameters":["experts.down_proj"]"#);
    assert_eq!(look(&parameters, false, norm), ["missing-tensor Error"], "of parameters");
}

/// Parameters that are stacks of matrices have factors for each.
#[test]
fn factors_of_experts() {
    let settings = r#","target_parameters":["mlp.experts.gate_up_proj","mlp.experts.down_proj"]"#;
    for (settings, module, rank, expected) in [
        (settings, "layers.0.mlp.experts", 16, ""),
        (settings, "layers.0.mlp.experts.base_layer", 16, ""),
        (settings, "layers.0.mlp.experts", 15, "shape-mismatch Error, shape-mismatch Error"),
        // Which rank a pattern gives to a stack of factors is not known.
        (
            r#","rank_pattern":{"up_proj":4},"target_parameters":["mlp.experts.down_proj"]"#,
            "layers.0.mlp.experts",
            15,
            "",
        ),
        (settings, "layers.0.mlp.others", 16, "shape-mismatch Error, shape-mismatch Error"),
        (
            r#","rank_pattern":{"q_proj":4}"#,
            "layers.1.q_proj",
            2,
            "shape-mismatch Error, shape-mismatch Error",
        ),
    ] {
        let (a, b) = (format!("model.{module}.lora_A.weight"), format!("model.{module}.lora_B.weight"));
        let others: &[(&str, &[u64])] = &[(&a, &[rank, 4]), (&b, &[4, rank])];
        let pair = settings.contains("parameters");
        assert_eq!(look(settings, pair, others).join(", "), expected, "{module} {rank}");
    }
    let long = |count: usize| format!(r#","target_parameters":{:?}"#, vec!["x.y"; count]);
    let others: &[(&str, &[u64])] =
        &[("model.experts.lora_A.weight", &[16, 4]), ("model.experts.lora_B.weight", &[4, 16])];
    let mismatch = "shape-mismatch Error";
    assert_eq!(look(&long(budget::ADAPTER_MODULES), true, others), [mismatch, mismatch]);
    assert_eq!(look(&long(budget::ADAPTER_MODULES + 1), true, others), [""; 0]);
}
