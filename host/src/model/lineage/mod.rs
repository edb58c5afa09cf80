//! How the weights of two artifacts relate, tensor by tensor, without running a model.
//!
//! `quantization` is claimed only when every tensor is equal to the reference's, or is
//! what rounding the reference gives, or lies within what its type's rounding allows, and
//! nothing contradicts it. Nothing is judged by names or digests of files alone, and a type
//! that cannot be decoded makes the answer `unknown`, never a pass.
//!
//! The searches of the K and IQ types are not written here again: where a [`Quantizer`] is given,
//! rows of the reference are quantised once more and compared (`reproduce`). Without one, K and IQ4
//! types are held to the rounding under the scales they store, and of IQ types of fewer bits, whose
//! points say nothing one by one, only what is unrelated is told.

mod decode;
mod grids;
mod judge;
mod kquants;
mod least;
mod lowrank;
mod moved;
mod names;
mod permute;
mod quantize;
mod renumbered;
mod reproduce;
mod rescale;
mod side;
mod tables;
mod tensor;
mod ternary;
mod weigh;

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use serde::{Deserialize, Serialize};

use super::gguf::GgmlType;
use super::imatrix::Imatrix;
use crate::domain::Problem;
use crate::domain::half;
use decode::Weights;
use permute::Order;
use reproduce::Reproduction;
use side::{Entry, Side};
use tensor::{Buffers, Seen};

/// Bytes of the candidate between two signs of progress.
const TOLD_BYTES: u64 = 4 << 20;

/// Whole blocks as numbers; `None` for a type that cannot be decoded.
pub(super) fn decoded(kind: GgmlType, bytes: &[u8]) -> Option<Vec<f32>> {
    let mut values = Vec::new();
    decode::is_known(kind).then(|| decode::values(kind, bytes, &mut values, &mut Weights::default()))?;
    Some(values)
}

/// ggml's quantiser. It is native code, so it runs where its faults do no harm.
pub trait Quantizer {
    /// The blocks of rows of `columns` weights each. `importance` has a number for every column.
    ///
    /// # Errors
    /// Why there are none, in words; then there will be none for other rows, either.
    fn rows(
        &mut self,
        kind: GgmlType,
        columns: u64,
        values: Vec<f32>,
        importance: Option<&[f32]>,
    ) -> Result<Vec<u8>, String>;
}

/// How much of a large model is quantised again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Extent {
    /// Some rows of every tensor.
    #[default]
    Sample,
    /// Every row: slow, and the only way in which IQ types of few bits become a quantisation.
    All,
}

/// Rows of the reference are quantised again.
pub struct Requantize<'a> {
    pub quantizer: &'a mut dyn Quantizer,
    pub extent: Extent,
    /// The importance matrix that the candidate is said to have been made with.
    pub importance: Option<&'a Imatrix>,
}

impl std::fmt::Debug for Requantize<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requantize").field("extent", &self.extent).finish_non_exhaustive()
    }
}

/// How the candidate came about, as far as the weights tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// The same files of weights, byte for byte.
    Identical,
    /// Every weight is equal; type, layout, order of hidden units and heads or metadata may differ.
    SameWeights,
    /// The reference's weights, rounded, and nothing else.
    Quantization,
    /// Weights of the reference that were changed, or some of them with others added.
    Derived,
    /// Nothing in common.
    Unrelated,
    /// The evidence does not suffice.
    Unknown,
}

/// How one tensor relates to the reference's of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TensorRelation {
    /// Equal type and bytes.
    Identical,
    /// Equal values in another type.
    SameValues,
    /// The same rows or columns in another order.
    Permuted,
    /// What rounding the reference to a float type gives.
    Rounded,
    /// What the type's quantiser gives, byte for byte.
    Requantized,
    /// Every weight is within what its type's rounding allows.
    WithinRounding,
    /// So it is, but the errors are larger than the type needs: its steps were made too wide, or the
    /// weights were rounded to a smaller type before (`by_way_of`).
    Coarse,
    /// The reference's is what rounding the candidate's gives.
    Finer,
    /// Both are within what rounding one finer tensor to their types allows.
    CommonOrigin,
    /// Some weights are not explained by rounding.
    Differs,
    /// The reference's weights of another name (`moved_from`), equal or rounded.
    Moved,
    /// Another number of weights, or of dimensions.
    ShapeDiffers,
    /// Only the reference has it.
    Missing,
    /// Only the candidate has it.
    Extra,
    /// Its type cannot be decoded, or its blocks say nothing.
    Unknown,
}

