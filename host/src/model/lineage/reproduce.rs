//! Rows of the reference quantised again, by the quantiser that an honest candidate was made with.
//!
//! It answers two questions. Are the candidate's blocks the very bytes that it gives? And, where
//! they are not (another program, other arithmetic, an importance matrix), do the candidate's
//! weights lie about the reference's as such blocks do: what is the power of their errors for that
//! of the quantiser's own? The second needs no knowledge of how codes are chosen, so it also speaks
//! of types whose weights say nothing one by one.
//!
//! Small models are quantised as a whole, of larger ones some rows of every tensor unless all are
//! asked for. Quantisers are slow: K types take as long for a megabyte as a comparison for fifty.
//! Where errors can be bounded without one, it is asked only about those that seem too large.

use super::decode::{self, Weights, is_known};
use super::grids::keeps_signs;
use super::least::{self, least_error};
use super::side::{Entry, Side};
use super::{Extent, Pair, Requantize, TensorRelation};
use crate::domain::Problem;
use crate::model::gguf::GgmlType;

/// Models of which no more weights than these are asked for are quantised as a whole.
const SMALL_WEIGHTS: u64 = 1 << 21;
/// Of larger ones as many weights of a tensor, in whole rows; and as many before anything is said
/// against it.
const SAMPLE_WEIGHTS: u64 = 1 << 10;
const LARGER_SAMPLE_WEIGHTS: u64 = 1 << 16;
/// Weights that the quantiser gets at a time; a longer row is not looked at.
const CHUNK_WEIGHTS: u64 = 1 << 18;

/// Tensors that llama.cpp quantises without an importance that does not fit them.
const EMBEDDINGS: [&str; 2] = ["token_embd.weight", "per_layer_token_embd.weight"];

/// Weights of a group whose errors are compared.
const GROUP: usize = 256;
/// An honest quantiser's errors have at most so many times the power in most groups, whatever
/// importance it was given. Measured on normal, Laplace and Student's weights with importances of
/// three orders of magnitude and more: 1.46, and 2.6 for the types that keep seven signs of eight.
const MOST_ERROR: f32 = 2.0;
const MOST_ERROR_SEVEN_SIGNS: f32 = 3.5;
/// As many times the least power that IQ3_S can have, of which its quantiser's own errors have 1.2 times
/// as much with an importance of one order of magnitude, and 1.5 to 2.1 times without.
const MOST_OF_LEAST: f32 = 2.5;
/// Of models of more weights, tables of a fifth of a second do not matter.
const TABLES_WEIGHTS: u64 = 1 << 30;
/// With other instructions (fused products) the same program gives 97 % of the blocks and more,
/// and the others are as near to the reference.
const NEARLY_ALL_BLOCKS: f64 = 0.95;
const AS_NEAR: f32 = 1.1;

/// What came of it for one tensor.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reproduction {
    pub blocks: u64,
    /// Those that are equal, byte for byte.
    pub equal: u64,
    /// All blocks of the tensor were quantised.
    pub whole: bool,
    /// Of every group, the power of the candidate's errors over that of the quantiser's own, or,
    /// without blocks, of the least that are possible.
    ratios: Vec<f32>,
}

impl Reproduction {
    /// Is the tensor what the quantiser gives?
    fn exact(&self) -> bool {
        self.whole && self.blocks > 0 && self.equal == self.blocks
    }

    /// Share of the blocks that are equal.
    pub fn share(&self) -> Option<f64> {
        (self.blocks > 0).then(|| self.equal as f64 / self.blocks as f64)
    }

    /// The ratio of the group in the middle: one weight far off decides nothing.
    pub fn error_ratio(&self) -> Option<f32> {
        self.ratios.get(self.ratios.len() / 2).copied()
    }

