//! The parts of the engine that need no model.

use super::*;

#[test]
fn the_release_is_the_one_that_is_built() {
    let lock = include_str!("../../../../Cargo.lock");
    let entry = format!("name = \"candle-core\"\nversion = \"{CANDLE}\"");
    assert!(lock.contains(&entry), "CANDLE says {CANDLE}");
}

#[test]
fn ends_of_generation_are_read_in_every_form() {
    assert_eq!(generation_ends("{}"), Ok(vec![]));
    assert_eq!(generation_ends(r#"{"eos_token_id": 2}"#), Ok(vec![2]));
    assert_eq!(generation_ends(r#"{"eos_token_id": [2, 7]}"#), Ok(vec![2, 7]));
    assert!(generation_ends(r#"{"eos_token_id": "x"}"#).is_err());
}

fn config(model_type: &str, more: &str) -> Result<Config, String> {
    Config::parse(&format!(
        r#"{{"model_type":"{model_type}","vocab_size":100,"hidden_size":64,"intermediate_size":96,
        "num_hidden_layers":4,"num_attention_heads":4,"max_position_embeddings":128,
        "rms_norm_eps":1e-5,"hidden_act":"silu"{more}}}"#
    ))
}

#[test]
fn windows_are_where_the_family_puts_them() {
    let windows = |model_type: &str, more: &str| config(model_type, more).unwrap().windows;
    assert_eq!(windows("mistral", r#","sliding_window":8"#), [Some(8); 4]);
    assert_eq!(windows("mistral", r#","sliding_window":null"#), [None; 4]);
    assert_eq!(windows("qwen2", r#","sliding_window":8,"max_window_layers":3"#), [None; 4]);
    let used = r#","use_sliding_window":true,"sliding_window":8,"max_window_layers":3"#;
    assert_eq!(windows("qwen2", used), [None, None, None, Some(8)]);
    let kinds = r#","sliding_window":8,"layer_types":["full_attention","sliding_attention","full_attention","full_attention"]"#;
    assert_eq!(windows("qwen3", kinds), [None, Some(8), None, None]);
    let odd = r#","sliding_window":8,"layer_types":["chunked_attention","full_attention","full_attention","full_attention"]"#;
    assert!(config("qwen3", odd).unwrap_err().contains("chunked_attention"));
}

#[test]
fn hostile_numbers_are_refused_before_anything_is_allocated() {
    for (more, words) in [
        (r#","num_key_value_heads":0"#, "num_key_value_heads"),
        (r#","head_dim":1000000000"#, "head_dim"),
        (r#","rope_theta":-1"#, "rope_theta"),
        (r#","rope_scaling":{"factor":2}"#, "rope_type"),
        (r#","rope_scaling":{"rope_type":"llama3","factor":8}"#, "low_freq_factor"),
        (r#","rope_scaling":{"rope_type":"linear","factor":0}"#, "factor"),
        (r#","partial_rotary_factor":0.5"#, "partial_rotary_factor"),
        (r#","bos_token_id":100"#, "special token"),
        (r#","bos_token_id":-1"#, "bos_token_id"),
        (r#","sliding_window":"x""#, "sliding_window"),
    ] {
        let error = config("llama", more).unwrap_err();
        assert!(error.contains(words), "{more}: {error}");
    }
    for text in ["", "[]", "{}", r#"{"model_type":7}"#, r#"{"model_type":"llama"}"#] {
        assert!(Config::parse(text).is_err(), "{text}");
    }
}
