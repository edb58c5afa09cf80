//! From pairs of tensors to one relation, with its reasons.

use std::collections::{BTreeMap, BTreeSet};

use super::moved::{self, Moves};
use super::reproduce::Reproduction;
use super::side::{Entry, Side};
use super::{Lineage, Pair, Relation, TensorLineage, TensorRelation, decode, grids, lowrank, tables};
use crate::domain::Problem;
use crate::model::gguf::GgmlType;
use crate::model::source::ReadAt as _;

/// With less than this share of the weights in common, models are unrelated.
const RELATED_SHARE: f64 = 0.05;
/// Names listed in one reason.
const NAMES: usize = 3;

/// Tensors that are computed from the configuration, not trained.
fn is_computed(name: &str) -> bool {
    name.starts_with("rope_f") || name.ends_with("rotary_emb.inv_freq")
}

pub(super) fn judge(
    candidate: &Side,
    reference: &Side,
    (pairs, resized): (&[Pair], &[Pair]),
    moves: &Moves,
) -> Result<Lineage, Problem> {
    let mut tensors: Vec<TensorLineage> = pairs.iter().map(describe).collect();
    tensors.extend(unpaired(candidate, reference, resized));
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    for tensor in &mut tensors {
        if let Some(found) = moves.get(&tensor.name) {
            // What was measured was measured against the namesake.
            let blank = (tensor.reference_type.clone(), tensor.candidate_type.clone());
            *tensor = TensorLineage {
                relation: TensorRelation::Moved,
                moved_from: Some(found.from.clone()),
                ..blank_of(&tensor.name, blank)
            };
        }
    }
    // What is there under another name is not missing.
    let found: BTreeSet<&str> = moves.values().map(|found| found.from.as_str()).collect();
    tensors
        .retain(|tensor| tensor.relation != TensorRelation::Missing || !found.contains(tensor.name.as_str()));
    if !is_adapted(pairs) {
        tensors.iter_mut().for_each(|tensor| tensor.rank = None);
    }
    let (relation, reasons) = decide((candidate, reference), pairs, &tensors, moves)?;
    let equal =
        |pair: &&Pair| matches!(pair.relation, TensorRelation::Identical | TensorRelation::SameValues);
    let own = |pair: &&Pair| pair.relation != TensorRelation::Permuted && !moves.contains_key(&pair.name);
    let worst = pairs
        .iter()
        .chain(resized)
        .filter(|pair| pair.seen.tally.excess > 0.0 && own(pair))
        .max_by(|a, b| relative(a).total_cmp(&relative(b)));
    let measured = pairs.iter().chain(resized).filter(own);
    Ok(Lineage {
        relation,
        reasons,
        tensors_compared: pairs.len() as u64,
        tensors_identical: pairs.iter().filter(equal).count() as u64,
        max_excess_error: measured.map(|pair| f64::from(pair.seen.tally.excess)).reduce(f64::max),
        worst_tensor: worst.map(|pair| pair.name.clone()),
        tensors,
    })
}

fn relative(pair: &Pair) -> f64 {
    f64::from(pair.seen.tally.excess) / pair.seen.scale().max(f64::MIN_POSITIVE)
}

fn describe(pair: &Pair) -> TensorLineage {
    use TensorRelation::{Identical, Permuted, SameValues, Unknown};
    let (seen, tally, again) = (&pair.seen, &pair.seen.tally, pair.again.as_ref());
    // Exactly rounded tensors were not measured weight by weight: their error is not known.
    let (error, allowed) = match pair.relation {
        Identical | SameValues => (Some(0.0), Some(0.0)),
        Permuted | Unknown => (None, None),
        _ if tally.max_error > 0.0 => (Some(tally.max_error.into()), Some(tally.allowed.into())),
        _ => (None, None),
    };
    TensorLineage {
        name: pair.name.clone(),
        reference_type: Some(pair.types.1.to_owned()),
        candidate_type: Some(pair.types.0.to_owned()),
        max_abs_error: error,
        allowed_error: allowed,
        relation: pair.relation,
        shapes: None,
        common_rows: None,
        excess_error: (!matches!(pair.relation, Permuted | Unknown)).then_some(tally.excess.into()),
        excess_steps: (tally.excess_steps > 0.0).then_some(tally.excess_steps.into()),
        weights_beyond: if pair.relation == Permuted { 0 } else { tally.beyond },
        correlation: seen.correlation(),
        exact_blocks: again.map_or_else(|| seen.exact_share(), Reproduction::share),
        requantized_blocks: again.map(|again| again.blocks).filter(|&blocks| blocks > 0),
        error_ratio: again.and_then(Reproduction::error_ratio).map(f64::from),
        by_way_of: pair.by_way_of.map(|kind| kind.name().to_owned()),
        moved_from: None,
        rank: pair.rank,
    }
}