    /// What the tensor is, which was `seen` as within rounding, or unknown.
    fn relation(&self, kind: GgmlType, seen: TensorRelation) -> TensorRelation {
        use GgmlType::{IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
        use TensorRelation::{Coarse, Differs, Requantized, Unknown, WithinRounding};
        let most = match kind {
            IQ2_XXS | IQ2_XS | IQ3_XXS => MOST_ERROR_SEVEN_SIGNS,
            IQ3_S if self.blocks == 0 => MOST_OF_LEAST,
            _ => MOST_ERROR,
        };
        let Some(ratio) = self.error_ratio() else { return seen };
        let worst = self.ratios.last().copied().unwrap_or(f32::INFINITY);
        let nearly = self.whole && self.share() >= Some(NEARLY_ALL_BLOCKS) && worst <= AS_NEAR;
        match seen {
            _ if self.exact() => Requantized,
            WithinRounding if ratio > most => Coarse,
            Unknown if ratio > most => Differs,
            Unknown if nearly || keeps_signs(kind) => WithinRounding,
            seen => seen,
        }
    }
}

/// Quantises rows of all tensors that are not equal or contradicted already. Returns why it could
/// not, if the quantiser failed. `progress` gets (bytes done, bytes in all) of the candidate.
pub(super) fn all(
    sides: (&Side, &Side),
    common: &[(&str, &Entry, &Entry)],
    pairs: &mut [Pair],
    how: &mut Requantize<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<String>, Problem> {
    let mut list: Vec<(usize, Task)> = Vec::new();
    for (place, ((_, ours, theirs), pair)) in common.iter().zip(pairs.iter()).enumerate() {
        if matches!(pair.relation, TensorRelation::WithinRounding | TensorRelation::Unknown) {
            let between = pair.by_way_of.and_then(|kind| theirs.rounded_to(kind));
            list.extend(Task::new(ours, between.as_ref().unwrap_or(theirs)).map(|task| (place, task)));
        }
    }
    let weights: u64 = list.iter().map(|(_, task)| task.rows * task.columns).sum();
    if how.extent == Extent::Sample && weights > SMALL_WEIGHTS {
        list.iter_mut().for_each(|(_, task)| *task = task.sampled(SAMPLE_WEIGHTS).bounded(weights));
    }
    let total = list.iter().map(|(_, task)| task.looked_at * task.row_bytes[0]).sum();
    let (mut work, mut done) = (Work::default(), 0);
    for (place, task) in list {
        let (Some((name, ours, theirs)), Some(pair)) = (common.get(place), pairs.get_mut(place)) else {
            continue;
        };
        let between = pair.by_way_of.and_then(|kind| theirs.rounded_to(kind));
        let theirs = between.as_ref().unwrap_or(theirs);
        let mut importance = match how.importance {
            Some(of) => of.of(name)?,
            None => None,
        };
        let wanted = task.rows / task.high * task.columns;
        if let Some(other) =
            importance.as_ref().map(|list| list.len() as u64).filter(|count| *count != wanted)
        {
            if !EMBEDDINGS.contains(name) {
                return Ok(Some(format!(
                    "{name}: the importance matrix has {other} numbers for {wanted} columns"
                )));
            }
            importance = None;
        }
        if task.kind.needs_importance() && importance.is_none() {
            continue;
        }
        let mut look = |task| work.tensor(sides, (ours, theirs), task, importance.as_deref(), how);
        let mut found = look(task)?;
        let accused = |found: &Reproduction| {
            matches!(
                found.relation(task.kind, pair.relation),
                TensorRelation::Coarse | TensorRelation::Differs
            )
        };
        if found.as_ref().is_ok_and(|found| (task.bounded || !found.whole) && accused(found)) {
            found = look(Task { bounded: false, ..task.sampled(LARGER_SAMPLE_WEIGHTS) })?;
        }
        match found {
            Ok(found) => {
                pair.relation = found.relation(task.kind, pair.relation);
                pair.again = Some(found);
            }
            Err(why) => return Ok(Some(format!("{name}: {why}"))),
        }
        done += task.looked_at * task.row_bytes[0];
        progress(done, total);
    }
    Ok(None)
}

/// Which rows of a tensor are quantised: some in equal distances, or all.
#[derive(Debug, Clone, Copy)]
struct Task {
    /// Of the candidate.
    kind: GgmlType,
    from: GgmlType,
    columns: u64,
    rows: u64,
    /// Rows of an expert, of which each has an importance of its own.
    high: u64,
    looked_at: u64,
    /// Errors are compared with the least that are possible instead of the quantiser's.
    bounded: bool,
    /// Of candidate and reference.
    row_bytes: [u64; 2],
}

impl Task {
    /// All rows, if there is a quantiser for them.
    fn new(ours: &Entry, theirs: &Entry) -> Option<Self> {
        let kind = ours.kind.filter(|kind| kind.has_quantizer() && is_known(*kind))?;
        let from = theirs.kind.filter(|kind| is_known(*kind))?;
        let columns = ours.columns();
        let rows = ours.elements() / columns;
        let high = ours.shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
        let row_bytes = [kind.bytes(columns)?, from.bytes(columns)?];
        let task = Self { kind, from, columns, rows, high, looked_at: rows, bounded: false, row_bytes };
        (columns <= CHUNK_WEIGHTS).then_some(task)
    }

    /// As many rows as have so many weights.
    fn sampled(self, weights: u64) -> Self {
        Self { looked_at: weights.div_ceil(self.columns).min(self.rows), ..self }
    }

    /// Without the quantiser, if its tables would take longer than comparing a model of so many weights:
    /// no error that passes for small beside the least that are possible is large beside its own.
    fn bounded(self, weights: u64) -> Self {
        let worth = self.kind == GgmlType::IQ2_S || weights <= TABLES_WEIGHTS;
        Self { bounded: least::is_known(self.kind) && worth, ..self }
    }
}

/// Buffers, used again for every tensor.
#[derive(Debug, Default)]
struct Work {
    row: Vec<u8>,
    /// Rows that the quantiser is to get, and what the candidate has of them.
    values: Vec<f32>,
    candidate: Vec<u8>,
    decoded: [Vec<f32>; 2],
    scratch: Weights,
}

impl Work {
    fn tensor(
        &mut self,
        sides: (&Side, &Side),
        (ours, theirs): (&Entry, &Entry),
        task: Task,
        importance: Option<&[f32]>,
        how: &mut Requantize<'_>,
    ) -> Result<Result<Reproduction, String>, Problem> {
        let Task { kind, from, columns, high, rows, looked_at, bounded, row_bytes } = task;
        let [own_bytes, their_bytes] = row_bytes;
        let mut found = Reproduction { whole: looked_at == rows, ..Reproduction::default() };
        let of_expert = |expert: u64| {
            let start = usize::try_from(expert * columns).ok()?;
            importance?.get(start..start + usize::try_from(columns).ok()?)
        };
        let mut expert = 0;
        self.values.clear();
        self.candidate.clear();
        for number in 0..looked_at {
            let row = number * (rows / looked_at);
            if self.values.len() as u64 + columns > CHUNK_WEIGHTS || row / high != expert {
                if let Err(why) = self.flush(&task, of_expert(expert), how, &mut found) {
                    return Ok(Err(why));
                }
                expert = row / high;
            }
            read(sides.1, theirs, row * their_bytes, their_bytes, &mut self.row)?;
            let [values, _] = &mut self.decoded;
            decode::values(from, &self.row, values, &mut self.scratch);
            read(sides.0, ours, row * own_bytes, own_bytes, &mut self.row)?;
            if values.iter().all(|x| x.is_finite()) {
                self.values.extend_from_slice(values);
                self.candidate.extend_from_slice(&self.row);
            } else {
                // There is no quantiser for what is not a number.
                found.blocks += if bounded { 0 } else { columns / kind.block() };
                found.ratios.push(f32::INFINITY);
            }
        }
        Ok(self.flush(&task, of_expert(expert), how, &mut found).map(|()| {
            found.ratios.sort_by(f32::total_cmp);
            found
        }))
    }

    /// Lets the quantiser have the rows that were collected, and compares.
    fn flush(
        &mut self,
        &Task { kind, columns, bounded, .. }: &Task,
        importance: Option<&[f32]>,
        how: &mut Requantize<'_>,
        found: &mut Reproduction,
    ) -> Result<(), String> {
        if self.values.is_empty() {
            return Ok(());
        }
        let [theirs, ours] = &mut self.decoded;
        decode::values(kind, &self.candidate, theirs, &mut self.scratch);
        let errors = |decoded: &[f32], values: &[f32]| -> Vec<f64> {
            let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
            let groups = decoded.chunks(GROUP).zip(values.chunks(GROUP));
            groups.map(|(decoded, values)| decoded.iter().zip(values).map(square).sum()).collect()
        };
        let own = if bounded {
            self.values.as_chunks::<GROUP>().0.iter().map(|group| least_error(kind, group)).collect()
        } else {
            let plain = super::quantize(kind, &self.values).filter(|_| importance.is_none());
            let own = match plain {
                Some(own) => own,
                None => how.quantizer.rows(kind, columns, self.values.clone(), importance)?,
            };
            let size = usize::try_from(kind.block_bytes()).unwrap_or(1).max(1);
            let blocks = own.chunks_exact(size).zip(self.candidate.chunks_exact(size));
            found.blocks += blocks.len() as u64;
            found.equal += blocks.filter(|(a, b)| a == b).count() as u64;
            decode::values(kind, &own, ours, &mut self.scratch);
            errors(ours, &self.values)
        };
        found.ratios.extend(errors(theirs, &self.values).iter().zip(own).map(|(&theirs, own)| {
            let ratio = if theirs == own { 1.0 } else { (theirs / own) as f32 };
            // What is no number is no error that could be small.
            if ratio.is_nan() { f32::INFINITY } else { ratio }
        }));
        self.values.clear();
        self.candidate.clear();
        Ok(())
    }
}

fn read(side: &Side, entry: &Entry, start: u64, bytes: u64, into: &mut Vec<u8>) -> Result<(), Problem> {
    into.resize(usize::try_from(bytes).unwrap_or(0), 0);
    side.read(entry, start, into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use GgmlType::{IQ2_XXS, IQ3_S, IQ3_XXS, Q4_K};
    use TensorRelation::{Coarse, Differs, Requantized, Unknown, WithinRounding};

    #[test]
    fn what_blocks_and_errors_say() {
        let found = |equal: u64, whole: bool, ratios: &[f32]| Reproduction {
            blocks: 100,
            equal,
            whole,
            ratios: ratios.to_vec(),
        };
        let all = found(100, true, &[1.0; 5]);
        for (found, kind, seen, expected) in [
            (&all, Q4_K, WithinRounding, Requantized),
            (&all, IQ2_XXS, Unknown, Requantized),
            // Some rows only.
            (&found(100, false, &[1.0; 5]), Q4_K, WithinRounding, WithinRounding),
            (&found(100, false, &[1.0; 5]), IQ2_XXS, Unknown, Unknown),
            // Another build of the same program; and blocks that are too far, or too many.
            (&found(96, true, &[0.9, 1.0, 1.1]), IQ3_XXS, Unknown, WithinRounding),
            (&found(96, true, &[1.0, 1.0, 1.2]), IQ3_XXS, Unknown, Unknown),
            (&found(94, true, &[1.0, 1.0, 1.0]), IQ3_XXS, Unknown, Unknown),
            // An importance matrix, and needlessly coarse steps, or other weights.
            (&found(0, true, &[1.0, 1.5, 9.0]), Q4_K, WithinRounding, WithinRounding),
            (&found(0, true, &[1.0, 2.1, 2.2]), Q4_K, WithinRounding, Coarse),
            (&found(0, true, &[1.0, 2.1, 2.2]), IQ3_S, Unknown, Differs),
            (&found(0, true, &[1.0, 1.5, 9.0]), IQ3_S, Unknown, WithinRounding),
            (&found(0, true, &[1.0, 3.4, 9.0]), IQ2_XXS, Unknown, Unknown),
            (&found(0, true, &[1.0, 3.6, 9.0]), IQ2_XXS, Unknown, Differs),
            (&found(0, true, &[1.0, f32::INFINITY, f32::INFINITY]), Q4_K, WithinRounding, Coarse),
            // Nothing was seen.
            (&found(0, true, &[]), IQ3_S, Unknown, Unknown),
        ] {
            assert_eq!(found.relation(kind, seen), expected, "{kind:?} {found:?}");
        }
    }
}
