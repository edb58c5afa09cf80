//! Tensors with a row for each token of a vocabulary. Rows at their end are often padding, and those of
//! tokens that no text becomes were never trained: such rows may be zero and nothing be damaged.

use crate::domain::budget;
use crate::model::gguf::token::{CONTROL, UNUSED};
use crate::model::gguf::{Array, Metadata};

/// Rows of tokens that no text becomes, as (first, behind the last), in order.
pub type Idle = Vec<(u64, u64)>;

/// What embeddings and output layers are called: the word before the last of a name.
const TABLES: [&str; 14] = [
    "token_embd",
    "per_layer_token_embd",
    "output",
    "output_layer",
    "embed_tokens",
    "embed_tokens_per_layer",
    "lm_head",
    "wte",
    "word_embeddings",
    "embeddings",
    "embed_in",
    "embed_out",
    "tok_embeddings",
    "shared",
];

/// Has the tensor of this name a row for each token?
pub fn is_table(name: &str) -> bool {
    name.rsplit('.').nth(1).is_some_and(|word| TABLES.contains(&word))
}

/// The tokens that a GGUF vocabulary marks as control or unused ones.
pub fn idle(metadata: &Metadata) -> Idle {
    let kinds = metadata.array("tokenizer.ggml.token_type").into_iter().flat_map(Array::integers);
    stretches((0..).zip(kinds).filter(|(_, kind)| matches!(*kind, CONTROL | UNUSED)).map(|(token, _)| token))
}

/// Numbers in order, as stretches of those that follow one another.
pub fn stretches(tokens: impl IntoIterator<Item = u64>) -> Idle {
    let mut out = Idle::new();
    for token in tokens {
        if let Some((_, behind)) = out.last_mut().filter(|(_, behind)| *behind == token) {
            *behind += 1;
        } else if out.len() < budget::IDLE_STRETCHES {
            out.push((token, token.saturating_add(1)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gguf::read_strict;
    use crate::model::gguf::write::write;

    #[test]
    fn tables_are_known_by_their_names() {
        for name in ["token_embd.weight", "output.weight", "model.embed_tokens.weight", "lm_head.weight"] {
            assert!(is_table(name), "{name}");
        }
        for name in ["blk.0.attn_output.weight", "output_norm.weight", "output", "a.output.dense.weight"] {
            assert!(!is_table(name), "{name}");
        }
    }

    #[test]
    fn idle_tokens_are_those_that_no_text_becomes() {
        let of = |kinds: &[i32]| {
            let mut bytes = Vec::new();
            let entry = ("tokenizer.ggml.token_type", Array::of_i32(kinds).into());
            write(&mut bytes, &[entry], &[]).unwrap();
            idle(&read_strict(&bytes.as_slice()).unwrap().metadata)
        };
        assert_eq!(of(&[2, 3, 3, 1, 6, 5, 3, 1, 4, 5]), [(1, 3), (5, 7), (9, 10)]);
        let hostile: Vec<i32> = (0..10_000).map(|i| if i % 2 == 0 { 5 } else { 1 }).collect();
        assert_eq!(of(&hostile).len(), budget::IDLE_STRETCHES);
        assert_eq!(idle(&Metadata::default()), []);
    }
}
