//! Units that are numbered in another order, which leaves what a model computes as it is: hidden units of
//! a feed-forward layer, and heads of attention.
//!
//! Whatever knows a unit by its number must have it in the same new place: rows of what leads to the
//! units, columns of what leads away from them, and biases. Where a part stands beside them of which it
//! is not known what it does, nothing is said.

use std::collections::BTreeMap;

use super::permute::Order;
use super::side::{Entry, Side};
use super::{Pair, TensorRelation};
use crate::domain::Problem;

/// Tensors of one part of a layer, under their names in GGUF and in Hugging Face folders.
type Names = [&'static str; 2];
const GATE: Names = ["ffn_gate", "gate_proj"];
const UP: Names = ["ffn_up", "up_proj"];
const DOWN: Names = ["ffn_down", "down_proj"];
const QUERIES: Names = ["attn_q", "q_proj"];
const KEYS: Names = ["attn_k", "k_proj"];
const VALUES: Names = ["attn_v", "v_proj"];
const OUTPUT: Names = ["attn_output", "o_proj"];

/// Beside the units of a feed-forward layer: what has none of them, or others.
const BESIDE_UNITS: [&str; 9] = [
    "ffn_norm",
    "ffn_gate_inp",
    "ffn_gate_exps",
    "ffn_up_exps",
    "ffn_down_exps",
    "ffn_gate_inp_shexp",
    "ffn_gate_shexp",
    "ffn_up_shexp",
    "ffn_down_shexp",
];
/// Beside heads: norms of what goes in, and of every head by itself, and frequencies for all.
const BESIDE_HEADS: [&str; 7] =
    ["attn_norm", "attn_q_norm", "attn_k_norm", "q_norm", "k_norm", "attn_rot_embd", "rotary_emb"];

/// Finds the pairs that only number units in another order, together with all others that know
/// these, and says so of each; biases among them become [`TensorRelation::Permuted`].
pub(super) fn settle(
    sides: (&Side, &Side),
    common: &[(&str, &Entry, &Entry)],
    pairs: &mut [Pair],
) -> Result<(), Problem> {
    let mut layers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for pair in pairs.iter().filter(|pair| pair.relation == TensorRelation::Permuted) {
        layers.entry(split(&pair.name).0.to_owned()).or_default();
    }
    for (place, pair) in pairs.iter().enumerate() {
        if let Some(list) = layers.get_mut(split(&pair.name).0) {
            list.push(place);
        }
    }
    for list in layers.values() {
        let layer = Layer { sides, common, pairs, list };
        let settled = [layer.units()?, layer.heads()?];
        for place in settled.into_iter().flatten().flatten() {
            if let Some(pair) = pairs.get_mut(place) {
                pair.relation = TensorRelation::Permuted;
                pair.renumbered = true;
            }
        }
    }
    Ok(())
}

/// The layer that a tensor is of, its part in it, and what it is of that: `blk.3`, `ffn_up`, `weight`.
fn split(name: &str) -> (&str, &str, &str) {
    let (rest, end) = name.rsplit_once('.').unwrap_or(("", name));
    let (layer, part) = rest.rsplit_once('.').unwrap_or(("", rest));
    (layer, part, end)
}

struct Layer<'a> {
    sides: (&'a Side, &'a Side),
    common: &'a [(&'a str, &'a Entry, &'a Entry)],
    pairs: &'a [Pair],
    /// The places of its pairs.
    list: &'a [usize],
}

/// Pairs that were looked at, and number the same units.
type Settled = Option<Vec<usize>>;