/// A tensor of which nothing was measured; `types` are those of reference and candidate.
fn blank_of(name: &str, types: (Option<String>, Option<String>)) -> TensorLineage {
    TensorLineage {
        name: name.to_owned(),
        reference_type: types.0,
        candidate_type: types.1,
        max_abs_error: None,
        allowed_error: None,
        relation: TensorRelation::Unknown,
        shapes: None,
        common_rows: None,
        excess_error: None,
        excess_steps: None,
        weights_beyond: 0,
        correlation: None,
        exact_blocks: None,
        requantized_blocks: None,
        error_ratio: None,
        by_way_of: None,
        moved_from: None,
        rank: None,
    }
}

/// Tensors of one side, or of different shapes.
fn unpaired(candidate: &Side, reference: &Side, resized: &[Pair]) -> Vec<TensorLineage> {
    let blank = |name: &str, ours: Option<&Entry>, theirs: Option<&Entry>, relation| {
        let types = (theirs.map(|entry| entry.dtype.to_owned()), ours.map(|entry| entry.dtype.to_owned()));
        TensorLineage { relation, ..blank_of(name, types) }
    };
    // A second scale belongs to weights that were not understood.
    let lone = |side: &Side, name, relation| {
        if side.scales.contains(name) { TensorRelation::Unknown } else { relation }
    };
    let rows_of: BTreeMap<&str, &Pair> = resized.iter().map(|pair| (pair.name.as_str(), pair)).collect();
    let mut list = Vec::new();
    for (name, ours) in &candidate.tensors {
        match reference.tensors.get(name) {
            None => {
                let relation = lone(candidate, name, TensorRelation::Extra);
                list.push(blank(name, Some(ours), None, relation));
            }
            Some(theirs) if theirs.shape != ours.shape => {
                let rows = rows_of.get(name.as_str()).copied();
                list.push(TensorLineage {
                    relation: TensorRelation::ShapeDiffers,
                    shapes: Some([ours.shape.clone(), theirs.shape.clone()]),
                    common_rows: rows.map(|pair| pair.relation),
                    ..rows.map_or_else(
                        || blank(name, Some(ours), Some(theirs), TensorRelation::ShapeDiffers),
                        describe,
                    )
                });
            }
            Some(_) => {}
        }
    }
    for (name, theirs) in &reference.tensors {
        if !candidate.tensors.contains_key(name) {
            let relation = lone(reference, name, TensorRelation::Missing);
            list.push(blank(name, None, Some(theirs), relation));
        }
    }
    list
}

