//! Where the layers of a model go when accelerators have only so much memory.
//!
//! As llama.cpp places them: the last layers go to the accelerators, the output as one more behind
//! them, in order and without gaps; the experts of the first N layers may stay with the CPU.
//! Invariants: a plan fits every device; no plan with more layers fits, and none with as many and
//! fewer experts on the CPU; among the ways to deal the layers out it is one whose fullest device
//! is least full, to a 1024th. Experts are given up before layers, as admission does. Deliberately
//! absent: devices themselves, and speed.

use std::path::Path;

use serde::Serialize;

use super::{Facts, Header, Shape, headers, is_expert, vocabulary};
use crate::domain::Problem;

/// What one layer takes where it is placed, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layer {
    /// Weights without experts, and its cache or state.
    pub dense: u64,
    pub experts: u64,
}

/// What there is to place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    pub layers: Vec<Layer>,
    /// The output: its norm, its matrix.
    pub output: u64,
    /// Scratch of every device that computes a layer.
    pub scratch: u64,
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// Layers on accelerators as `--gpu-layers` counts them: the output is one more.
    pub gpu_layers: usize,
    /// Layers whose experts stay with the CPU, from the first on: `--n-cpu-moe`.
    pub cpu_experts: usize,
    /// Of `gpu_layers`, how many each device has: `--tensor-split` of llama.cpp.
    pub split: Vec<usize>,
    /// What each device then holds.
    pub used_bytes: Vec<u64>,
}

/// Steps of how full a device is.
const FULL: u64 = 1024;

/// Reads what there is to place of the GGUF model at `path`, all parts of it.
///
/// # Errors
/// A part cannot be read, or is no GGUF file.
pub fn load(path: &Path, shape: Shape) -> Result<Load, Problem> {
    Ok(of_headers(&headers(path)?, shape))
}

fn of_headers(headers: &[Header], shape: Shape) -> Load {
    let Some(first) = headers.first() else { return Load::default() };
    let (facts, shape) = (Facts::read(&first.metadata), shape.clamped());
    let mut layers: Vec<Layer> = (0..facts.heads_kv.len())
        .map(|layer| Layer {
            dense: facts.kv_of(layer, shape).saturating_add(facts.state_of(layer, shape)),
            experts: 0,
        })
        .collect();
    let (mut output, mut matrix, mut embedding) = (0u64, false, 0u64);
    for tensor in headers.iter().flat_map(|header| &header.tensors) {
        let block = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let layer = block.and_then(|(number, _)| layers.get_mut(number.parse::<usize>().ok()?));
        match (layer, tensor.name.as_str()) {
            (Some(layer), name) if is_expert(name) => {
                layer.experts = layer.experts.saturating_add(tensor.bytes)
            }
            (Some(layer), _) => layer.dense = layer.dense.saturating_add(tensor.bytes),
            // Rows are looked up where the tokens are.
            (None, "token_embd.weight") => embedding = tensor.bytes,
            (None, name) => {
                matrix |= name == "output.weight";
                output = output.saturating_add(tensor.bytes);
            }
        }
    }
    // A model that shares its embedding gets a copy of it as output.
    let output = if matrix { output } else { output.saturating_add(embedding) };
    Load { layers, output, scratch: facts.compute_bytes(shape, vocabulary(&first.metadata)) }
}

impl Load {
    /// The best plan for devices with these budgets, in order; with no layers on any if none fits.
    pub fn place(&self, budgets: &[u64]) -> Placement {
        let layers = self.layers.len();
        let nothing = Placement {
            gpu_layers: 0,
            cpu_experts: 0,
            split: vec![0; budgets.len()],
            used_bytes: vec![0; budgets.len()],
        };
        let fits = |gpu_layers: usize, cpu_experts: usize| {
            self.deal(&self.items(gpu_layers, cpu_experts), budgets, FULL).is_some()
        };
        let Some(gpu_layers) = (1..=layers + 1).rev().find(|&count| fits(count, layers)) else {
            return nothing;
        };
        // The more experts stay with the CPU, the less there is to fit.
        let all: Vec<usize> = (0..=layers).collect();
        let cpu_experts = all.partition_point(|&experts| !fits(gpu_layers, experts));
        let items = self.items(gpu_layers, cpu_experts);
        let levels: Vec<u64> = (1..=FULL).collect();
        let level = levels.partition_point(|&level| self.deal(&items, budgets, level).is_none());
        let dealt = levels.get(level).and_then(|&level| self.deal(&items, budgets, level));
        dealt.map_or(nothing, |(split, used_bytes)| Placement { gpu_layers, cpu_experts, split, used_bytes })
    }

    /// What the last `gpu_layers` layers take, the output counted as one.
    fn items(&self, gpu_layers: usize, cpu_experts: usize) -> Vec<u64> {
        let layer = |(at, layer): (usize, &Layer)| {
            layer.dense.saturating_add(if at < cpu_experts { 0 } else { layer.experts })
        };
        let mut items: Vec<u64> = self.layers.iter().enumerate().map(layer).collect();
        if gpu_layers > self.layers.len() {
            items.push(self.output);
        }
        items.split_off(items.len().saturating_sub(gpu_layers))
    }

