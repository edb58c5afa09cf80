//! Types of entries.

use super::*;
use crate::domain::inspection::Severity;

/// One value of every kind, and lists of some.
fn values() -> Vec<Value> {
    vec![
        Value::U8(1),
        Value::I8(1),
        Value::U16(1),
        Value::I16(1),
        Value::U32(1),
        Value::I32(-1),
        Value::U64(1),
        Value::I64(1),
        Value::F32(1.0),
        Value::F64(1.0),
        Value::Bool(true),
        "x".into(),
        Array::of_u32(&[1, 1]).into(),
        Array::of_f32(&[1.0]).into(),
        Array::of_strings(["a"]).into(),
    ]
}

/// Of each kind of entry that llama.cpp reads: which of [`values`] it takes, by their place.
#[test]
fn wrong_types_are_named() {
    let fits: [(&[&str], &[usize]); 10] = [
        (
            &["general.name", "tokenizer.ggml.pre", "tokenizer.chat_template", "llama.rope.scaling.type"],
            &[11],
        ),
        (
            &[
                "tokenizer.ggml.eot_token_id",
                "tokenizer.ggml.eom_token_id",
                "tokenizer.ggml.padding_token_id",
            ],
            &[4],
        ),
        (&["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id", "llama.pooling_type"], &[4]),
        (&["tokenizer.ggml.token_type_count", "llama.rope.scaling.original_context_length"], &[4]),
        (&["llama.attention.causal", "tokenizer.ggml.add_sep_token", "llama.rope.scaling.finetuned"], &[10]),
        (&["llama.rope.scale_linear", "llama.rope.scaling.factor", "llama.rope.scaling.attn_factor"], &[8]),
        (&["split.no", "split.count"], &[2]),
        (&["split.tensors.count"], &[5]),
        (&["llama.attention.head_count", "llama.feed_forward_length", "llama.expert_used_count"], &[4, 12]),
        (&["tokenizer.ggml.tokens", "tokenizer.ggml.merges"], &[14]),
    ];
    for (keys, fitting) in fits {
        for key in keys {
            for (place, value) in values().into_iter().enumerate() {
                let codes = draft().set(key, value.clone()).codes();
                let wrong = codes.iter().any(|code| code == "metadata-wrong-type");
                assert_eq!(wrong, !fitting.contains(&place), "{key} {value:?}: {codes:?}");
            }
        }
    }
    let kinds = draft().set("tokenizer.ggml.token_type", Array::of_u32(&[1; 5]));
    assert_eq!(kinds.codes(), ["metadata-wrong-type"], "token types are signed");
    // What is read for some architectures is a warning, unless this one needs it.
    let severity = |draft: Draft| {
        let wrong = draft.findings().into_iter().find(|finding| finding.code == "metadata-wrong-type");
        wrong.map(|finding| finding.severity)
    };
    assert_eq!(severity(draft().set("llama.ssm.conv_kernel", "x")), Some(Severity::Warning));
    assert_eq!(severity(draft().of("mamba").set("mamba.ssm.conv_kernel", "x")), Some(Severity::Error));
    assert_eq!(severity(draft().set("llama.block_count", "x")), Some(Severity::Error), "read of every file");
    // What no runtime reads may be of any type.
    assert_eq!(draft().set("tokenizer.ggml.novel_token_id", Value::I32(-1)).codes(), [""; 0]);
    assert_eq!(draft().set("llama.novel", "x").codes(), [""; 0]);
}

/// A part's own entries are looked at, and findings say whose entries they are about.
#[test]
fn entries_of_all_parts_are_looked_at() {
    let header = |draft: Draft| {
        let metadata: Vec<(&str, Value)> =
            draft.metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        let mut bytes = Vec::new();
        write(&mut bytes, &metadata, &[]).unwrap();
        read_strict(&bytes.as_slice()).unwrap()
    };
    let whole = header(draft().set("llama.block_count", 0u32).set("split.no", Value::I32(0)));
    let second = header(Draft { metadata: vec![("split.no".into(), Value::I32(1))], tensors: Vec::new() });
    let tensors = [crate::model::gguf::Tensor {
        name: "token_embd.weight".into(),
        kind: GgmlType::F32,
        shape: vec![8, 5],
        offset: 0,
        bytes: 160,
    }];
    let part = |name, metadata| Part { name: Some(name), metadata, tensors: &tensors };
    let model = Model {
        metadata: &whole.metadata,
        parts: vec![part("b", &second.metadata), part("a", &whole.metadata)],
    };
    let mut findings = Findings::default();
    check(&model, &mut findings);
    let found: Vec<(String, Option<String>)> =
        findings.finish().into_iter().map(|finding| (finding.code, finding.part)).collect();
    for (code, part) in [("metadata-wrong-type", "a"), ("metadata-wrong-type", "b"), ("metadata-absurd", "a")]
    {
        assert!(found.contains(&(code.to_owned(), Some(part.to_owned()))), "{code} {part}: {found:?}");
    }
    assert!(found.contains(&("missing-tensor".to_owned(), None)), "nobody knows whose: {found:?}");
}