fn decide(
    (candidate, reference): (&Side, &Side),
    pairs: &[Pair],
    tensors: &[TensorLineage],
    moves: &Moves,
) -> Result<(Relation, Vec<String>), Problem> {
    use TensorRelation::*;
    let named = |relation: TensorRelation| -> Vec<&str> {
        let matching = tensors.iter().filter(|tensor| tensor.relation == relation);
        matching.map(|tensor| tensor.name.as_str()).filter(|name| !is_computed(name)).collect()
    };
    let mut reasons = Vec::new();
    // What could stand anywhere in GGUF contradicts nothing.
    let guessed = candidate.guessed || reference.guessed;
    let foreign: BTreeSet<&str> =
        candidate.foreign.iter().chain(&reference.foreign).map(String::as_str).collect();
    let renamed = !moves.is_empty() && moves.keys().all(|name| !reference.tensors.contains_key(name));
    if pairs.is_empty() && moves.is_empty() {
        let shapes = named(ShapeDiffers);
        return Ok(if guessed {
            (Relation::Unknown, vec![unplaced(candidate, reference, &foreign)])
        } else if shapes.is_empty() {
            (
                Relation::Unknown,
                vec!["no tensor of the candidate has the name of one of the reference".to_owned()],
            )
        } else {
            (Relation::Unrelated, vec![format!("no tensor has the reference's shape: {}", names(&shapes))])
        });
    }
    // Vectors of norms are alike in all models; matrices tell.
    let matrices = || pairs.iter().filter(|pair| pair.matrix && pair.relation != Unknown);
    let total: u64 =
        candidate.tensors.values().filter(|entry| entry.shape.len() > 1).map(Entry::elements).sum();
    let paired: BTreeSet<&str> = pairs.iter().map(|pair| pair.name.as_str()).collect();
    let related: u64 = matrices()
        .map(|pair| {
            if moves.contains_key(&pair.name) || pair.relation == Permuted || pair.relation == Finer {
                pair.seen.elements
            } else {
                pair.seen.related()
            }
        })
        .sum::<u64>()
        + moves
            .keys()
            .filter(|name| !paired.contains(name.as_str()))
            .filter_map(|name| candidate.tensors.get(name).filter(|entry| entry.shape.len() > 1))
            .map(Entry::elements)
            .sum::<u64>();
    if matrices().next().is_some() && !guessed && (related as f64) < RELATED_SHARE * total as f64 {
        let share = 100.0 * related as f64 / total as f64;
        return Ok((
            Relation::Unrelated,
            vec![format!("{share:.1} % of the weights have anything in common")],
        ));
    }
    if !moves.is_empty() {
        let list = moved::in_words(moves);
        let what = if renamed { "have other names" } else { "are in other places" };
        reasons.push(format!(
            "{} of {} tensors {what} than in the reference: {}",
            moves.len(),
            tensors.len(),
            names(&list.iter().map(String::as_str).collect::<Vec<_>>())
        ));
    }
    let partly: BTreeSet<&str> =
        tensors.iter().filter(|tensor| is_partly(tensor)).map(|tensor| tensor.name.as_str()).collect();
    let (other_blocks, differing): (Vec<&str>, Vec<&str>) =
        named(Differs).into_iter().partition(|name| partly.contains(name));
    let shapes: Vec<String> = tensors.iter().filter_map(resized_in_words).collect();
    for (list, what) in [
        (differing, "weights differ by more than rounding"),
        (other_blocks, "most blocks are what the quantiser gives, and some are not"),
        (shapes.iter().map(String::as_str).collect(), "another shape"),
        (named(Missing), "missing from the candidate"),
        (named(Extra), "not in the reference"),
    ] {
        if !list.is_empty() {
            reasons.push(format!("{} of {} tensors: {what}: {}", list.len(), tensors.len(), names(&list)));
        }
    }
    reasons.extend(adapter(tensors));
    reasons.extend(one_file(candidate, &named(Differs)));
    let permuted = named(Permuted);
    if !permuted.is_empty() {
        if pairs.iter().all(|pair| pair.relation != Permuted || pair.renumbered) {
            reasons
                .push(format!("hidden units or heads are numbered in another order: {}", names(&permuted)));
        } else {
            let list = names(&permuted);
            let what =
                "rows or columns stand in another order, which is not known to leave the function as it is";
            reasons.insert(0, format!("{what}: {list}"));
            return Ok((Relation::Derived, reasons));
        }
    }
    let lone = tensors.iter().any(|tensor| {
        matches!(tensor.relation, ShapeDiffers | Missing | Extra) && !is_computed(&tensor.name)
    });
    let known = |(name, found): (&String, &moved::Move)| {
        !foreign.contains(name.as_str()) && !foreign.contains(found.from.as_str())
    };
    let moved = !(renamed && renamed_whole(reference, pairs, moves)) && moves.iter().any(known);
    let contradicted = moved || tensors.iter().any(|tensor| tensor.relation == Differs);
    if contradicted && !guessed || lone && foreign.is_empty() {
        return Ok((Relation::Derived, reasons));
    }
    if contradicted || lone {
        reasons.insert(0, unplaced(candidate, reference, &foreign));
        return Ok((Relation::Unknown, reasons));
    }
    let finer = named(Finer);
    if !finer.is_empty() {
        reasons.push(format!(
            "the reference is a rounding of the candidate, compare them the other way round: {}",
            names(&finer)
        ));
        return Ok((Relation::Unknown, reasons));
    }
    let common = named(CommonOrigin);
    if !common.is_empty() {
        reasons.push(format!(
            "the reference is itself rounded; both may come from one finer model, compare with that: {}",
            names(&common)
        ));
        return Ok((Relation::Unknown, reasons));
    }
    let coarse = named(Coarse);
    if !coarse.is_empty() {
        reasons.push(format!(
            "{} of {} tensors are rounded more coarsely than their type needs: {}",
            coarse.len(),
            tensors.len(),
            names(&coarse)
        ));
        reasons.extend(ways(pairs));
        reasons.extend(again(pairs));
        return Ok((Relation::Unknown, reasons));
    }
    let unknown = named(Unknown);
    if !unknown.is_empty() {
        reasons.push(format!("{} tensors cannot be compared: {}", unknown.len(), names(&unknown)));
        let side = |name: &&str| [candidate.tensors.get(*name), reference.tensors.get(*name)];
        let opaque: BTreeSet<GgmlType> = unknown
            .iter()
            .flat_map(side)
            .flatten()
            .filter_map(|entry| match entry.kind {
                None if entry.dtype == GgmlType::NVFP4.name() => Some(GgmlType::NVFP4),
                kind => kind.filter(|kind| !decode::is_known(*kind) || grids::is_known(*kind)),
            })
            .collect();
        reasons.extend(
            opaque.iter().map(|kind| format!("{} cannot be judged: {}", kind.name(), tables::reason(*kind))),
        );
        reasons.extend(again(pairs));
        return Ok((Relation::Unknown, reasons));
    }
    let equal = |pair: &Pair| matches!(pair.relation, Identical | SameValues | Permuted);
    if pairs.iter().all(equal) && moves.values().all(|found| found.equal) {
        let identical = moves.is_empty()
            && pairs.iter().all(|pair| pair.relation == Identical)
            && same_headers(candidate, reference)?;
        reasons.push(if identical { "every byte is equal" } else { "every weight is equal" }.to_owned());
        return Ok((if identical { Relation::Identical } else { Relation::SameWeights }, reasons));
    }
    for (relation, what) in [
        (Requantized, "are what the quantiser gives, byte for byte"),
        (Rounded, "are the reference rounded"),
        (WithinRounding, "are within what rounding allows, weight by weight"),
        (Identical, "are equal"),
    ] {
        let count = named(relation).len();
        if count > 0 {
            reasons.push(format!("{count} of {} tensors {what}", tensors.len()));
        }
    }
    reasons.extend(ways(pairs));
    reasons.extend(again(pairs));
    Ok((Relation::Quantization, reasons))
}