/// The comparison of one tensor. Errors are in units of the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorLineage {
    pub name: String,
    pub reference_type: Option<String>,
    pub candidate_type: Option<String>,
    /// Largest difference between weights; null where none was measured.
    pub max_abs_error: Option<f64>,
    /// What rounding allows there; the largest number of single precision if that is anything.
    pub allowed_error: Option<f64>,
    pub relation: TensorRelation,
    /// Of a tensor of another shape: those of the candidate and of the reference, rows first, and what
    /// the first rows are to each other, as many as both have. The errors are theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shapes: Option<[Vec<u64>; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_rows: Option<TensorRelation>,
    /// Largest error beyond the allowance, 0 if there is none.
    pub excess_error: Option<f64>,
    /// The same in quantisation steps, for block types.
    pub excess_steps: Option<f64>,
    /// Weights beyond the allowance.
    pub weights_beyond: u64,
    /// Cosine between the weights that are not exactly equal or rounded.
    pub correlation: Option<f64>,
    /// Share of blocks that the type's quantiser gives byte for byte, of all or of those that were
    /// quantised again.
    pub exact_blocks: Option<f64>,
    /// Blocks that were quantised again; null if none were.
    pub requantized_blocks: Option<u64>,
    /// Power of the errors of those over that of the quantiser's own, or, of some rows of IQ2_S, IQ3_S
    /// and IQ3_XXS, over the least that the type can have; null if neither has any.
    pub error_ratio: Option<f64>,
    /// The type to which the reference was rounded before it was rounded to the candidate's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_way_of: Option<String>,
    /// The name under which the reference has these weights, if it is another.
    pub moved_from: Option<String>,
    /// Rank of the difference as far as it stands out of the rounding, if it is low: an adapter
    /// was merged.
    pub rank: Option<u64>,
}

/// The comparison of two artifacts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    pub relation: Relation,
    /// Why, in words, the strongest reason first.
    pub reasons: Vec<String>,
    /// Tensors that both have in one shape.
    pub tensors_compared: u64,
    /// Those whose weights are all equal, whatever their type.
    pub tensors_identical: u64,
    /// Largest error beyond what rounding allows, in units of the weights; null if nothing
    /// was compared, or if a weight is NaN or infinite where the other is a number.
    pub max_excess_error: Option<f64>,
    /// The tensor whose excess is largest for the size of its weights.
    pub worst_tensor: Option<String>,
    pub tensors: Vec<TensorLineage>,
}

/// Rounds weights to a type by ggml's reference algorithm; `None` for a type without one
/// here (all but Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0) and for weights that are not whole blocks.
pub fn quantize(kind: crate::model::gguf::GgmlType, weights: &[f32]) -> Option<Vec<u8>> {
    let (blocks, rest) = weights.as_chunks();
    if !rest.is_empty() || !quantize::has_reference(kind) {
        return None;
    }
    let mut out = Vec::new();
    blocks.iter().for_each(|block| quantize::block(kind, block, quantize::Arithmetic::Plain, &mut out));
    Some(out)
}

/// A compared pair, for the judge.
#[derive(Debug, Clone)]
struct Pair {
    name: String,
    relation: TensorRelation,
    seen: Seen,
    matrix: bool,
    order: Option<Order>,
    /// Only its units are numbered in another order, here as in all tensors that know them.
    renumbered: bool,
    rank: Option<u64>,
    by_way_of: Option<GgmlType>,
    again: Option<Reproduction>,
    types: (&'static str, &'static str),
}

