//! What contradicts the other layers, or no token can be.

use super::*;

fn look(config: &str, tensors: &[(String, Vec<u64>)]) -> Vec<String> {
    let made =
        Made::new(&[("config.json", config.as_bytes()), ("model.safetensors", &weights("{}", tensors))]);
    let findings = made.look().findings.into_iter();
    findings.map(|of| format!("{} {:?} {}", of.code, of.severity, of.tensor.unwrap_or_default())).collect()
}

/// One layer, or two, that lack what the others have beside the same tensors.
#[test]
fn a_layer_that_lacks_what_the_others_have() {
    let stack = |layers: u64, keep: &dyn Fn(u64, &str) -> bool| -> Vec<(String, Vec<u64>)> {
        let parts = ["attn.k.weight", "attn.k.bias", "mlp.up.qweight", "mlp.up.scales", "norm.weight"];
        let all = (0..layers).flat_map(|layer| parts.map(|part| (layer, part)));
        all.filter(|(layer, part)| keep(*layer, part))
            .map(|(layer, part)| (format!("model.layers.{layer}.{part}"), vec![2]))
            .collect()
    };
    let found = |tensors: &[(String, Vec<u64>)]| look(r#"{"model_type":"novel"}"#, tensors);
    for (layers, layer, gone, expected) in [
        (8, 7, "attn.k.bias", true),
        (6, 0, "mlp.up.scales", true),
        (6, 0, "mlp.up.qweight", true),
        // As many as that may be of another kind.
        (5, 4, "attn.k.bias", false),
        // Nothing of the module is there.
        (8, 7, "norm.weight", false),
    ] {
        let name = format!("missing-tensor Warning model.layers.{layer}.{gone}");
        let told = found(&stack(layers, &|of, part| (of, part) != (layer, gone)));
        assert_eq!(told, Vec::from_iter(expected.then_some(name)), "{layers} {gone}");
    }
    assert_eq!(found(&stack(8, &|layer, part| layer > 1 || part != "attn.k.bias")).len(), 2);
    for keep in [
        // Every other layer, the first three, or one alone.
        &(|layer: u64, part: &str| layer.is_multiple_of(2) || part != "attn.k.bias")
            as &dyn Fn(u64, &str) -> bool,
        &|layer, part| layer > 2 || part != "attn.k.bias",
        &|layer, part| layer == 3 || part != "attn.k.bias",
        &|layer, part| layer > 0 || !part.starts_with("mlp"),
    ] {
        assert_eq!(found(&stack(8, keep)), [""; 0]);
    }
    // A layer that is not packed as the others are.
    let mut plain = stack(8, &|layer, part| layer > 0 || part != "mlp.up.scales");
    let (_, shape) = plain.iter_mut().find(|(name, _)| name.ends_with("layers.0.mlp.up.qweight")).unwrap();
    shape.push(9);
    assert_eq!(found(&plain), [""; 0]);
}

#[test]
fn special_tokens_and_angles() {
    let with = |entries: &str| CONFIG.replace('{', &format!("{{{entries},"));
    let range = "special-token-range Warning ";
    for (entries, expected) in [
        (r#""bos_token_id":2,"eos_token_id":[0,1]"#, &[][..]),
        (r#""bos_token_id":null,"eos_token_id":-1"#, &[]),
        (r#""bos_token_id":3"#, &[range]),
        (r#""eos_token_id":[1,3,-2]"#, &[range, range]),
        (r#""rope_theta":0"#, &["metadata-absurd Error "]),
        (r#""rope_theta":-1"#, &["metadata-absurd Error "]),
        (r#""rms_norm_eps":0"#, &[]),
    ] {
        assert_eq!(look(&with(entries), &tensors()), expected, "{entries}");
    }
    // Rows that the configuration does not count are there all the same.
    let table = [("model.embed_tokens.weight".to_owned(), vec![5, 4])];
    let nested = r#"{"model_type":"novel","bos_token_id":4,"text_config":{"vocab_size":3}}"#;
    assert!(!look(nested, &table).iter().any(|told| told == range));
    assert!(look(&nested.replace('4', "5"), &table).iter().any(|told| told == range));
}
