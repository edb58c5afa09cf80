//! Models with random weights, for measuring speed: it does not depend on the weights.
//!
//! Memory is bounded by the largest tensor, not by the model: one pool of encoded random
//! weights is made, and every tensor is a window into it, at its own place. Deliberately
//! absent: any likeness to a trained model. Never judge anything with these files.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use assayd::model::gguf::GgmlType;

use crate::{
    file::{self, Tensor, Vocabulary, kind_for},
    net::Config,
    quant,
    rng::Rng,
};

/// Tokens in the vocabulary, as many as llama's first.
const VOCAB: usize = 32_000;
/// Fewest and most parameters that [`shape_for`] knows shapes for.
const RANGE: std::ops::RangeInclusive<u64> = 50_000_000..=2_000_000_000;
/// Spare blocks in the pool, so that windows of the largest tensor differ too.
const SPARE_BLOCKS: usize = 4096;

/// A shape of about `parameters`, in the proportions of the llama family.
pub(crate) fn shape_for(parameters: u64) -> Result<Config> {
    ensure!(RANGE.contains(&parameters), "between 50M and 2B parameters, please, not {parameters}");
    let mut best: Option<(u64, Config)> = None;
    for heads in (4..=32).step_by(4) {
        let width = heads * 64;
        // Fewer, wider layers measure the same code; these depths are the family's.
        for layers in (width / 96).max(4)..=(width / 48).max(8) {
            let config = Config {
                vocab: VOCAB,
                width,
                layers,
                heads,
                kv_heads: heads / 2,
                ffn: (width * 8 / 3).next_multiple_of(256),
                context: 2048,
                rope_base: 10_000.0,
                eps: 1e-5,
            };
            let distance = (config.parameters() as u64).abs_diff(parameters);
            if best.is_none_or(|(least, _)| distance < least) {
                best = Some((distance, config));
            }
        }
    }
    Ok(best.context("no shape at all")?.1)
}

/// Writes a model of about `parameters` random weights; returns its shape.
pub(crate) fn write(path: &Path, parameters: u64, kind: GgmlType, seed: u64) -> Result<Config> {
    let config = shape_for(parameters)?;
    let shapes = config.shapes();
    let largest =
        shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).max().context("no tensors")?;

    let mut rng = Rng::new(seed);
    // Normal weights with the deviation of an initialised network: logits stay finite.
    let values: Vec<f32> = (0..largest + SPARE_BLOCKS * 32).map(|_| (rng.normal() * 0.02) as f32).collect();
    let pool = quant::encode(&values, kind).with_context(|| format!("cannot write {}", kind.name()))?;
    drop(values);
    let norms = quant::encode(&vec![1.0; config.width], GgmlType::F32).context("cannot write F32")?;

    let mut tensors = Vec::new();
    for (name, shape) in shapes {
        let kind = kind_for(&shape, kind);
        let elements: usize = shape.iter().product();
        let bytes = usize::try_from(kind.bytes(elements as u64).context("rows are not whole blocks")?)?;
        let data = if shape.len() < 2 {
            norms.get(..bytes)
        } else {
            // Where the window begins: at a block, anywhere that leaves room for it.
            let block = usize::try_from(kind.block_bytes())?;
            let start = rng.below((pool.len() - bytes) / block + 1) * block;
            pool.get(start..start + bytes)
        };
        tensors.push(Tensor { name, kind, shape, data: data.context("a window past the pool")? });
    }

    let (pieces, scores, kinds) = vocabulary();
    let vocabulary = Vocabulary { pieces: &pieces, scores: &scores, kinds: &kinds };
    file::write(path, "assayd random weights", &config, vocabulary, kind, &tensors)?;
    Ok(config)
}

/// `VOCAB` tokens: control and bytes as everywhere, then all short words of letters.
fn vocabulary() -> (Vec<String>, Vec<f32>, Vec<i32>) {
    let mut pieces = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut kinds = vec![2, 3, 3];
    for byte in 0..=255_u8 {
        pieces.push(format!("<0x{byte:02X}>"));
        kinds.push(6);
    }
    let mut scores = vec![0.0; pieces.len()];
    let letters = || 'a'..='z';
    let two = || letters().flat_map(move |a| letters().map(move |b| format!("{a}{b}")));
    let words = std::iter::once("\u{2581}".to_owned())
        .chain(letters().map(String::from))
        .chain(letters().map(|a| format!("\u{2581}{a}")))
        .chain(two())
        .chain(two().map(|w| format!("\u{2581}{w}")))
        .chain(two().flat_map(move |w| letters().map(move |c| format!("{w}{c}"))))
        .chain(two().flat_map(move |w| letters().map(move |c| format!("\u{2581}{w}{c}"))));
    for word in words.take(VOCAB - pieces.len()) {
        scores.push(-(scores.len() as f32));
        pieces.push(word);
        kinds.push(1);
    }
    (pieces, scores, kinds)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn shapes_are_close_to_what_was_asked() {
        for wanted in [100_000_000_u64, 250_000_000, 500_000_000, 1_000_000_000] {
            let config = shape_for(wanted).unwrap();
            let got = config.parameters() as f64;
            assert!((got / wanted as f64 - 1.0).abs() < 0.1, "{wanted}: {got}");
            assert_eq!(config.width % 256, 0, "rows of whole blocks, for every type");
        }
        assert!(shape_for(1_000).is_err());
    }

    #[test]
    fn every_token_is_there_once() {
        let (pieces, scores, kinds) = vocabulary();
        assert_eq!(pieces.len(), VOCAB);
        assert_eq!((scores.len(), kinds.len()), (VOCAB, VOCAB));
        assert_eq!(pieces.iter().collect::<BTreeSet<_>>().len(), VOCAB);
    }
}
