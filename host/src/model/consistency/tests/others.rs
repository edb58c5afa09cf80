//! Files that are no language models: low-rank adapters, and what holds nothing of a model.

use super::*;

/// A draft of nothing but these.
fn bare(metadata: &[(&str, Value)], tensors: &[(&str, &[u64])]) -> Draft {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Draft {
        metadata,
        tensors: tensors.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect(),
    }
}

fn adapter() -> Draft {
    bare(
        &[
            ("general.architecture", "llama".into()),
            ("general.type", "adapter".into()),
            ("adapter.type", "lora".into()),
            ("adapter.lora.alpha", 16f32.into()),
        ],
        &[
            ("blk.0.attn_q.weight.lora_a", &[8, 2]),
            ("blk.0.attn_q.weight.lora_b", &[2, 8]),
            ("blk.0.ffn_up_exps.weight.lora_a", &[8, 2, 4]),
            ("blk.0.ffn_up_exps.weight.lora_b", &[2, 12, 4]),
            ("token_embd.weight.lora_a", &[2, 5]),
            ("token_embd.weight.lora_b", &[2, 8]),
        ],
    )
}

#[test]
fn adapters() {
    assert_eq!(adapter().codes(), [""; 0]);
    assert_eq!(adapter().with("blk.0.attn_norm.weight", &[8]).codes(), [""; 0], "norms are passed over");
    let mut empty = adapter();
    empty.tensors.clear();
    let cases = [
        ("no B", adapter().without("blk.0.attn_q.weight.lora_b"), "missing-tensor"),
        ("no A", adapter().without("blk.0.attn_q.weight.lora_a"), "missing-tensor"),
        ("nothing", empty, "missing-tensor"),
        ("ranks differ", adapter().with("blk.0.attn_q.weight.lora_b", &[4, 8]), "shape-mismatch"),
        ("ranks of the embedding", adapter().with("token_embd.weight.lora_a", &[5, 2]), "shape-mismatch"),
        ("a tensor of a model", adapter().with("blk.0.attn_q.weight", &[8, 8]), "unknown-tensor"),
        ("no alpha", adapter().unset("adapter.lora.alpha"), "metadata-missing"),
        ("alpha NaN", adapter().set("adapter.lora.alpha", f32::NAN), "metadata-absurd"),
        ("alpha 0", adapter().set("adapter.lora.alpha", 0f32), "metadata-absurd"),
        ("alpha as u32", adapter().set("adapter.lora.alpha", 16u32), "metadata-wrong-type"),
        ("no kind", adapter().unset("adapter.type"), "metadata-missing"),
        ("another kind", adapter().set("adapter.type", "bogus"), "metadata-absurd"),
        ("of no architecture", adapter().unset("general.architecture"), "metadata-missing"),
    ];
    for (what, draft, code) in cases {
        assert_eq!(draft.codes(), [code], "{what}");
    }
}

/// Well-formed files of other kinds are no broken language models.
#[test]
fn what_holds_nothing_of_a_language_model_is_not_judged_as_one() {
    for architecture in ["flux", "sdxl", "wan", "qwen_image", "whisper", "controlvector", "t5", "clip"] {
        let image = bare(
            &[("general.architecture", architecture.into()), ("general.file_type", 0u32.into())],
            &[("double_blocks.0.img_attn.qkv.weight", &[8, 24]), ("img_in.weight", &[8, 8])],
        );
        assert_eq!(image.codes(), ["not-a-language-model"], "{architecture}");
        // One thing of a model, and it is one.
        for draft in [
            image.clone().set(&format!("{architecture}.block_count"), 1u32),
            image.clone().set("tokenizer.ggml.model", "llama"),
            image.clone().with("token_embd.weight", &[8, 5]),
            image.with("blk.0.attn_q.weight", &[8, 8]),
        ] {
            let judged = draft.codes().contains(&"metadata-missing".to_owned());
            assert_eq!(judged, architecture != "clip", "{architecture}: {:?}", draft.codes());
        }
    }
    let nameless = bare(&[], &[("model.diffusion_model.x", &[8])]);
    assert_eq!(nameless.codes(), ["not-a-language-model"]);
    // What the file calls itself hides nothing, unless it is a kind that is known.
    assert_eq!(draft().set("general.type", "novel").codes(), [""; 0]);
    assert_eq!(draft().set("general.type", "novel").without("output_norm").codes(), ["missing-tensor"]);
}