/// Compares a candidate with a reference; either may be a GGUF file, a split set, a
/// safetensors file or a folder. `again` is who quantises rows of the reference once more, and
/// which; nobody where it is `None`. `progress` gets (bytes done, bytes in all) of the candidate.
///
/// # Errors
/// A side cannot be read, is damaged, or has no weights.
pub fn compare(
    candidate: &Path,
    reference: &Path,
    again: Option<Requantize<'_>>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Lineage, Problem> {
    let mut sides = (Side::open(candidate)?, Side::open(reference)?);
    if sides.0.gguf != sides.1.gguf {
        let architecture = sides.0.architecture.clone().or_else(|| sides.1.architecture.clone());
        let other = if sides.0.gguf { &mut sides.1 } else { &mut sides.0 };
        other.speak_gguf(architecture.as_deref());
    }
    sides.0.untie_like(&sides.1);
    sides.1.untie_like(&sides.0);
    let (candidate, reference) = (&sides.0, &sides.1);
    let common: Vec<(&str, &Entry, &Entry)> = candidate
        .tensors
        .iter()
        .filter_map(|(name, entry)| Some((name.as_str(), entry, reference.tensors.get(name)?)))
        .filter(|(_, ours, theirs)| ours.shape == theirs.shape)
        .collect();
    let total = common.iter().map(|(_, ours, _)| ours.bytes).sum();
    let mut pairs = all_pairs((candidate, reference), &common, total, progress)?;
    renumbered::settle((candidate, reference), &common, &mut pairs)?;
    lowrank::find((candidate, reference), &common, &mut pairs)?;
    let resized = resized(candidate, reference);
    let views: Vec<_> = resized.iter().map(|(name, ours, theirs)| (*name, ours, theirs)).collect();
    let mut resized = all_pairs((candidate, reference), &views, 1, &mut |_, _| {})?;
    lowrank::find((candidate, reference), &views, &mut resized)?;
    let failure = match again {
        Some(mut how) => reproduce::all((candidate, reference), &common, &mut pairs, &mut how, progress)?,
        None => None,
    };
    let mut moves = moved::find((candidate, reference), &pairs, &mut Buffers::default())?;
    // The embedding does not stand for an output matrix that is there under another name.
    if let Some(output) = candidate.tied.filter(|output| moves.values().any(|found| found.from == *output)) {
        pairs.retain(|pair| pair.name != output);
        moves.remove(output);
    }
    let mut lineage = judge::judge(candidate, reference, (&pairs, &resized), &moves)?;
    lineage.reasons.extend(failure.map(|why| format!("rows could not be quantised again: {why}")));
    Ok(lineage)
}

/// Matrices that have other numbers of rows, as a vocabulary that was extended or cut: the rows that
/// both have.
fn resized<'a>(candidate: &'a Side, reference: &Side) -> Vec<(&'a str, Entry, Entry)> {
    let list = candidate.tensors.iter().filter_map(|(name, ours)| {
        let theirs = reference.tensors.get(name)?;
        let ([rows, columns], [other_rows, others]) = (ours.shape.as_slice(), theirs.shape.as_slice()) else {
            return None;
        };
        let count = (*rows).min(*other_rows);
        (columns == others && rows != other_rows)
            .then(|| Some((name.as_str(), ours.first_rows(count)?, theirs.first_rows(count)?)))?
    });
    list.collect()
}

/// How many threads compare.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4)
}

/// Compares all pairs on a few threads; the first failure ends it.
fn all_pairs(
    sides: (&Side, &Side),
    common: &[(&str, &Entry, &Entry)],
    total: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Pair>, Problem> {
    enum News {
        Bytes(u64),
        Done(usize, Box<Result<Pair, Problem>>),
    }
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, news) = mpsc::sync_channel::<News>(64);
    let mut results: Vec<Option<Pair>> = common.iter().map(|_| None).collect();
    let mut failure = None;
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                let mut buffers = Buffers::default();
                while !stop.load(Ordering::Relaxed) {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = common.get(place) else { return };
                    // The receiver lives until every sender is gone. It is woken now and then only.
                    let untold = Cell::new(0);
                    let told = |bytes| {
                        untold.set(untold.get() + bytes);
                        if untold.get() >= TOLD_BYTES {
                            drop(sender.send(News::Bytes(untold.take())));
                        }
                    };
                    let pair = one_pair(sides, item, &mut buffers, &told);
                    let _ = sender.send(News::Bytes(untold.get()));
                    let _ = sender.send(News::Done(place, Box::new(pair)));
                }
            });
        }
        drop(sender);
        let mut done = 0;
        for news in news {
            match news {
                News::Bytes(bytes) => {
                    done += bytes;
                    progress(done, total);
                }
                News::Done(place, pair) => match (*pair, results.get_mut(place)) {
                    (Ok(pair), Some(slot)) => *slot = Some(pair),
                    (Err(problem), _) => {
                        stop.store(true, Ordering::Relaxed);
                        failure.get_or_insert(problem);
                    }
                    (Ok(_), None) => {}
                },
            }
        }
    });
    if let Some(problem) = failure {
        return Err(problem);
    }
    let count = results.len();
    let pairs: Vec<Pair> = results.into_iter().flatten().collect();
    if pairs.len() == count { Ok(pairs) } else { Err(Problem::internal("a comparing thread ended early")) }
}

