//! `assayd lineage` through the real binary: exit codes, JSON, and the small real models
//! beside the project where they are present.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assayd::model::gguf::write::{TensorData, write_file};
use assayd::model::gguf::{self, GgmlType};
use assayd::model::lineage::quantize;

fn lineage(candidate: &Path, reference: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_assayd"))
        .args(["lineage", "--json"])
        .arg(candidate)
        .arg("--reference")
        .arg(reference)
        .output()
        .unwrap()
}

/// The relation, the exit code, and the whole document.
fn relation(candidate: &Path, reference: &Path) -> (String, i32, serde_json::Value) {
    let output = lineage(candidate, reference);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{candidate:?}: {}", String::from_utf8_lossy(&output.stderr)));
    (document["relation"].as_str().unwrap().to_owned(), output.status.code().unwrap(), document)
}

fn models() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    root.join("manifest.json").is_file().then_some(root)
}

fn write(path: &Path, tensors: &[(&str, GgmlType, Vec<u64>, Vec<u8>)]) {
    let list: Vec<TensorData<'_>> = tensors
        .iter()
        .map(|(name, kind, shape, data)| TensorData { name, kind: *kind, shape, data })
        .collect();
    write_file(path, &[("general.architecture", "llama".into())], &list).unwrap();
}

/// A tensor of a file as it stands there.
fn stored<'a>(tensor: &'a gguf::Tensor, bytes: &'a [u8]) -> TensorData<'a> {
    let start = usize::try_from(tensor.offset).unwrap();
    let data = &bytes[start..start + usize::try_from(tensor.bytes).unwrap()];
    TensorData { name: &tensor.name, kind: tensor.kind, shape: &tensor.shape, data }
}

#[test]
fn the_document_has_what_is_promised() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<f32> =
        (0..4096u32).map(|i| ((i * 2_654_435_761_u32.rotate_left(i % 7)) as f32 / 4e9) - 0.5).collect();
    let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let base = folder.path().join("base.gguf");
    write(&base, &[("a.weight", GgmlType::F32, vec![64, 64], raw)]);
    let coded = quantize(GgmlType::Q8_0, &values).unwrap();
    let candidate = folder.path().join("q8.gguf");
    write(&candidate, &[("a.weight", GgmlType::Q8_0, vec![64, 64], coded.clone())]);
    let (relation_of, code, document) = relation(&candidate, &base);
    assert_eq!((relation_of.as_str(), code), ("quantization", 0));
    for key in ["tensors_compared", "tensors_identical", "max_excess_error", "worst_tensor"] {
        assert!(document.get(key).is_some(), "{key}");
    }
    for key in ["name", "reference_type", "candidate_type", "max_abs_error", "allowed_error", "relation"] {
        assert!(document["tensors"][0].get(key).is_some(), "{key}");
    }
    // One code of one block, moved by three steps.
    let mut moved = coded;
    moved[34 * 5 + 9] = moved[34 * 5 + 9].wrapping_add(if moved[34 * 5 + 9] < 120 { 3 } else { 253 });
    write(&candidate, &[("a.weight", GgmlType::Q8_0, vec![64, 64], moved)]);
    let (relation_of, code, document) = relation(&candidate, &base);
    assert_eq!((relation_of.as_str(), code), ("derived", 1));
    assert_eq!(document["worst_tensor"], "a.weight");
    assert!(document["max_excess_error"].as_f64().unwrap() > 0.0);
    assert_eq!(lineage(&candidate, &folder.path().join("missing.gguf")).status.code(), Some(4));
    std::fs::write(folder.path().join("text.gguf"), "no model").unwrap();
    assert_eq!(lineage(&folder.path().join("text.gguf"), &base).status.code(), Some(4));
}

