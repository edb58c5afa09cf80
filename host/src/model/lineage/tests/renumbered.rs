//! Units and heads in another order.

use super::*;

/// Of the hidden state, the feed-forward layer and a head; heads, and those of keys and values.
const HIDDEN: usize = 24;
const UNITS: usize = 40;
const HEAD: usize = 6;
const HEADS: usize = 4;
const GROUPS: usize = 2;

/// A matrix or a bias: its name, its rows, and its columns (none for a bias).
#[derive(Clone)]
struct Tensor(&'static str, usize, usize, Vec<f32>);

impl Tensor {
    fn moved(&mut self, rows: &[usize], columns: &[usize]) {
        let Self(_, _, width, values) = self;
        let old = values.clone();
        let width = (*width).max(1);
        for (row, &from) in rows.iter().enumerate() {
            for column in 0..width {
                let other = columns.get(column).copied().unwrap_or(column);
                values[row * width + column] = old[from * width + other];
            }
        }
    }
}

/// A layer with all the biases there can be.
fn layer() -> Vec<Tensor> {
    let list = [
        ("token_embd.weight", 50, HIDDEN),
        ("blk.0.ffn_gate.weight", UNITS, HIDDEN),
        ("blk.0.ffn_gate.bias", UNITS, 0),
        ("blk.0.ffn_up.weight", UNITS, HIDDEN),
        ("blk.0.ffn_up.bias", UNITS, 0),
        ("blk.0.ffn_down.weight", HIDDEN, UNITS),
        ("blk.0.ffn_down.bias", HIDDEN, 0),
        ("blk.0.ffn_norm.weight", HIDDEN, 0),
        ("blk.0.attn_q.weight", HEADS * HEAD, HIDDEN),
        ("blk.0.attn_q.bias", HEADS * HEAD, 0),
        ("blk.0.attn_k.weight", GROUPS * HEAD, HIDDEN),
        ("blk.0.attn_k.bias", GROUPS * HEAD, 0),
        ("blk.0.attn_v.weight", GROUPS * HEAD, HIDDEN),
        ("blk.0.attn_v.bias", GROUPS * HEAD, 0),
        ("blk.0.attn_output.weight", HIDDEN, HEADS * HEAD),
        ("blk.0.attn_q_norm.weight", HEAD, 0),
        ("blk.0.attn_norm.weight", HIDDEN, 0),
        ("blk.0.attn_rot_embd.weight", HEAD / 2, 0),
    ];
    let tensor = |(seed, (name, rows, columns)): (u64, (&'static str, usize, usize))| {
        let mut values = weights(700 + seed, false);
        values.truncate(rows * columns.max(1));
        Tensor(name, rows, columns, values)
    };
    (0..).zip(list).map(tensor).collect()
}

fn write(folder: &Folder, name: &str, architecture: &str, tensors: &[Tensor]) -> PathBuf {
    let path = folder.0.path().join(name);
    let data: Vec<Vec<u8>> =
        tensors.iter().map(|t| encoded(GgmlType::F32, &t.3, Arithmetic::Plain)).collect();
    let shapes: Vec<Vec<u64>> = tensors
        .iter()
        .map(|t| if t.2 == 0 { vec![t.1 as u64] } else { vec![t.2 as u64, t.1 as u64] })
        .collect();
    let list: Vec<TensorData<'_>> = (0..tensors.len())
        .map(|i| TensorData { name: tensors[i].0, kind: GgmlType::F32, shape: &shapes[i], data: &data[i] })
        .collect();
    let counts = ["head_count", "head_count_kv"].map(|key| format!("{architecture}.attention.{key}"));
    let metadata = [
        ("general.architecture", architecture.into()),
        (counts[0].as_str(), (HEADS as u32).into()),
        (counts[1].as_str(), (GROUPS as u32).into()),
    ];
    write_file(&path, &metadata, &list).unwrap();
    path
}

/// The rows of whole heads in another order.
fn of_heads(heads: &[usize]) -> Vec<usize> {
    heads.iter().flat_map(|head| (0..HEAD).map(move |i| head * HEAD + i)).collect()
}

/// Moves rows of tensors whose names begin so, biases included.
fn rows(tensors: &mut [Tensor], names: &[&str], order: &[usize]) {
    let own = |name: &str, end: &str| names.iter().any(|part| name == format!("blk.0.{part}.{end}"));
    let named = |tensor: &&mut Tensor| own(tensor.0, "weight") || own(tensor.0, "bias");
    tensors.iter_mut().filter(named).for_each(|tensor| tensor.moved(order, &[]));
}

fn columns(tensors: &mut [Tensor], name: &str, order: &[usize]) {
    let all: Vec<usize> = (0..HIDDEN).collect();
    let named = |tensor: &&mut Tensor| tensor.0 == format!("blk.0.{name}.weight");
    tensors.iter_mut().filter(named).for_each(|tensor| tensor.moved(&all, order));
}

fn take(tensors: &mut Vec<Tensor>, part: &str) {
    tensors.retain(|tensor| !tensor.0.contains(part));
}

type Change = fn(&mut Vec<Tensor>);

fn units(tensors: &mut [Tensor]) {
    let order: Vec<usize> = (0..UNITS).map(|i| (i * 7 + 3) % UNITS).collect();
    rows(tensors, &["ffn_gate", "ffn_up"], &order);
    columns(tensors, "ffn_down", &order);
}

fn heads(tensors: &mut [Tensor]) {
    rows(tensors, &["attn_q"], &of_heads(&[3, 2, 0, 1]));
    rows(tensors, &["attn_k", "attn_v"], &of_heads(&[1, 0]));
    columns(tensors, "attn_output", &of_heads(&[3, 2, 0, 1]));
}

/// Within values of the second group of heads, and what is made of them.
fn within(tensors: &mut [Tensor]) {
    let turned = |group: usize, size: usize| {
        (0..size * HEAD)
            .map(move |i| if i / HEAD >= group { i / HEAD * HEAD + HEAD - 1 - i % HEAD } else { i })
    };
    rows(tensors, &["attn_v"], &turned(1, GROUPS).collect::<Vec<_>>());
    columns(tensors, "attn_output", &turned(2, HEADS).collect::<Vec<_>>());
}

#[test]
fn units_and_heads_that_all_know_by_their_new_numbers_leave_the_function_as_it_is() {
    let folder = Folder::new();
    let changes: [(&str, Change); 7] = [
        ("units", |all| units(all)),
        ("heads", |all| heads(all)),
        ("both", |all| {
            units(all);
            heads(all);
        }),
        ("heads of one group", |all| {
            rows(all, &["attn_q"], &of_heads(&[1, 0, 2, 3]));
            columns(all, "attn_output", &of_heads(&[1, 0, 2, 3]));
        }),
        ("within values", |all| within(all)),
        ("within values of other heads", |all| {
            heads(all);
            within(all);
        }),
        ("biases that are all alike", |all| {
            units(all);
            heads(all);
        }),
    ];
    for (what, change) in changes {
        let mut own = layer();
        if what.starts_with("biases") {
            own.iter_mut().filter(|tensor| tensor.0.ends_with("bias")).for_each(|tensor| tensor.3.fill(0.5));
        }
        for left_out in ["nothing", "ffn_gate", "bias"] {
            take(&mut own, left_out);
            let reference = write(&folder, "a.gguf", "qwen3", &own);
            let mut other = own.clone();
            change(&mut other);
            let found = relate(&write(&folder, "b.gguf", "qwen3", &other), &reference);
            assert_eq!(found.relation, Relation::SameWeights, "{what} without {left_out}: {found:?}");
            assert!(found.reasons[0].contains("units or heads are numbered in another order"), "{found:?}");
            use TensorRelation::{Identical, Permuted};
            let equal = |tensor: &TensorLineage| matches!(tensor.relation, Identical | Permuted);
            assert!(found.tensors.len() == own.len() && found.tensors.iter().all(equal), "{what} {found:?}");
        }
    }
    // Gate and up in one matrix.
    let twice: Vec<usize> = (0..UNITS).map(|i| (i * 7 + 3) % UNITS).collect();
    for (move_both, expected) in [(true, Relation::SameWeights), (false, Relation::Derived)] {
        let mut own = layer();
        take(&mut own, "ffn_gate");
        take(&mut own, "ffn_up");
        let both = [weights(1, false), weights(2, false)].concat();
        own.push(Tensor("blk.0.ffn_up.weight", 2 * UNITS, HIDDEN, both[..2 * UNITS * HIDDEN].to_vec()));
        own.push(Tensor("blk.0.ffn_up.bias", 2 * UNITS, 0, both[2 * UNITS * HIDDEN..][..2 * UNITS].to_vec()));
        let reference = write(&folder, "a.gguf", "phi3", &own);
        let lower = twice.iter().enumerate().map(|(i, place)| UNITS + if move_both { *place } else { i });
        let order: Vec<usize> = twice.iter().copied().chain(lower).collect();
        rows(&mut own, &["ffn_up"], &order);
        columns(&mut own, "ffn_down", &twice);
        let found = relate(&write(&folder, "b.gguf", "phi3", &own), &reference);
        assert_eq!(found.relation, expected, "{found:?}");
    }
}

#[test]
fn what_one_tensor_knows_by_its_old_number_is_another_function() {
    let folder = Folder::new();
    let own = layer();
    let reference = write(&folder, "a.gguf", "qwen3", &own);
    let keep = |all: &mut [Tensor], name: &str| {
        let old = layer();
        let from = old.iter().find(|tensor| tensor.0 == format!("blk.0.{name}")).unwrap();
        all.iter_mut().filter(|tensor| tensor.0 == from.0).for_each(|tensor| tensor.3.clone_from(&from.3));
    };
    for (of_units, kept) in [
        (true, "ffn_gate.weight"),
        (true, "ffn_gate.bias"),
        (true, "ffn_up.weight"),
        (true, "ffn_up.bias"),
        (true, "ffn_down.weight"),
        (false, "attn_q.weight"),
        (false, "attn_q.bias"),
        (false, "attn_k.weight"),
        (false, "attn_k.bias"),
        (false, "attn_v.weight"),
        (false, "attn_v.bias"),
        (false, "attn_output.weight"),
    ] {
        let mut other = own.clone();
        if of_units {
            units(&mut other)
        } else {
            heads(&mut other)
        }
        keep(&mut other, kept);
        let found = relate(&write(&folder, "b.gguf", "qwen3", &other), &reference);
        assert_eq!(found.relation, Relation::Derived, "{kept} {found:?}");
        assert!(found.reasons[0].contains("not known to leave the function"), "{kept} {found:?}");
    }
    let changes: [(&str, Change); 6] = [
        ("heads of other keys", |all| {
            rows(all, &["attn_q"], &of_heads(&[0, 2, 1, 3]));
            columns(all, "attn_output", &of_heads(&[0, 2, 1, 3]));
        }),
        ("parts of heads", |all| {
            let order: Vec<usize> = (0..HEADS * HEAD).map(|i| i / 2 * 2 + 1 - i % 2).collect();
            rows(all, &["attn_q"], &order);
            rows(all, &["attn_k"], &order[..GROUPS * HEAD]);
        }),
        ("parts of keys", |all| {
            let order: Vec<usize> = (0..GROUPS * HEAD).map(|i| i / 2 * 2 + 1 - i % 2).collect();
            rows(all, &["attn_k"], &order);
        }),
        ("values of one group, and outputs of the other", |all| {
            within(all);
            columns(all, "attn_output", &of_heads(&[2, 3, 0, 1]));
        }),
        ("not all outputs of a group", |all| {
            within(all);
            columns(all, "attn_output", &{
                let mut order: Vec<usize> = (0..HEADS * HEAD).collect();
                order[2 * HEAD..3 * HEAD].reverse();
                order
            });
        }),
        ("columns of queries", |all| {
            let order: Vec<usize> = (0..HIDDEN).rev().collect();
            columns(all, "attn_q", &order);
        }),
    ];
    for (what, change) in changes {
        let mut other = own.clone();
        change(&mut other);
        let found = relate(&write(&folder, "b.gguf", "qwen3", &other), &reference);
        assert_eq!(found.relation, Relation::Derived, "{what} {found:?}");
    }
}

/// Slopes by the number of a head, sinks and other parts, and norms over all heads.
#[test]
fn where_heads_or_units_are_not_all_alike_nothing_is_said() {
    let folder = Folder::new();
    let part = |name: &'static str, count: usize| vec![Tensor(name, count, 0, vec![1.0; count])];
    for (architecture, more, change) in [
        ("bloom", vec![], heads as fn(&mut [Tensor])),
        ("qwen3", part("blk.0.attn_sinks.weight", HEADS), heads),
        ("qwen3", part("blk.0.attn_q.scale", 1), heads),
        ("qwen3", part("blk.0.attn_k_norm.weight", GROUPS * HEAD), heads),
        ("qwen3", part("blk.0.ffn_sub_norm.weight", UNITS), units),
        ("qwen3", part("blk.0.ffn_down.scale", UNITS), units),
    ] {
        let mut own = layer();
        let name = more.first().map_or("", |tensor| tensor.0);
        own.extend(more);
        let reference = write(&folder, "a.gguf", architecture, &own);
        change(&mut own);
        let found = relate(&write(&folder, "b.gguf", architecture, &own), &reference);
        assert_eq!(found.relation, Relation::Derived, "{architecture} {name} {found:?}");
    }
}

/// Of two folders, by the names and the numbers that are theirs.
#[test]
fn heads_of_folders_are_told_by_their_configuration() {
    let folder = Folder::new();
    let names = [
        ("attn_q.", "self_attn.q_proj."),
        ("attn_k.", "self_attn.k_proj."),
        ("attn_v.", "self_attn.v_proj."),
        ("attn_output.", "self_attn.o_proj."),
        ("attn_q_norm.", "self_attn.q_norm."),
        ("ffn_gate.", "mlp.gate_proj."),
        ("ffn_up.", "mlp.up_proj."),
        ("ffn_down.", "mlp.down_proj."),
    ];
    let file = |name: &str, model_type: &str, tensors: &[Tensor]| {
        let list = tensors.iter().filter_map(|Tensor(name, rows, columns, values)| {
            let part = name.strip_prefix("blk.0.")?;
            let (old, new) = names.iter().find(|(old, _)| part.starts_with(old))?;
            let name = format!("model.layers.0.{new}{}", part.strip_prefix(old)?);
            let shape = [*rows as u64, *columns as u64].into_iter().filter(|size| *size > 0).collect();
            let values = values.iter().map(|&x| half::bf16_to_f32(half::f32_to_bf16(x))).collect();
            Some((name, shape, values))
        });
        let path = hugging_face(&folder, name, &list.collect::<Vec<(String, Vec<u64>, Vec<f32>)>>());
        let config = serde_json::json!({
            "model_type": model_type, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS
        });
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
        path
    };
    let own = layer();
    let mut other = own.clone();
    units(&mut other);
    heads(&mut other);
    for (family, expected) in
        [("qwen3_moe", Relation::SameWeights), ("mistral", Relation::SameWeights), ("mpt", Relation::Derived)]
    {
        let found = relate(&file("b", family, &other), &file("a", family, &own));
        assert_eq!(found.relation, expected, "{family} {found:?}");
    }
    let found = relate(&file("b", "qwen3", &other), &file("a", "mpt", &own));
    assert_eq!(found.relation, Relation::Derived, "{found:?}");
}