fn one_pair(
    sides: (&Side, &Side),
    &(name, ours, theirs): &(&str, &Entry, &Entry),
    buffers: &mut Buffers,
    progress: &dyn Fn(u64),
) -> Result<Pair, Problem> {
    let (mut relation, mut seen) = tensor::compare(sides, (ours, theirs), buffers, progress)?;
    let mut by_way_of = None;
    if matches!(relation, TensorRelation::Differs | TensorRelation::CommonOrigin)
        && let Some((kind, better, looked)) = rounded_twice(sides, (ours, theirs), buffers)?
    {
        (by_way_of, relation, seen) = (Some(kind), better, looked);
    }
    let mut order = None;
    if relation == TensorRelation::Differs
        && (seen.related() < seen.elements || permute::is_likely(sides, (ours, theirs))?)
    {
        order = permute::find(sides, (ours, theirs))?;
        if order.is_some() {
            relation = TensorRelation::Permuted;
        }
    }
    Ok(Pair {
        name: name.to_owned(),
        relation,
        seen,
        matrix: ours.shape.len() > 1,
        order,
        renumbered: false,
        rank: None,
        by_way_of,
        again: None,
        types: (ours.dtype, theirs.dtype),
    })
}

/// Types by way of which conversions go: files of 16 bits most often, and files that were packed before,
/// which some unpack, or pack again.
const WAYS: [GgmlType; 7] = [
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q8_0,
    GgmlType::Q5_1,
    GgmlType::Q5_0,
    GgmlType::Q4_1,
    GgmlType::Q4_0,
];

/// Is the candidate what rounding the reference to some type, and then to its own, gives? By way of which,
/// and what was seen. It is coarse if it could hold more than that type does.
fn rounded_twice(
    sides: (&Side, &Side),
    (ours, theirs): (&Entry, &Entry),
    buffers: &mut Buffers,
) -> Result<Option<(GgmlType, TensorRelation, Seen)>, Problem> {
    use TensorRelation::{Coarse, Identical, Requantized, Rounded, SameValues, WithinRounding};
    let kinds = ours.kind.into_iter().flat_map(|own| WAYS.map(|kind| (own, kind)));
    for (own, kind) in kinds.filter(|(own, kind)| own != kind) {
        let exact = |relation| matches!(relation, Identical | SameValues | Rounded | Requantized);
        // Rounding to blocks moves weights so far that a fine-tune may come to lie near enough.
        let wanted = |relation| exact(relation) || kind.block() == 1 && relation == WithinRounding;
        let Some(between) = theirs.rounded_to(kind) else { continue };
        let first = ours.first_rows(1).zip(theirs.first_rows(1).and_then(|row| row.rounded_to(kind)));
        // All blocks must be exact, those of the first row, too; of 16 bits, nearly all are enough.
        if kind.block() > 1
            && let Some((ours, between)) = first
            && !wanted(tensor::compare(sides, (&ours, &between), buffers, &|_| {})?.0)
        {
            continue;
        }
        let entries = (ours, &between);
        let (relation, seen) = tensor::compare_while(wanted, sides, entries, buffers, &|_| {})?;
        if wanted(relation) {
            let relation = match relation {
                _ if kind.block() > 1 && tensor::coarser(kind, own) => Coarse,
                // Equal to what is between is still a rounding of the reference.
                Identical | SameValues => Rounded,
                relation => relation,
            };
            return Ok(Some((kind, relation, seen)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
