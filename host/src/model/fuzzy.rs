//! Two fuzzy digests: of weights, which rounding hardly touches, and of the bytes of a file.
//!
//! TLSH over stored bytes says nothing across storage types. So what is digested is a
//! sample: from every tensor with at least two dimensions, at most `BLOCKS` blocks of
//! `BLOCK_WEIGHTS` weights at even distances; of every 32 weights in them, one byte says
//! which is the largest in magnitude (0 to 31) and whether it is negative (32 more). Tensors
//! go by name. The plan depends on names and shapes alone, so a model and its quantisation
//! are sampled alike.
//!
//! A small distance is a hint that two models are alike. It is never evidence of where
//! weights come from, and no judgement rests on it.
//!
//! The bytes of a file are sampled as the hash check `tlsh-similarity` asks for them: all of a
//! small file, else `STRETCHES` stretches of `STRETCH_BYTES` at even distances, the first at
//! its beginning and the last at its end. That says what was done to a file, and nothing across
//! storage types; digests of the two kinds have nothing to do with each other.

use std::collections::BTreeMap;
use std::io;

use super::lineage;
use super::scan::Weights;
use super::source::{Cursor, ReadAt};
use crate::digest::TlshStream;
use crate::domain::inspection::{ByteSample, FuzzyDigest};

/// The digest's name in reports; the number changes when the sample does.
pub const ALGORITHM: &str = "tlsh/largest-of-32/1";
/// Distances up to this are those of models alike: quantisations and light edits of one. Of
/// one small model, Q8_0 and Q4_0 were 29 and 80 away, a merged adapter 111, a fine-tune 136,
/// an unrelated model 323.
pub const ALIKE: u32 = 100;
/// The name of the digest of bytes.
pub const BYTES_ALGORITHM: &str = "tlsh/bytes-64x64k/1";
const STRETCHES: u64 = 64;
const STRETCH_BYTES: u64 = 64 << 10;
/// Blocks taken of one tensor.
const BLOCKS: u64 = 16;
const BLOCK_WEIGHTS: u64 = 256;
/// Weights of which one is chosen.
const GROUP: usize = 32;
/// Tensors sampled; further ones are counted as skipped.
const TENSORS: usize = 4_096;

/// The sample so far.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    tensors: BTreeMap<String, Vec<u8>>,
    skipped: u64,
    weights: u64,
}

impl Sampler {
    /// Samples the tensors of one file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn file(&mut self, source: &dyn ReadAt, weights: &[Weights]) -> io::Result<()> {
        for tensor in weights {
            let elements = tensor.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
            let blocks = elements.unwrap_or(0) / BLOCK_WEIGHTS;
            if tensor.shape.len() < 2 || blocks == 0 {
                continue;
            }
            // What is looked at as another type for its odd values cannot be read as that.
            let kind = tensor.kind.ggml().filter(|kind| kind.name() == tensor.dtype);
            let known = kind.filter(|&kind| lineage::decoded(kind, &[]).is_some());
            let plan = known.and_then(|kind| Some((kind, kind.bytes(BLOCK_WEIGHTS)?)));
            let Some((kind, block_bytes)) = plan.filter(|_| self.tensors.len() < TENSORS) else {
                self.skipped += 1;
                continue;
            };
            let mut symbols = Vec::new();
            let mut buffer = vec![0; usize::try_from(block_bytes).unwrap_or(0)];
            let wanted = BLOCKS.min(blocks);
            for number in 0..wanted {
                let start =
                    (u128::from(number) * u128::from(blocks) / u128::from(wanted)) as u64 * block_bytes;
                if start + block_bytes > tensor.bytes {
                    break;
                }
                source.read_at(&mut buffer, tensor.offset + start)?;
                let values = lineage::decoded(kind, &buffer).unwrap_or_default();
                self.weights += values.len() as u64;
                symbols.extend(values.chunks(GROUP).map(largest));
            }
            self.tensors.insert(tensor.name.clone(), symbols);
        }
        Ok(())
    }

    pub fn finish(self) -> FuzzyDigest {
        let mut stream = TlshStream::default();
        self.tensors.values().for_each(|symbols| stream.update(symbols));
        FuzzyDigest {
            algorithm: ALGORITHM.to_owned(),
            digest: stream.finish(),
            tensors: self.tensors.len() as u64,
            skipped: self.skipped,
            blocks_per_tensor: BLOCKS,
            weights_per_block: BLOCK_WEIGHTS,
            weights: self.weights,
        }
    }
}

/// The digest of the bytes of the file with this name.
///
/// # Errors
/// The file cannot be read.
pub(super) fn of_bytes(name: &str, source: &dyn ReadAt) -> io::Result<ByteSample> {
    let digest = sample(source)?;
    Ok(ByteSample { file: name.to_owned(), algorithm: BYTES_ALGORITHM.to_owned(), digest })
}

