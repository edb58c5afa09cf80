//! Tensors that stand under another name or in another layer than in the reference.
//!
//! Whatever has nothing in common with its namesake, or has none, is looked for among the
//! reference's tensors of its shape: by a few rows first, and then the nearest one as a whole.

use std::collections::{BTreeMap, BTreeSet};

use super::decode::{self, Weights, is_known};
use super::side::{Entry, Side};
use super::tensor::{self, Buffers};
use super::{Pair, TensorRelation};
use crate::domain::Problem;

/// Tensors that are looked for at most.
const SOUGHT: usize = 4096;
/// Rows of a sample.
const ROWS: u64 = 4;
/// Weights of a sample row that count.
const ROW_WEIGHTS: usize = 256;

/// Where weights were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    /// The name in the reference.
    pub from: String,
    /// Every value is equal; else it is rounded.
    pub equal: bool,
}

/// By the name in the candidate.
pub(super) type Moves = BTreeMap<String, Move>;

/// Looks for every tensor that is not what its name says.
pub(super) fn find(sides: (&Side, &Side), pairs: &[Pair], buffers: &mut Buffers) -> Result<Moves, Problem> {
    let foreign = |pair: &&Pair| {
        pair.relation == TensorRelation::Differs
            && (!pair.matrix || pair.seen.correlation().is_none_or(|correlation| correlation < 0.5))
    };
    let mut sought: Vec<&str> = pairs.iter().filter(foreign).map(|pair| pair.name.as_str()).collect();
    let paired: BTreeSet<&str> = pairs.iter().map(|pair| pair.name.as_str()).collect();
    sought.extend(sides.0.tensors.keys().map(String::as_str).filter(|name| !paired.contains(name)));
    sought.truncate(SOUGHT);
    let mut samples: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    let mut moves = Moves::new();
    for name in sought {
        let Some(ours) = sides.0.tensors.get(name) else { continue };
        let Some(own) = sample(sides.0, ours)? else { continue };
        let mut nearest: Option<(f64, &str, &Entry)> = None;
        for (other, theirs) in
            sides.1.tensors.iter().filter(|(other, entry)| *other != name && entry.shape == ours.shape)
        {
            if !samples.contains_key(other.as_str()) {
                let Some(taken) = sample(sides.1, theirs)? else { continue };
                samples.insert(other, taken);
            }
            let Some(taken) = samples.get(other.as_str()) else { continue };
            let far: f64 = own.iter().zip(taken).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            if nearest.is_none_or(|(least, ..)| far < least) {
                nearest = Some((far, other, theirs));
            }
        }
        let power: f64 = own.iter().map(|x| f64::from(*x).powi(2)).sum();
        // Rounding to four bits leaves far less than half of the power.
        if let Some((far, other, theirs)) = nearest
            && far <= 0.5 * power
        {
            use TensorRelation::{Identical, Requantized, Rounded, SameValues, WithinRounding};
            let (relation, _) = tensor::compare(sides, (ours, theirs), buffers, &|_| {})?;
            if matches!(relation, Identical | SameValues | Rounded | Requantized | WithinRounding) {
                let equal = matches!(relation, Identical | SameValues);
                moves.insert(name.to_owned(), Move { from: other.to_owned(), equal });
            }
        }
    }
    Ok(moves)
}

/// A few weights of a few rows; `None` for types that are not known.
fn sample(side: &Side, entry: &Entry) -> Result<Option<Vec<f32>>, Problem> {
    let Some(kind) = entry.kind.filter(|kind| is_known(*kind)) else { return Ok(None) };
    let columns = entry.columns();
    let rows = (entry.elements() / columns).max(1);
    let Some(length) = kind.bytes(columns).filter(|length| length * rows == entry.bytes) else {
        return Ok(None);
    };
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut out = Vec::new();
    let (mut weights, mut scratch) = (Vec::new(), Weights::default());
    for place in 0..ROWS.min(rows) {
        // Of a vector, whose row may be moved within itself, the whole is read.
        side.read(entry, place * rows / ROWS.min(rows) * length, &mut bytes)?;
        decode::values(kind, &bytes, &mut weights, &mut scratch);
        let step = (weights.len() / ROW_WEIGHTS).max(1);
        out.extend(weights.iter().step_by(step));
    }
    Ok(Some(out))
}

/// The moves in words, layer by layer.
pub(super) fn in_words(moves: &Moves) -> Vec<String> {
    let place = |name: &str| -> String {
        let mut words = name.split('.').collect::<Vec<_>>();
        let number =
            words.iter().position(|word| word.bytes().all(|byte| byte.is_ascii_digit()) && !word.is_empty());
        match number {
            Some(at) => {
                words.truncate(at + 1);
                words.join(".")
            }
            None => name.to_owned(),
        }
    };
    let mut layers: BTreeMap<(String, String), u64> = BTreeMap::new();
    for (ours, theirs) in moves {
        *layers.entry((place(ours), place(&theirs.from))).or_default() += 1;
    }
    let tensors = |count: &u64| if *count == 1 { "1 tensor".to_owned() } else { format!("{count} tensors") };
    layers
        .iter()
        .map(|((ours, theirs), count)| match ours == theirs {
            true => format!("{} of {ours} under each other's names", tensors(count)),
            false => format!("{ours} holds the reference's {theirs} ({})", tensors(count)),
        })
        .collect()
}