#[test]
fn small_real_models_get_their_true_relation() {
    let Some(root) = models() else { return };
    let base = root.join("gguf/base-f32.gguf");
    let cases = [
        ("gguf/base-f32.gguf", "identical"),
        ("gguf/exact-copy-official.gguf", "same-weights"),
        ("gguf/chat-template-added.gguf", "same-weights"),
        ("gguf/rope-theta-500000.gguf", "same-weights"),
        ("gguf/tok-permuted.gguf", "same-weights"),
        ("split/good", "same-weights"),
        ("hf/base-float32", "same-weights"),
        ("hf/base-float32-2shards", "same-weights"),
        ("hf/base-bfloat16", "quantization"),
        ("gguf/equiv-ffn-permuted.gguf", "same-weights"),
        ("gguf/base-f16.gguf", "quantization"),
        ("gguf/base-q8_0.gguf", "quantization"),
        ("gguf/base-q4_0.gguf", "quantization"),
        ("gguf/ft-tiny-3.gguf", "derived"),
        ("gguf/ft-python-300.gguf", "derived"),
        ("gguf/ft-python-300-q8_0.gguf", "derived"),
        ("hf/ft-python-300", "derived"),
        ("gguf/noise-0.001.gguf", "derived"),
        ("gguf/layers-swapped-1-2.gguf", "derived"),
        ("gguf/lora-r8-merged.gguf", "derived"),
        ("gguf/moe.gguf", "derived"),
        ("gguf/unrelated-llama2xs.gguf", "unrelated"),
    ];
    for (candidate, expected) in cases {
        let (got, _, document) = relation(&root.join(candidate), &base);
        assert_eq!(got, expected, "{candidate}: {}", document["reasons"]);
    }
    // The other layout as the reference: rows of queries and keys in another order.
    for (candidate, expected) in [("gguf/base-q8_0.gguf", "quantization"), ("gguf/ft-tiny-3.gguf", "derived")]
    {
        assert_eq!(relation(&root.join(candidate), &root.join("hf/base-float32")).0, expected, "{candidate}");
    }
}