/// What tensors were rounded to before they were rounded to their types.
fn ways(pairs: &[Pair]) -> Vec<String> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for kind in pairs.iter().filter_map(|pair| pair.by_way_of) {
        *counts.entry(kind.name()).or_default() += 1;
    }
    let list = counts.into_iter();
    list.map(|(kind, count)| format!("{count} of them were rounded to {kind} in between")).collect()
}

/// A tensor of another shape, and what is known of its rows.
fn resized_in_words(tensor: &TensorLineage) -> Option<String> {
    use TensorRelation::{Differs, Identical, Permuted, Requantized, Rounded, SameValues, WithinRounding};
    let [ours, theirs] = tensor.shapes.as_ref().filter(|_| !is_computed(&tensor.name))?;
    let size = |shape: &[u64]| shape.iter().map(u64::to_string).collect::<Vec<_>>().join("×");
    let rows = match tensor.common_rows {
        None => "",
        Some(Identical | SameValues) => ", the rows of both are equal",
        Some(Requantized | Rounded | WithinRounding) => ", the rows of both are the reference's rounded",
        Some(Permuted) => ", the rows of both stand in another order",
        Some(Differs) => ", the rows of both differ",
        Some(_) => ", the rows of both cannot be compared",
    };
    Some(format!("{} ({} instead of {}{rows})", tensor.name, size(ours), size(theirs)))
}

/// Does only the share of the quantiser's own blocks speak against it?
fn is_partly(tensor: &TensorLineage) -> bool {
    tensor.relation == TensorRelation::Differs
        && tensor.weights_beyond == 0
        && tensor.exact_blocks.is_some()
        && tensor.requantized_blocks.is_none()
}

/// That it is not known how weights of the Hugging Face side stand in GGUF.
fn unplaced(candidate: &Side, reference: &Side, foreign: &BTreeSet<&str>) -> String {
    let architecture = candidate.architecture.as_deref().or(reference.architecture.as_deref());
    let list = foreign.iter().copied().filter(|name| !is_computed(name)).collect::<Vec<_>>();
    format!(
        "how {} tensors of the safetensors side stand in GGUF is not known ({}): {}",
        list.len(),
        architecture.unwrap_or("no architecture"),
        names(&list)
    )
}

/// What quantising rows of the reference again gave, unless nothing is left to say.
fn again(pairs: &[Pair]) -> Vec<String> {
    let open = pairs.iter().filter(|pair| pair.relation != TensorRelation::Requantized);
    let list: Vec<(&Pair, &Reproduction)> =
        open.filter_map(|pair| Some((pair, pair.again.as_ref()?))).collect();
    let sample = if list.iter().all(|(_, again)| again.whole) { "" } else { ", some rows of each" };
    let (asked, bounded): (Vec<_>, Vec<_>) = list.into_iter().partition(|(_, again)| again.blocks > 0);
    let sum = |of: fn(&Reproduction) -> u64| asked.iter().map(|(_, again)| of(again)).sum::<u64>();
    let (blocks, equal) = (sum(|again| again.blocks), sum(|again| again.equal));
    let errors = |of: &[(&Pair, &Reproduction)], what: &str| {
        let all = of.iter().filter_map(|(pair, again)| Some((again.error_ratio()?, pair.name.as_str())));
        let (ratio, name) = all.max_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(format!("the power of the errors is {ratio:.2} times {what} at most ({name})"))
    };
    let own = errors(&asked, "its own").filter(|_| equal < blocks).map(|text| format!("; {text}"));
    let asked = (blocks > 0).then(|| {
        format!(
            "llama.cpp's quantiser gives {equal} of {blocks} blocks byte for byte ({} tensors{sample}){}",
            asked.len(),
            own.unwrap_or_default()
        )
    });
    let bounded = errors(&bounded, "the least that is possible")
        .map(|text| format!("{text}: {} tensors{sample}", bounded.len()));
    asked.into_iter().chain(bounded).collect()
}

