//! Entries that are missing or have impossible values; llama.cpp aborts on some of these.

use super::inventory::Inventory;
use crate::model::finding::{Code, Findings};
use crate::model::gguf::{Array, Metadata, Value};

/// Most layers and experts that llama.cpp has room for (LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS).
pub(super) const MAX_LAYERS: u64 = 512;
const MAX_EXPERTS: u64 = 1024;
/// Larger than any real width, head count or context, small enough that products fit.
const MAX_WIDTH: u64 = 1 << 24;
const MAX_CONTEXT: u64 = 1 << 31;

/// Architectures for which llama.cpp takes one expert, or fewer, as none.
const ONE_EXPERT_IS_NONE: [&str; 2] = ["hunyuan-dense", "hunyuan_vl"];

pub(super) fn check(metadata: &Metadata, known: Option<&Inventory>, findings: &mut Findings) {
    let Some(architecture) = metadata.architecture() else {
        findings.push(Code::MetadataMissing.finding("general.architecture is missing"));
        return;
    };
    let experts = Experts::of(metadata, architecture);
    let attends = known.is_some_and(Inventory::attends);
    let feeds = known.is_some_and(|known| known.feeds(experts.count > 0));
    let mut needed = vec!["tokenizer.ggml.model", ".block_count", ".embedding_length", ".context_length"];
    needed.extend(attends.then_some(".attention.head_count"));
    needed.extend(feeds.then_some(".feed_forward_length"));
    needed.extend(known.into_iter().flat_map(Inventory::entries));
    for name in needed {
        let key = if name.starts_with('.') { format!("{architecture}{name}") } else { name.to_owned() };
        if metadata.get(&key).is_none() {
            findings.push(Code::MetadataMissing.finding(format!("{key} is missing")));
        }
    }
    let mut absurd = |message: String| findings.push(Code::MetadataAbsurd.finding(message));
    let layers = metadata.hparam("block_count").and_then(Value::as_u64).unwrap_or(0);
    for (key, least, most) in [
        ("block_count", 1, MAX_LAYERS),
        ("nextn_predict_layers", 0, layers),
        ("embedding_length", 1, MAX_WIDTH),
        ("context_length", 1, MAX_CONTEXT),
        ("vocab_size", 1, MAX_WIDTH),
        ("attention.head_count", u64::from(attends), MAX_WIDTH),
        ("attention.head_count_kv", 0, MAX_WIDTH),
        ("feed_forward_length", 0, MAX_WIDTH),
        ("attention.key_length", 1, MAX_WIDTH),
        ("attention.value_length", 1, MAX_WIDTH),
        ("rope.dimension_count", 0, MAX_WIDTH),
        ("expert_count", 0, MAX_EXPERTS),
    ] {
        let possible = i128::from(least)..=i128::from(most);
        if let Some(value) = numbers(metadata, key).find(|value| !possible.contains(value)) {
            absurd(format!("{architecture}.{key} is {value}; {least} to {most} are possible"));
        }
    }
    for (key, zero_allowed) in [
        ("attention.layer_norm_rms_epsilon", true),
        ("attention.layer_norm_epsilon", true),
        ("rope.freq_base", false),
        ("rope.scaling.factor", true),
    ] {
        if let Some(value) = metadata.hparam(key).and_then(Value::as_float) {
            let fine = value.is_finite() && (value > 0.0 || (zero_allowed && value == 0.0));
            if !fine {
                absurd(format!("{architecture}.{key} is {value}"));
            }
        }
    }
    if let Some(scaling) = metadata.hparam("rope.scaling.type").and_then(Value::as_str)
        && !["none", "linear", "yarn", "longrope"].contains(&scaling)
    {
        absurd(format!("{architecture}.rope.scaling.type is {scaling:?}; runtimes abort on it"));
    }
    if let Some(contradiction) = experts.contradiction() {
        absurd(contradiction);
    }
}

/// The values of an entry that is one number, or one for each layer.
fn numbers(metadata: &Metadata, key: &str) -> impl Iterator<Item = i128> {
    let value = metadata.hparam(key);
    let list = value.and_then(Value::as_array).into_iter().flat_map(Array::integers);
    value.and_then(Value::as_integer).into_iter().chain(list)
}

/// A mixture of experts, as far as llama.cpp asserts something of it.
struct Experts {
    count: i128,
    used: i128,
    groups: i128,
    used_groups: i128,
}

impl Experts {
    fn of(metadata: &Metadata, architecture: &str) -> Self {
        let most = |key: &str| numbers(metadata, key).max().unwrap_or(0);
        let (count, used) = (most("expert_count"), most("expert_used_count"));
        let none = count <= 1 && ONE_EXPERT_IS_NONE.contains(&architecture);
        let (count, used) = if none { (0, 0) } else { (count, used) };
        Self { count, used, groups: most("expert_group_count"), used_groups: most("expert_group_used_count") }
    }

    fn contradiction(&self) -> Option<String> {
        let Self { count, used, groups, used_groups } = *self;
        let grouped = groups > 1;
        let demands = [
            (used <= count && (used > 0 || count == 0), format!("{used} of {count} experts are used")),
            (groups < count.max(1), format!("{count} experts are in {groups} groups")),
            (!grouped || count % groups == 0, format!("{count} experts cannot be in {groups} equal groups")),
            (
                !grouped || (1..groups).contains(&used_groups),
                format!("{used_groups} of {groups} groups of experts are used"),
            ),
        ];
        let broken = demands.into_iter().find_map(|(holds, message)| (!holds).then_some(message))?;
        Some(format!("by the entries about experts {broken}; runtimes abort on it"))
    }
}