impl Layer<'_> {
    fn pair(&self, names: Names, end: &str) -> Option<(usize, &Pair)> {
        let mut all = self.list.iter().filter_map(|&place| Some((place, self.pairs.get(place)?)));
        all.find(|(_, pair)| {
            let (_, part, own) = split(&pair.name);
            names.contains(&part) && own == end
        })
    }

    /// Is everything known that stands beside these parts? `prefix` is what parts of that kind begin with
    /// in GGUF; in a folder they have a layer of their own.
    fn is_known(&self, parts: &[Names], beside: &[&str], prefix: &str) -> bool {
        let names = self.list.iter().filter_map(|&place| Some(split(&self.pairs.get(place)?.name)));
        let whole = |(layer, part, _): &(&str, &str, &str)| {
            part.starts_with(prefix) || layer.ends_with("mlp") || layer.ends_with("self_attn")
        };
        names.filter(whole).all(|(_, part, end)| {
            let own = parts.as_flattened().contains(&part) && matches!(end, "weight" | "bias");
            own || beside.contains(&part)
        })
    }

    /// Is the bias of this part, if it has one, the reference's in this order? Its place.
    fn bias(&self, names: Names, order: &[usize]) -> Result<Settled, Problem> {
        let Some((place, _)) = self.pair(names, "bias") else { return Ok(Some(Vec::new())) };
        let Some((_, ours, theirs)) = self.common.get(place) else { return Ok(None) };
        let whole = |side: &Side, entry: &Entry| {
            let mut bytes = vec![0; usize::try_from(entry.bytes).unwrap_or(0)];
            side.read(entry, 0, &mut bytes).map(|()| bytes)
        };
        let Ok(bytes) = usize::try_from(ours.bytes) else { return Ok(None) };
        let size = bytes.checked_div(order.len()).filter(|size| *size > 0 && size * order.len() == bytes);
        let Some(size) = size.filter(|_| ours.dtype == theirs.dtype && ours.elements() == order.len() as u64)
        else {
            return Ok(None);
        };
        let (ours, theirs) = (whole(self.sides.0, ours)?, whole(self.sides.1, theirs)?);
        let moved = order.iter().map(|place| theirs.get(place * size..(place + 1) * size));
        Ok(ours.chunks(size).map(Some).eq(moved).then(|| vec![place]))
    }

    /// Hidden units of the feed-forward layer.
    fn units(&self) -> Result<Settled, Problem> {
        let (Some((up_place, up)), Some((down_place, down))) =
            (self.pair(UP, "weight"), self.pair(DOWN, "weight"))
        else {
            return Ok(None);
        };
        let (Some(Order::Rows(up)), Some(Order::Columns(order))) = (&up.order, &down.order) else {
            return Ok(None);
        };
        let gate = self.pair(GATE, "weight");
        // Gate and up may be one matrix, one below the other.
        let both: Vec<usize> =
            order.iter().copied().chain(order.iter().map(|place| place + order.len())).collect();
        let moved = match gate {
            Some((_, gate)) => up == order && gate.order.as_ref() == Some(&Order::Rows(order.clone())),
            None => up == order || *up == both,
        };
        if !moved || !self.is_known(&[GATE, UP, DOWN], &BESIDE_UNITS, "ffn_") {
            return Ok(None);
        }
        let biases = [self.bias(GATE, order)?, self.bias(UP, up)?];
        let weights = [Some(up_place), Some(down_place), gate.map(|(place, _)| place)];
        Ok(all(weights.into_iter().flatten().collect(), biases))
    }

    /// Heads of attention.
    fn heads(&self) -> Result<Settled, Problem> {
        let parts = [QUERIES, KEYS, VALUES, OUTPUT];
        let found = parts.map(|names| self.pair(names, "weight"));
        let [Some(queries), Some(keys), Some(values), Some(output)] = found else { return Ok(None) };
        let moved = [
            rows(queries.1, self.common.get(queries.0)),
            rows(keys.1, self.common.get(keys.0)),
            rows(values.1, self.common.get(values.0)),
            columns(output.1, self.common.get(output.0)),
        ];
        let [Some(q), Some(k), Some(v), Some(o)] = &moved else { return Ok(None) };
        let counts = self.sides.0.head_counts().filter(|counts| self.sides.1.head_counts() == Some(*counts));
        let Some(size) = counts.and_then(|counts| head_size(counts, [q, k, v, o])) else { return Ok(None) };
        let normed = |names: Names| {
            let entry = self.pair(names, "weight").and_then(|(place, _)| self.common.get(place));
            entry.is_none_or(|(_, ours, _)| ours.elements() == size as u64)
        };
        let normed = normed(["attn_q_norm", "q_norm"]) && normed(["attn_k_norm", "k_norm"]);
        if !normed || !self.is_known(&parts, &BESIDE_HEADS, "attn_") {
            return Ok(None);
        }
        let biases = [self.bias(QUERIES, q)?, self.bias(KEYS, k)?, self.bias(VALUES, v)?];
        let weights = [queries, keys, values, output].into_iter();
        let weights = weights.filter(|(_, pair)| pair.order.is_some()).map(|(place, _)| place);
        Ok(all(weights.collect(), biases))
    }
}

/// All of them, if none failed.
fn all<const N: usize>(mut weights: Vec<usize>, biases: [Settled; N]) -> Settled {
    for bias in biases {
        weights.extend(bias?);
    }
    Some(weights)
}

/// Where rows are in the reference; `None` if they are other rows.
fn rows(pair: &Pair, entries: Option<&(&str, &Entry, &Entry)>) -> Option<Vec<usize>> {
    match &pair.order {
        Some(Order::Rows(order)) => Some(order.clone()),
        Some(Order::Columns(_)) => None,
        None => unmoved(pair, *entries?.1.shape.first()?),
    }
}

fn columns(pair: &Pair, entries: Option<&(&str, &Entry, &Entry)>) -> Option<Vec<usize>> {
    match &pair.order {
        Some(Order::Columns(order)) => Some(order.clone()),
        Some(Order::Rows(_)) => None,
        None => unmoved(pair, entries?.1.columns()),
    }
}

fn unmoved(pair: &Pair, count: u64) -> Option<Vec<usize>> {
    let equal = matches!(pair.relation, TensorRelation::Identical | TensorRelation::SameValues);
    equal.then(|| (0..usize::try_from(count).unwrap_or(0)).collect())
}

/// Rows of a head, if these orders of queries, keys, values and outputs move whole heads: those of
/// queries, each with the head of keys and values that it looks at; within heads only values and what
/// is made of them, all alike. `counts` are the numbers of both kinds of heads.
fn head_size(counts: [u64; 2], [q, k, v, o]: [&[usize]; 4]) -> Option<usize> {
    let [heads, groups] = counts.map(|count| usize::try_from(count).unwrap_or(0));
    let size = |order: &[usize], count: usize| {
        order.len().checked_div(count).filter(|size| *size > 0 && size * count == order.len())
    };
    let (key, value) = (size(k, groups)?, size(v, groups)?);
    let shared = heads.checked_div(groups).filter(|shared| shared * groups == heads)?;
    if size(q, heads)? != key || size(o, heads)? != value {
        return None;
    }
    let at = |order: &[usize], place: usize| order.get(place).copied().unwrap_or(usize::MAX);
    let whole = (0..heads).all(|head| {
        let (group, from) = (head / shared, at(q, head * key) / key);
        let rows = (0..key).all(|i| {
            at(q, head * key + i) == from * key + i && at(k, group * key + i) == from / shared * key + i
        });
        rows && (0..value).all(|i| {
            let place = at(v, group * value + i);
            place / value == from / shared && at(o, head * value + i) == from * value + place % value
        })
    });
    whole.then_some(key)
}