/// What is said of the kinds of change that have a name.
#[test]
fn merged_adapters_and_swapped_layers_are_named() {
    let Some(root) = models() else {
        eprintln!("skipped: the models beside the project are not there");
        return;
    };
    let base = root.join("gguf/base-f32.gguf");
    let (_, _, merged) = relation(&root.join("gguf/lora-r8-merged.gguf"), &base);
    let ranks: Vec<(&str, u64)> = merged["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|tensor| Some((tensor["name"].as_str()?, tensor["rank"].as_u64()?)))
        .collect();
    // Adapters on queries, keys, values and outputs of five layers, of rank 8.
    assert_eq!(ranks.len(), 20, "{ranks:?}");
    assert!(ranks.iter().all(|(name, rank)| *rank == 8 && name.contains("attn_")), "{ranks:?}");
    let (_, _, tuned) = relation(&root.join("gguf/ft-python-300.gguf"), &base);
    assert!(tuned["tensors"].as_array().unwrap().iter().all(|tensor| tensor["rank"].is_null()));
    let (_, _, swapped) = relation(&root.join("gguf/layers-swapped-1-2.gguf"), &base);
    let moved: Vec<(&str, &str)> = swapped["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|tensor| Some((tensor["name"].as_str()?, tensor["moved_from"].as_str()?)))
        .collect();
    assert_eq!(moved.len(), 18, "{moved:?}");
    assert!(moved.iter().all(|(ours, theirs)| {
        let other = if ours.starts_with("blk.1.") { "blk.2." } else { "blk.1." };
        theirs.starts_with(other) && ours[6..] == theirs[6..]
    }));
    let reasons = swapped["reasons"].to_string();
    assert!(reasons.contains("blk.1 holds the reference's blk.2 (9 tensors)"), "{reasons}");
    // What lies around the weights is told with them.
    let (_, _, permuted) = relation(&root.join("gguf/tok-permuted.gguf"), &base);
    assert_eq!(permuted["likeness"]["tokenizer"][0]["key"], "tokens[265]");
}

/// Two tokens exchanged: lists of tokens name them, and texts that hold them become others.
#[test]
fn tokenizers_are_tried_on_texts() {
    let folder = tempfile::tempdir().unwrap();
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/reference-q8_0.gguf");
    let bytes = std::fs::read(&reference).unwrap();
    let header = gguf::read_strict(&bytes.as_slice()).unwrap();
    let mut tokens: Vec<Vec<u8>> =
        header.metadata.array("tokenizer.ggml.tokens").unwrap().strings().map(<[u8]>::to_vec).collect();
    let place =
        |text: &str, tokens: &[Vec<u8>]| tokens.iter().position(|token| token == text.as_bytes()).unwrap();
    let (a, b) = (place("e", &tokens), place("t", &tokens));
    tokens.swap(a, b);
    let candidate = folder.path().join("swapped.gguf");
    let metadata: Vec<(&str, gguf::Value)> = header
        .metadata
        .iter()
        .map(|(key, value)| match key {
            "tokenizer.ggml.tokens" => (key, gguf::Array::of_strings(&tokens).into()),
            _ => (key, value.clone()),
        })
        .collect();
    let tensors: Vec<TensorData<'_>> = header.tensors.iter().map(|tensor| stored(tensor, &bytes)).collect();
    write_file(&candidate, &metadata, &tensors).unwrap();
    let tried = |candidate: &Path| -> serde_json::Value {
        let output = Command::new(env!("CARGO_BIN_EXE_assayd"))
            .args(["lineage", "--json", "--round-trip", "--reference"])
            .args([&reference, candidate])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let same = tried(&reference);
    let trip = &same["round_trip"];
    assert_eq!(trip["equal"], trip["texts"]);
    assert_eq!(
        (trip["differing"].as_array().unwrap().len(), &same["likeness"]["tokenizer"]),
        (0, &serde_json::json!([]))
    );
    let other = tried(&candidate);
    assert!(other["round_trip"]["equal"].as_u64() < other["round_trip"]["texts"].as_u64(), "{other}");
    assert!(
        other["likeness"]["tokenizer"]
            .as_array()
            .unwrap()
            .iter()
            .any(|item| item["key"] == format!("tokens[{a}]"))
    );
}

/// A set with one part of another model: the shapes are the same, the headers fit, and only
/// the weights tell.
#[test]
fn a_part_of_another_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
    let open = |name: &str| {
        let bytes = std::fs::read(examples.join(name)).unwrap();
        let header = gguf::read_strict(&bytes.as_slice()).unwrap();
        (bytes, header)
    };
    let (own, other) = (open("reference.gguf"), open("finetuned.gguf"));
    let half = own.1.tensors.len() / 2;
    for (number, (bytes, header)) in [(0u16, &own), (1, &other)] {
        let tensors: Vec<&gguf::Tensor> = match number {
            0 => header.tensors.iter().take(half).collect(),
            _ => header.tensors.iter().skip(half).collect(),
        };
        let data: Vec<TensorData<'_>> = tensors.iter().map(|tensor| stored(tensor, bytes)).collect();
        let mut metadata: Vec<(&str, gguf::Value)> = match number {
            0 => header.metadata.iter().map(|(key, value)| (key, value.clone())).collect(),
            _ => Vec::new(),
        };
        metadata.push(("split.no", gguf::Value::U16(number)));
        metadata.push(("split.count", gguf::Value::U16(2)));
        let total = i32::try_from(header.tensors.len()).unwrap();
        metadata.push(("split.tensors.count", gguf::Value::I32(total)));
        let path = folder.path().join(format!("m-{:05}-of-00002.gguf", number + 1));
        write_file(&path, &metadata, &data).unwrap();
    }
    let set = folder.path().join("m-00001-of-00002.gguf");
    let (got, _, document) = relation(&set, &examples.join("reference.gguf"));
    assert_eq!(got, "derived");
    let reasons = document["reasons"].to_string();
    assert!(reasons.contains("all of them are in m-00002-of-00002.gguf"), "{reasons}");
}

/// A fine-tune of three steps, quantised: every weight is nearly where rounding leaves it.
#[test]
fn a_light_fine_tune_stays_visible_behind_quantisation() {
    let Some(root) = models() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = root.join("gguf/base-f32.gguf");
    for (source, expected) in
        [("base-f32", "quantization"), ("ft-tiny-3", "derived"), ("noise-0.001", "derived")]
    {
        for kind in [GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q5_1] {
            let bytes = std::fs::read(root.join(format!("gguf/{source}.gguf"))).unwrap();
            let header = gguf::read_strict(&bytes.as_slice()).unwrap();
            let tensors: Vec<(&str, GgmlType, Vec<u64>, Vec<u8>)> = header
                .tensors
                .iter()
                .map(|tensor| {
                    let data = stored(tensor, &bytes).data;
                    let values: Vec<f32> =
                        data.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
                    let matrix = tensor.shape.len() > 1 && tensor.shape[0] % 32 == 0;
                    let coded = quantize(kind, &values).filter(|_| matrix);
                    let (kind, data) = coded.map_or((GgmlType::F32, data.to_vec()), |coded| (kind, coded));
                    (tensor.name.as_str(), kind, tensor.shape.clone(), data)
                })
                .collect();
            let candidate = folder.path().join("candidate.gguf");
            write(&candidate, &tensors);
            let (got, _, document) = relation(&candidate, &base);
            assert_eq!(got, expected, "{source} as {kind:?}: {}", document["reasons"]);
            let blamed = document["tensors"].as_array().unwrap().iter();
            let blamed = blamed.filter(|tensor| tensor["relation"] == "differs").count();
            assert_eq!(blamed > 0, expected == "derived");
        }
    }
}