    /// Deals items out in order, each device filled as far as its share of its budget goes, which
    /// finds a way if there is one: a device that takes less leaves more to those behind it.
    fn deal(&self, items: &[u64], budgets: &[u64], level: u64) -> Option<(Vec<usize>, Vec<u64>)> {
        let (mut split, mut used) = (vec![0; budgets.len()], vec![0u64; budgets.len()]);
        let mut rest = items.iter().peekable();
        for ((budget, count), used) in budgets.iter().zip(&mut split).zip(&mut used) {
            let most =
                u64::try_from(u128::from(*budget) * u128::from(level) / u128::from(FULL)).unwrap_or(*budget);
            let with = |used: u64, item: u64| used.max(self.scratch).saturating_add(item);
            while let Some(item) = rest.next_if(|&&item| with(*used, item) <= most) {
                *used = with(*used, *item);
                *count += 1;
            }
        }
        rest.peek().is_none().then_some((split, used))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::gguf::{GgmlType, Value, read_strict, write};

    /// Every way to deal `count` layers out to `devices` in order.
    fn ways(count: usize, devices: usize) -> Vec<Vec<usize>> {
        if devices == 1 {
            return vec![vec![count]];
        }
        let first = |taken: usize| {
            ways(count - taken, devices - 1).into_iter().map(move |rest| [vec![taken], rest].concat())
        };
        (0..=count).flat_map(first).collect()
    }

    /// How full the fullest device is, in 1024ths, rounded up; `None` if one is too full.
    fn fullest(load: &Load, items: &[u64], way: &[usize], budgets: &[u64]) -> Option<u64> {
        let mut from = 0;
        let mut most = 0;
        for (count, budget) in way.iter().zip(budgets) {
            let taken = &items[from..from + count];
            from += count;
            if !taken.is_empty() {
                let used = taken.iter().sum::<u64>() + load.scratch;
                if used > *budget {
                    return None;
                }
                most = most.max((used * FULL).div_ceil(*budget));
            }
        }
        Some(most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn a_plan_fits_and_is_the_best_of_all(
            layers in prop::collection::vec((1u64..60, 0u64..200), 1..6),
            output in 1u64..80,
            scratch in 0u64..30,
            budgets in prop::collection::vec(1u64..700, 1..4),
        ) {
            let layers = layers.into_iter().map(|(dense, experts)| Layer { dense, experts }).collect();
            let load = Load { layers, output, scratch };
            let count = load.layers.len();
            // All plans: layers, the experts that stay (fewer is better), how full.
            let mut best: Option<(usize, usize, u64)> = None;
            for gpu_layers in 1..=count + 1 {
                for cpu_experts in 0..=count {
                    let items = load.items(gpu_layers, cpu_experts);
                    prop_assert_eq!(items.len(), gpu_layers);
                    let level = ways(gpu_layers, budgets.len())
                        .iter()
                        .filter_map(|way| fullest(&load, &items, way, &budgets))
                        .min();
                    let better = |(layers, experts, _): (usize, usize, u64)| {
                        gpu_layers > layers || (gpu_layers == layers && cpu_experts < experts)
                    };
                    if let Some(level) = level.filter(|_| best.is_none_or(better)) {
                        best = Some((gpu_layers, cpu_experts, level));
                    }
                }
            }
            let plan = load.place(&budgets);
            prop_assert_eq!(plan.split.iter().sum::<usize>(), plan.gpu_layers);
            let items = load.items(plan.gpu_layers, plan.cpu_experts);
            let level = fullest(&load, &items, &plan.split, &budgets);
            let found = (plan.gpu_layers > 0).then_some((plan.gpu_layers, plan.cpu_experts, level.unwrap_or(u64::MAX)));
            prop_assert_eq!(found, best);
            let mut from = 0;
            for (at, taken) in plan.split.iter().enumerate() {
                let used: u64 = items[from..from + taken].iter().sum();
                from += taken;
                prop_assert_eq!(plan.used_bytes[at], if *taken > 0 { used + scratch } else { 0 });
            }
        }
    }

    #[test]
    fn what_there_is_to_place_is_read_from_the_header() {
        let metadata = [
            ("general.architecture", "llama".into()),
            ("llama.block_count", Value::U32(2)),
            ("llama.embedding_length", Value::U32(64)),
            ("llama.attention.head_count", Value::U32(4)),
        ];
        let data = vec![0u8; 4 * 64];
        let tensor = |name: &'static str, rows: u64| write::TensorData {
            name,
            kind: GgmlType::F32,
            shape: if rows == 1 { &[32][..] } else { &[32, 2][..] },
            data: &data[..(rows * 32 * 4) as usize],
        };
        let tensors = [
            tensor("token_embd.weight", 2),
            tensor("blk.0.attn_q.weight", 2),
            tensor("blk.0.ffn_gate_up_exps.weight", 2),
            tensor("blk.1.attn_q.weight", 1),
            tensor("blk.1.ffn_up_shexp.weight", 1),
            tensor("output_norm.weight", 1),
        ];
        let mut bytes = Vec::new();
        write::write(&mut bytes, &metadata, &tensors).unwrap();
        let header = read_strict(&bytes.as_slice()).unwrap();
        let shape =
            Shape { context: 256, parallel: 1, micro_batch: 1, outputs: 1, kv: GgmlType::F16, flash: true };
        let load = of_headers(&[header], shape);
        let cache = 256 * 64 * 2 * 2;
        assert_eq!(
            load.layers,
            [Layer { dense: cache + 256, experts: 256 }, Layer { dense: cache + 256, experts: 0 }]
        );
        assert_eq!(load.output, 128 + 256, "the norm, and the embedding once more");
    }
}