fn sample(source: &dyn ReadAt) -> io::Result<Option<String>> {
    let size = source.size();
    let mut stream = TlshStream::default();
    let mut buffer = vec![0; usize::try_from(size.min(STRETCH_BYTES)).unwrap_or(0)];
    if size <= STRETCHES * STRETCH_BYTES {
        let mut cursor = Cursor::new(source, 0, size);
        while cursor.remaining() > 0 {
            buffer.truncate(usize::try_from(cursor.remaining()).unwrap_or(usize::MAX));
            cursor.fill(&mut buffer)?;
            stream.update(&buffer);
        }
        return Ok(stream.finish());
    }
    for number in 0..STRETCHES {
        let start = u128::from(size - STRETCH_BYTES) * u128::from(number) / u128::from(STRETCHES - 1);
        source.read_at(&mut buffer, start as u64)?;
        stream.update(&buffer);
    }
    Ok(stream.finish())
}

/// Which weight is the largest in magnitude, the first of equals, and its sign.
fn largest(weights: &[f32]) -> u8 {
    let mut best = (0u8, 0.0f32);
    for (place, &weight) in (0u8..).zip(weights) {
        if weight.abs() > best.1.abs() {
            best = (place, weight);
        }
    }
    best.0 | if best.1 < 0.0 { 32 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::tlsh_distance;
    use crate::model::gguf::GgmlType;
    use crate::model::scan::Kind;

    #[test]
    fn the_largest_weight_and_its_sign() {
        let mut weights = [0.5f32; 32];
        assert_eq!(largest(&weights), 0);
        weights[7] = -0.75;
        assert_eq!(largest(&weights), 7 | 32);
        weights[31] = 2.0;
        assert_eq!(largest(&weights), 31);
        assert_eq!(largest(&[0.0; 32]), 0);
        assert_eq!(largest(&[f32::NAN; 32]), 0);
        assert_eq!(largest(&[]), 0);
    }

    /// Pseudo-random weights of 24 tensors.
    fn model(seed: u64, noise: f32) -> FuzzyDigest {
        let mut sampler = Sampler::default();
        let (mut state, mut other) = (seed, 99u64);
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        for number in 0..24 {
            let mut bytes = Vec::new();
            for _ in 0..64 * 256 {
                let weight = next(&mut state) + noise * next(&mut other);
                bytes.extend(weight.to_le_bytes());
            }
            let weights = Weights {
                name: format!("t{number}"),
                kind: Kind::Ggml(GgmlType::F32),
                dtype: "F32",
                shape: vec![64, 256],
                row_bytes: 1024,
                offset: 0,
                bytes: bytes.len() as u64,
            };
            sampler.file(&bytes.as_slice(), &[weights]).unwrap();
        }
        sampler.finish()
    }

    #[test]
    fn alike_is_near_and_unrelated_is_far() {
        let distance = |a: &FuzzyDigest, b: &FuzzyDigest| {
            tlsh_distance(a.digest.as_ref().unwrap(), b.digest.as_ref().unwrap()).unwrap()
        };
        let plain = model(1, 0.0);
        assert_eq!(plain.weights, 24 * 16 * 256);
        assert_eq!((plain.tensors, plain.skipped), (24, 0));
        assert_eq!(distance(&plain, &model(1, 0.0)), 0);
        let (near, far) = (distance(&plain, &model(1, 0.01)), distance(&plain, &model(2, 0.0)));
        assert!(near <= ALIKE, "{near}");
        assert!(far > 2 * near.max(ALIKE / 2), "{far}");
    }

    /// A quantised twin is nearer than a fine-tune, and that than what has nothing to do with it.
    #[test]
    fn quantisations_of_the_example_model_are_near() {
        use crate::model::inspect::{InspectOptions, inspect};
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
        let digest = |name: &str| {
            let inspection =
                inspect(&root.join(name), &InspectOptions { full: true }, &mut |_, _| {}).unwrap();
            inspection.digests.fuzzy.unwrap().digest.unwrap()
        };
        let reference = digest("reference.gguf");
        let distance = |name: &str| tlsh_distance(&reference, &digest(name)).unwrap();
        assert_eq!(distance("copy.gguf"), 0);
        let (half, eighth, tuned) =
            (distance("reference-f16.gguf"), distance("reference-q8_0.gguf"), distance("finetuned.gguf"));
        assert!(half <= ALIKE && eighth <= ALIKE, "{half} {eighth}");
        assert!(tuned > ALIKE && tuned > 2 * eighth, "{tuned}");
    }

    #[test]
    fn what_cannot_be_sampled_has_no_digest() {
        let bytes = vec![0u8; 64 * 256 * 4];
        let tensor = |kind: GgmlType, shape: &[u64]| Weights {
            name: "t".into(),
            kind: Kind::Ggml(kind),
            dtype: kind.name(),
            shape: shape.to_vec(),
            row_bytes: 1,
            offset: 0,
            bytes: 1024,
        };
        let mut sampler = Sampler::default();
        let list = [tensor(GgmlType::I32, &[16, 16]), tensor(GgmlType::F32, &[256])];
        sampler.file(&bytes.as_slice(), &list).unwrap();
        let digest = sampler.finish();
        assert_eq!((digest.digest, digest.tensors, digest.skipped), (None, 0, 1));
    }
}