/// Is every tensor of the reference in the candidate, under its own name or a new one?
fn renamed_whole(reference: &Side, pairs: &[Pair], moves: &Moves) -> bool {
    let mut left: BTreeSet<&str> = reference.tensors.keys().map(String::as_str).collect();
    for pair in pairs {
        left.remove(pair.name.as_str());
    }
    moves.values().all(|found| left.remove(found.from.as_str())) && left.is_empty()
}

/// Are most of the matrices that differ of low rank?
fn is_adapted(pairs: &[Pair]) -> bool {
    let differing = pairs.iter().filter(|pair| pair.relation == TensorRelation::Differs && pair.matrix);
    let (all, low) =
        differing.fold((0, 0), |(all, low), pair| (all + 1, low + usize::from(pair.rank.is_some())));
    lowrank::are_most(low, all)
}

/// That an adapter was merged, where differences are of low rank.
fn adapter(tensors: &[TensorLineage]) -> Option<String> {
    let differing = tensors.iter().filter(|tensor| tensor.relation == TensorRelation::Differs);
    let low: Vec<(&str, u64, Option<&str>)> = differing
        .filter_map(|tensor| Some((tensor.name.as_str(), tensor.rank?, tensor.candidate_type.as_deref())))
        .collect();
    let most = low.iter().map(|(_, rank, _)| *rank).max()?;
    let parts: BTreeSet<&str> = low
        .iter()
        .map(|(name, ..)| name.strip_suffix(".weight").unwrap_or(name))
        .map(|name| name.rsplit('.').next().unwrap_or(name))
        .collect();
    let list = names(&parts.into_iter().collect::<Vec<_>>());
    let floats = ["F32", "F64"];
    let rounded = low.iter().any(|(_, _, kind)| kind.is_none_or(|kind| !floats.contains(&kind)));
    let seen = if rounded { " as far as rounding lets it be seen" } else { "" };
    Some(format!(
        "{} of them differ by a matrix of rank {most} or less{seen}, as a merged low-rank adapter (LoRA) does: {list}",
        low.len()
    ))
}

/// That all that differs lies in one of several files.
fn one_file(candidate: &Side, differing: &[&str]) -> Option<String> {
    let pieces = differing.iter().filter_map(|name| candidate.tensors.get(*name));
    let mut files = pieces.flat_map(|entry| &entry.pieces).map(|piece| piece.file);
    let first = files.next().filter(|_| candidate.files.len() > 1)?;
    let path = &candidate.files.get(first).filter(|_| files.all(|file| file == first))?.0;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Some(format!("all of them are in {name}: that part may be of another model"))
}

fn names(list: &[&str]) -> String {
    let mut text = list.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    if list.len() > NAMES {
        text.push_str(", …");
    }
    text
}

/// Are the files of equal size, with equal bytes before the tensors?
fn same_headers(candidate: &Side, reference: &Side) -> Result<bool, Problem> {
    if candidate.files.len() != reference.files.len() || candidate.data_offsets != reference.data_offsets {
        return Ok(false);
    }
    let sides = candidate.files.iter().zip(&reference.files).zip(&candidate.data_offsets);
    for (((our_path, ours), (their_path, theirs)), &end) in sides {
        if ours.size() != theirs.size() {
            return Ok(false);
        }
        let mut buffers = [vec![0; 1 << 16], vec![0; 1 << 16]];
        let mut at = 0;
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 16);
            let [a, b] = &mut buffers;
            a.resize(length, 0);
            b.resize(length, 0);
            ours.read_at(a, at).map_err(|error| Problem::io("read", our_path, &error))?;
            theirs.read_at(b, at).map_err(|error| Problem::io("read", their_path, &error))?;
            if a != b {
                return Ok(false);
            }
            at += length as u64;
        }
    }
    Ok(true)
}
