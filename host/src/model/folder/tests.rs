//! Folders made by hand, each with one thing wrong.

use super::*;
use crate::domain::inspection::Status;
use crate::model::{Hashing, InspectOptions, inspect};

const CONFIG: &str = r#"{"model_type":"llama","num_hidden_layers":1,"hidden_size":4,"vocab_size":3,
    "num_attention_heads":1,"intermediate_size":4,"max_position_embeddings":32,"tie_word_embeddings":true,"torch_dtype":"float32"}"#;

fn tensors() -> Vec<(String, Vec<u64>)> {
    let mut list =
        vec![("model.embed_tokens.weight".to_owned(), vec![3, 4]), ("model.norm.weight".to_owned(), vec![4])];
    let mut add =
        |part: &str, shape: &[u64]| list.push((format!("model.layers.0.{part}.weight"), shape.to_vec()));
    ["input_layernorm", "post_attention_layernorm"].iter().for_each(|part| add(part, &[4]));
    let attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
    let forward = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
    attention.iter().chain(&forward).for_each(|part| add(part, &[4, 4]));
    list
}

fn weights(metadata: &str, tensors: &[(String, Vec<u64>)]) -> Vec<u8> {
    let mut at = 0;
    let mut entries = vec![format!("\"__metadata__\":{metadata}")];
    for (name, shape) in tensors {
        let end = at + shape.iter().product::<u64>() * 4;
        entries.push(format!(
            "\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"
        ));
        at = end;
    }
    let json = format!("{{{}}}", entries.join(","));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    (0..at / 4).for_each(|i| bytes.extend_from_slice(&(i as f32 + 0.25).to_le_bytes()));
    bytes
}

struct Made(tempfile::TempDir);

impl Made {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        Self(folder)
    }

    fn look(&self) -> Inspection {
        inspect(self.0.path(), &InspectOptions { full: true }, &mut |_, _| {}).unwrap()
    }

    fn codes(&self) -> BTreeSet<String> {
        self.look().findings.into_iter().map(|finding| finding.code).collect()
    }
}

#[test]
fn a_sound_folder() {
    let made = Made::new(&[
        ("config.json", CONFIG.as_bytes()),
        ("model.safetensors", &weights("{}", &tensors())),
        ("tokenizer.json", b"{\"version\":\"1.0\",\"model\":{\"vocab\":{\"a\":0}}}"),
    ]);
    let inspection = made.look();
    assert_eq!(inspection.status, Status::Accept, "{:?}", inspection.findings);
    assert_eq!(inspection.kind, ArtifactKind::Safetensors);
    assert_eq!(inspection.architecture.as_deref(), Some("llama"));
    assert_eq!(inspection.context_length, Some(32));
    assert_eq!(inspection.parameters, Some(12 + 3 * 4 + 7 * 16));
    assert_eq!(inspection.quantization.as_deref(), Some("F32"));
    assert!(inspection.tokenizer_hash.is_some());
    assert_eq!(inspection.files.len(), 3);
    let cosmetic = CONFIG.replace("float32", "bfloat16").replace(",\n", ", ");
    fs::write(made.0.path().join("config.json"), &cosmetic).unwrap();
    assert_eq!(made.look().config_hash, inspection.config_hash);
    fs::write(made.0.path().join("config.json"), cosmetic.replace("32,", "64,")).unwrap();
    assert_ne!(made.look().config_hash, inspection.config_hash);
    fs::remove_file(made.0.path().join("config.json")).unwrap();
    let alone = inspect(&made.0.path().join("model.safetensors"), &InspectOptions::default(), &mut |_, _| {})
        .unwrap();
    assert_eq!((alone.config_hash, alone.status), (None, Status::Accept));
    assert_eq!(alone.findings[0].code, "config-missing");
}

/// Rows of an embedding that are zero: padding, or tokens that were added and never used.
#[test]
fn zero_rows_of_an_embedding_are_explained_by_the_tokenizer() {
    let table = [("model.embed_tokens.weight".to_owned(), vec![40, 4096])];
    let tokenizer = br#"{"model":{"vocab":{}},"added_tokens":[{"id":11,"content":"a"},{"id":9,"content":"b"},
        {"id":10,"content":"c"},{"id":12,"content":"d"},{"id":13,"content":"e"}]}"#;
    let with_zeros = |rows: std::ops::Range<usize>| {
        let mut bytes = weights("{}", &table);
        let data = bytes.len() - 40 * 16_384;
        bytes[data + rows.start * 16_384..data + rows.end * 16_384].fill(0);
        let made = Made::new(&[
            ("config.json", CONFIG.as_bytes()),
            ("model.safetensors", &bytes),
            ("tokenizer.json", tokenizer),
        ]);
        let found = made.codes();
        (found.contains("zero-rows"), found.contains("zero-run") || found.contains("zeroed-tail"))
    };
    assert_eq!(with_zeros(9..14), (true, false), "added tokens");
    assert_eq!(with_zeros(30..40), (true, false), "padding");
    assert_eq!(with_zeros(9..15), (false, true), "and one that is not");
    assert_eq!(with_zeros(0..5), (false, true));
}

/// A document's faults are told with its name and place, and never reject the weights.
#[test]
fn documents_are_looked_at() {
    let conflict = b"# Model\n=======\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> x\nof {DATE}\n";
    let large = vec![b' '; usize::try_from(crate::domain::budget::DOCUMENT_BYTES).unwrap() + 1];
    let made = Made::new(&[
        ("config.json", CONFIG.as_bytes()),
        ("model.safetensors", &weights("{}", &tensors())),
        ("README.md", conflict),
        ("latin.MD", b"caf\xe9 {NAME}"),
        ("large.markdown", &large),
        ("notes.txt", b"{NOT_A_DOCUMENT}"),
    ]);
    rustix::fs::symlink("nowhere", made.0.path().join("lost.md")).unwrap();
    let found = |inspection: Inspection| -> Vec<String> {
        let list = inspection.findings.into_iter();
        list.map(|of| format!("{} {} {:?}", of.code, of.part.unwrap_or_default(), of.offset)).collect()
    };
    let inspection = made.look();
    assert_eq!(inspection.status, Status::Warn);
    assert_eq!(
        found(inspection),
        [
            "merge-marker README.md Some(16)",
            "merge-marker README.md Some(31)",
            "merge-marker README.md Some(41)",
            "open-placeholder README.md Some(54)",
            "document-unread large.markdown Some(4194304)",
            "open-placeholder latin.MD Some(5)",
            "document-unread lost.md None",
        ]
    );
    // More documents than anybody reads are not all read, and that is said.
    let many: Vec<(String, &[u8])> =
        (0..=crate::domain::budget::DOCUMENTS + 5).map(|n| (format!("{n:03}.md"), &b"{DATE}"[..])).collect();
    let mut files: Vec<(&str, &[u8])> = many.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    let weights = weights("{}", &tensors());
    files.extend([("config.json", CONFIG.as_bytes()), ("model.safetensors", weights.as_slice())]);
    let all = found(Made::new(&files).look());
    assert_eq!(all.len(), crate::domain::budget::DOCUMENTS + 1);
    assert_eq!(all.last().unwrap(), "document-unread 032.md None");
}

#[test]
fn damage_has_its_code() {
    let good = weights("{}", &tensors());
    let without = |name: &str| {
        let rest: Vec<_> = tensors().into_iter().filter(|(other, _)| !other.contains(name)).collect();
        weights("{}", &rest)
    };
    let config = |from: &str, to: &str| {
        assert!(CONFIG.contains(from));
        CONFIG.replace(from, to)
    };
    let one = |config: &str, weights: &[u8]| {
        Made::new(&[("config.json", config.as_bytes()), ("model.safetensors", weights)])
    };
    let indexed = |map: &str| {
        let index = format!("{{\"weight_map\":{{{map}}}}}");
        Made::new(&[
            ("config.json", CONFIG.as_bytes()),
            ("model.safetensors", &good),
            ("model.safetensors.index.json", index.as_bytes()),
        ])
    };
    let nan = {
        let mut bytes = good.clone();
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes
    };
    let mut more = tensors();
    more.push(("model.layers.1.mlp.up_proj.weight".to_owned(), vec![4, 4]));
    let cases: Vec<(&str, Made, &str)> = vec![
        ("layer declared", one(&config("layers\":1", "layers\":2"), &good), "missing-tensor"),
        ("tensor gone", one(CONFIG, &without("k_proj")), "missing-tensor"),
        ("untied, no output", one(&config("true", "false"), &good), "missing-tensor"),
        ("vocabulary", one(&config("size\":3", "size\":5"), &good), "vocab-mismatch"),
        ("width", one(&config("hidden_size\":4", "hidden_size\":8"), &good), "shape-mismatch"),
        ("layer too many", one(&config("layers\":1", "layers\":0"), &good), "metadata-absurd"),
        ("layers beyond", one(CONFIG, &weights("{}", &more)), "unexpected-tensor"),
        ("absurd", one(&config("layers\":1", "layers\":1000000"), &good), "metadata-absurd"),
        ("no context", one(&config("embeddings\":32", "embeddings\":0"), &good), "metadata-absurd"),
        ("negative", one(&config("hidden_size\":4", "hidden_size\":-4"), &good), "metadata-absurd"),
        ("norm", one(&config("\"torch", "\"rms_norm_eps\":-1,\"torch"), &good), "metadata-absurd"),
        ("a text", one(&config("hidden_size\":4", "hidden_size\":\"4\""), &good), "metadata-wrong-type"),
        ("no width", one(&config("\"hidden_size\":4,", ""), &good), "metadata-missing"),
        ("no type", one(&config("\"model_type\":\"llama\",", ""), &good), "metadata-missing"),
        ("index forgets", indexed("\"model.norm.weight\":\"model.safetensors\""), "shard-tensor"),
        ("remote code", one(&config("\"torch", "\"auto_map\":{},\"torch"), &good), "remote-code"),
        ("broken config", one("{", &good), "bad-json"),
        ("NaN", one(CONFIG, &nan), "nan-weights"),
        ("cut", one(CONFIG, &good[..good.len() - 4]), "truncated"),
        ("traversal", indexed("\"a\":\"../../etc/passwd\""), "path-traversal"),
        ("absolute", indexed("\"a\":\"/etc/passwd\""), "path-traversal"),
        ("shard gone", indexed("\"a\":\"model-00001-of-00002.safetensors\""), "shard-missing"),
        (
            "listed twice",
            indexed(
                "\"model.norm.weight\":\"model.safetensors\",\"model.norm.weight\":\"model.safetensors\"",
            ),
            "duplicate-tensor",
        ),
        ("no tensors", one(CONFIG, &weights("{}", &[])), "not-a-language-model"),
        ("index lies", indexed("\"a\":\"model.safetensors\""), "shard-tensor"),
        (
            "twice",
            Made::new(&[
                ("config.json", CONFIG.as_bytes()),
                ("a.safetensors", &good),
                ("b.safetensors", &good),
            ]),
            "shard-tensor",
        ),
        (
            "numbered shard gone",
            Made::new(&[("config.json", CONFIG.as_bytes()), ("m-00001-of-00002.safetensors", &good)]),
            "shard-missing",
        ),
    ];
    for (what, made, code) in cases {
        let codes = made.codes();
        assert!(codes.contains(code), "{what}: {codes:?}");
    }
}

/// Two heads of four, one of them for keys, and seven units; each shape that says otherwise.
#[test]
fn shapes_are_those_of_the_configuration() {
    const SIZES: &str =
        r#""num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,"intermediate_size":7,"#;
    let shaped = |changes: &[(&str, &[u64])]| -> Vec<(String, Vec<u64>)> {
        let mut list = tensors();
        for (part, shape) in [
            ("q_proj.weight", &[8, 4][..]),
            ("o_proj.weight", &[4, 8]),
            ("gate_proj.weight", &[7, 4]),
            ("up_proj.weight", &[7, 4]),
            ("down_proj.weight", &[4, 7]),
        ]
        .iter()
        .chain(changes)
        {
            match list.iter_mut().find(|(name, _)| name.ends_with(part)) {
                Some((_, old)) => *old = shape.to_vec(),
                None => list.push((format!("model.layers.0.self_attn.{part}"), shape.to_vec())),
            }
        }
        list
    };
    let look = |config: &str, changes: &[(&str, &[u64])]| {
        let weights = weights("{}", &shaped(changes));
        let made = Made::new(&[("config.json", config.as_bytes()), ("model.safetensors", &weights)]).look();
        let list = made.findings.into_iter().map(|found| {
            let name = found.tensor.unwrap_or_default();
            format!("{} {}", found.code, name.rsplit('.').nth(1).unwrap_or_default())
        });
        list.collect::<Vec<_>>()
    };
    const OWN: &str = "\"num_attention_heads\":1,\"intermediate_size\":4,";
    let sized = CONFIG.replace(OWN, SIZES);
    assert_ne!(sized, CONFIG);
    let extra: &[(&str, &[u64])] = &[("q_norm.weight", &[4]), ("k_proj.bias", &[4]), ("q_proj.bias", &[8])];
    assert_eq!(look(&sized, extra), [""; 0]);
    // What is not said contradicts no shape.
    assert_eq!(look(&CONFIG.replace(OWN, ""), extra), ["metadata-missing "; 2]);
    for (part, shape) in [
        ("q_proj.weight", &[4, 4][..]),
        ("k_proj.weight", &[8, 4]),
        ("v_proj.weight", &[4, 3]),
        ("o_proj.weight", &[4, 4]),
        ("gate_proj.weight", &[8, 4]),
        ("up_proj.weight", &[28]),
        ("down_proj.weight", &[7, 4]),
        ("input_layernorm.weight", &[5]),
        ("k_norm.weight", &[8]),
        ("k_proj.bias", &[8]),
    ] {
        let named = format!("shape-mismatch {}", part.split('.').next().unwrap());
        assert_eq!(look(&sized, &[(part, shape)]), [named], "{part}");
    }
    for (from, to, count) in [("key_value_heads\":1", "key_value_heads\":2", 2), ("size\":7", "size\":8", 3)]
    {
        assert_eq!(look(&sized.replace(from, to), &[]).len(), count, "{to}");
    }
    // Other models, and packed weights, have other shapes.
    for (from, to) in [("\"llama\"", "\"novel\""), ("\"torch", "\"quantization\":{\"bits\":4},\"torch")] {
        assert_eq!(look(&sized.replace(from, to), &[("k_proj.weight", &[8, 4])]), [""; 0], "{to}");
    }
}

#[test]
fn adapters_and_mlx_are_recognised() {
    let pair = |name: &str, rank: u64| {
        vec![
            (format!("m.{name}.lora_A.weight"), vec![rank, 4]),
            (format!("m.{name}.lora_B.weight"), vec![4, rank]),
        ]
    };
    let adapter = |tensors: &[(String, Vec<u64>)]| {
        Made::new(&[
            ("adapter_config.json", br#"{"peft_type":"LORA","r":2}"#),
            ("adapter_model.safetensors", &weights("{}", tensors)),
        ])
    };
    let sound = adapter(&pair("q", 2)).look();
    assert_eq!((sound.kind, sound.status), (ArtifactKind::Adapter, Status::Accept), "{:?}", sound.findings);
    assert!(adapter(&pair("q", 3)).codes().contains("shape-mismatch"));
    assert!(adapter(&pair("q", 2)[..1]).codes().contains("missing-tensor"));
    let mlx = CONFIG.replace("\"torch", "\"quantization\":{\"group_size\":64,\"bits\":4},\"torch");
    let mlx = Made::new(&[
        ("config.json", mlx.as_bytes()),
        ("model.safetensors", &weights("{\"format\":\"mlx\"}", &tensors())),
    ]);
    let mlx = mlx.look();
    assert_eq!((mlx.kind, mlx.status), (ArtifactKind::Mlx, Status::Accept), "{:?}", mlx.findings);
    assert_eq!((mlx.parameters, mlx.quantization.as_deref()), (None, Some("mlx 4-bit")));
}

/// What an adapter's configuration declares, against its tensors.
#[test]
fn adapters_are_what_they_declare() {
    let tensors = [("layers.0.attn.q_proj", 2), ("layers.0.attn.k_proj", 2), ("layers.0.mlp.up_proj", 4)];
    let tensors: Vec<(String, Vec<u64>)> = tensors
        .iter()
        .flat_map(|&(module, rank)| {
            [("lora_A", vec![rank, 4]), ("lora_B", vec![4, rank])]
                .map(|(side, shape)| (format!("base_model.model.model.{module}.{side}.weight"), shape))
        })
        .collect();
    let ours = weights("{}", &tensors);
    let codes = |config: &str| {
        let files = [("adapter_config.json", config.as_bytes()), ("adapter_model.safetensors", &ours[..])];
        Made::new(&files).codes().into_iter().collect::<Vec<_>>()
    };
    let with = |r: &str, modules: &str, ranks: &str| {
        let rest = format!(r#""target_modules":{modules},"rank_pattern":{ranks}"#);
        format!(r#"{{"peft_type":"LORA","lora_alpha":16,{r}{rest}}}"#)
    };
    let (all, up) = (r#"["q_proj","k_proj","up_proj"]"#, r#"{"up_proj":4}"#);
    for (r, modules, ranks, expected) in [
        (r#""r":2,"#, all, up, &[][..]),
        (r#""r":2,"#, all, r#"{"layers.0.mlp.up_proj":4}"#, &[]),
        (r#""r":2,"#, r#"["attn.q_proj","attn.k_proj","mlp.up_proj"]"#, up, &[]),
        (r#""r":2,"#, r#"["model.layers.0.attn.q_proj","k_proj","up_proj"]"#, up, &[]),
        (r#""r":2,"#, "null", up, &[]),
        // A pattern may mean any module.
        (r#""r":2,"#, r#"".*_proj""#, r#"{"mlp\\..*":4}"#, &[]),
        // Which of two names counts is a matter of their order.
        (r#""r":2,"#, all, r#"{"up_proj":8,"mlp.up_proj":4}"#, &[]),
        (r#""r":2,"#, all, r#"{"up_proj":8,"mlp.up_proj":8}"#, &["shape-mismatch"]),
        (r#""r":2,"#, all, "{}", &["shape-mismatch"]),
        (r#""r":2,"#, all, r#"{"up_proj":4,"q_proj":4}"#, &["shape-mismatch"]),
        (r#""r":2,"#, all, r#"{"proj":4}"#, &["shape-mismatch"]),
        (r#""r":8,"#, all, up, &["shape-mismatch"]),
        (r#""r":-8,"#, all, up, &["metadata-absurd"]),
        (r#""r":0,"#, all, up, &["metadata-absurd", "shape-mismatch"]),
        (r#""r":"2","#, all, up, &["metadata-wrong-type"]),
        ("", all, up, &["metadata-missing"]),
        (r#""r":null,"#, all, up, &["metadata-missing"]),
        (r#""r":2,"#, r#"["q_proj"]"#, up, &["unexpected-tensor"]),
        (r#""r":2,"#, r#"["proj"]"#, up, &["unexpected-tensor"]),
    ] {
        assert_eq!(codes(&with(r, modules, ranks)), expected, "{r} {modules} {ranks}");
    }
    assert_eq!(codes(r#"{"peft_type":"IA3"}"#), [""; 0], "other kinds have no rank");
    assert_eq!(codes("{}"), ["metadata-missing"], "the tensors are of the kind that has one");
    let foreign = weights("{}", &[("model.layers.0.attn.q_proj.lora_a".to_owned(), vec![4, 2])]);
    let config = br#"{"fine_tune_type":"lora","lora_parameters":{"rank":2}}"#;
    let files = [("adapter_config.json", &config[..]), ("adapters.safetensors", &foreign[..])];
    assert_eq!(Made::new(&files).codes().into_iter().collect::<Vec<_>>(), [""; 0], "of another tool");
}

#[test]
fn links_out_of_the_folder_are_noticed_and_the_cache_layout_is_not() {
    let outside = Made::new(&[("w", &weights("{}", &tensors()))]);
    let made = Made::new(&[("config.json", CONFIG.as_bytes())]);
    std::os::unix::fs::symlink(outside.0.path().join("w"), made.0.path().join("model.safetensors")).unwrap();
    // Discovery leaves such a link alone, so ask for the folder itself.
    let mut silent = |_, _| {};
    let mut inspector = Inspector::new(InspectOptions::default(), Hashing::default(), &mut silent);
    let inspection = folder(&mut inspector, made.0.path()).unwrap();
    assert!(
        inspection.findings.iter().any(|finding| finding.code == "symlink-escape"),
        "{:?}",
        inspection.findings
    );

    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("models--a--b/snapshots/abc");
    let blobs = cache.path().join("models--a--b/blobs");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("1"), CONFIG).unwrap();
    fs::write(blobs.join("2"), weights("{}", &tensors())).unwrap();
    std::os::unix::fs::symlink("../../blobs/1", snapshot.join("config.json")).unwrap();
    std::os::unix::fs::symlink("../../blobs/2", snapshot.join("model.safetensors")).unwrap();
    let inspection = folder(&mut inspector, &snapshot).unwrap();
    assert_eq!(inspection.status, Status::Accept, "{:?}", inspection.findings);
    for path in [cache.path(), &snapshot] {
        let found = inspect(path, &InspectOptions::default(), &mut |_, _| {}).unwrap();
        assert_eq!(found.status, Status::Accept, "{:?}", found.findings);
    }
}

/// The texts beside the weights, each with one thing wrong.
#[test]
fn texts_beside_the_weights() {
    let good = weights("{}", &tensors());
    let codes = |name: &str, text: &str| {
        let codes = Made::new(&[
            ("config.json", CONFIG.as_bytes()),
            ("model.safetensors", &good),
            (name, text.as_bytes()),
        ])
        .codes();
        codes.into_iter().collect::<Vec<_>>()
    };
    for (name, text, expected) in [
        ("generation_config.json", r#"{"eos_token_id": [1, 2], "temperature": 0.7}"#, &[][..]),
        ("generation_config.json", r#"{"eos_token_id": [1, 3]}"#, &["special-token-range"]),
        ("generation_config.json", r#"{"bos_token_id": -1}"#, &["special-token-range"]),
        ("generation_config.json", "[1]", &["bad-json"]),
        ("generation_config.json", "{", &["bad-json"]),
        ("tokenizer.json", r#"{"model":{"vocab":{"a":0,"b":2}}}"#, &[]),
        ("tokenizer.json", r#"{"model":{"vocab":{"a":0,"b":3}}}"#, &["vocab-mismatch"]),
        (
            "tokenizer.json",
            r#"{"model":{"vocab":{"a":0,"b":3}},"added_tokens":[{"id":3,"content":"b"}]}"#,
            &["special-token-range"],
        ),
        (
            "tokenizer.json",
            r#"{"model":{"vocab":{}},"added_tokens":[{"id":9,"content":"x"}]}"#,
            &["special-token-range"],
        ),
        ("tokenizer.json", r#"{"model":7}"#, &["bad-json"]),
        ("tokenizer.json", r#"{"model":{"vocab":{"a":0,"b":0}}}"#, &["vocab-mismatch"]),
        ("tokenizer_config.json", r#"{"chat_template":"{{ messages[0].content }}"}"#, &[]),
        ("tokenizer_config.json", r#"{"chat_template":"{{ ''.__class__ }}"}"#, &["template-reach"]),
        (
            "tokenizer_config.json",
            r#"{"chat_template":[{"name":"rag","template":"{{ ''.__class__ }}"}]}"#,
            &["template-reach"],
        ),
        ("tokenizer_config.json", r#"{"auto_map":{"AutoTokenizer":["a.B",null]}}"#, &["remote-code"]),
        ("preprocessor_config.json", r#"{"auto_map":null}"#, &[]),
        ("processor_config.json", r#"{"chat_template":"{{ ''.__class__ }}"}"#, &["template-reach"]),
        ("chat_template.json", r#"{"chat_template":"{% if %}"}"#, &["template-unread"]),
        ("chat_template.jinja", "{% for i in range(10**9) %}{% endfor %}", &["template-endless"]),
        ("rag.jinja", "{{ x.__init__ }}", &["template-reach"]),
        ("additional_chat_templates/rag.jinja", "{{ messages[0].content }}", &[]),
        ("additional_chat_templates/rag.jinja", "{{ x.__init__ }}", &["template-reach"]),
    ] {
        assert_eq!(codes(name, text), expected, "{name} {text}");
    }
}

/// A tokenizer is read in pieces, and all the same told to be too large, no UTF-8 or no file.
#[test]
fn long_texts_that_cannot_be_read() {
    let codes = |edit: &dyn Fn(&Path)| {
        let made = Made::new(&[
            ("config.json", CONFIG.as_bytes()),
            ("model.safetensors", &weights("{}", &tensors())),
        ]);
        edit(&made.0.path().join("tokenizer.json"));
        made.codes().into_iter().collect::<Vec<_>>()
    };
    // Letters of three bytes, so that the ends of pieces cut some of them, each in another place.
    for shift in 0..3 {
        let letters = format!("{}{}", "a".repeat(shift), "\u{2581}".repeat(100_000));
        let text = format!(r#"{{"passed over":"{letters}","model":{{"vocab":{{"{letters}":0}}}}}}"#);
        assert_eq!(codes(&|path| fs::write(path, &text).unwrap()), [""; 0], "{shift}");
        for broken in [100, 65_535, 65_536, 65_537, 299_999] {
            let mut text = text.clone().into_bytes();
            text[broken] = 0xff;
            assert_eq!(codes(&|path| fs::write(path, &text).unwrap()), ["invalid-utf8"], "{shift} {broken}");
        }
        let mut text = text.into_bytes();
        text.extend_from_slice(&"\u{2581}".as_bytes()[..2]);
        assert_eq!(codes(&|path| fs::write(path, &text).unwrap()), ["invalid-utf8"], "{shift}, cut");
    }
    let sized = |bytes: u64| codes(&|path| fs::File::create(path).unwrap().set_len(bytes).unwrap());
    assert_eq!(sized(budget::JSON_FILE_BYTES + 1), ["header-too-large"]);
    assert_eq!(sized(budget::JSON_FILE_BYTES), ["bad-json"]);
    assert_eq!(codes(&|path| fs::create_dir(path).unwrap()), ["unreadable"]);
}

/// Whatever of the folder a runtime reads is in the list of its files and in the content root.
#[test]
fn what_belongs_to_the_model_is_digested() {
    let weights = weights("{}", &tensors());
    let sides =
        ["chat_template.jinja", "additional_chat_templates/rag.jinja", "tokenizer.model", "merges.txt"];
    let look = |edited: Option<&str>| {
        let mut files = vec![("config.json", CONFIG.as_bytes()), ("model.safetensors", weights.as_slice())];
        let text = |name| if edited == Some(name) { &b"{{ other }}"[..] } else { b"{{ one }}" };
        files.extend(sides.map(|name| (name, text(name))));
        files.push(("README.md", text("README.md")));
        Made::new(&files).look()
    };
    let plain = look(None);
    assert_eq!(plain.files.len(), 2 + sides.len(), "{:?}", plain.files);
    assert_eq!(look(Some("README.md")).digests, plain.digests);
    for name in sides {
        let edited = look(Some(name));
        assert_ne!(edited.digests.content_root, plain.digests.content_root, "{name}");
        assert_eq!(edited.digests.weights_root, plain.digests.weights_root, "{name}");
        let changed = edited.files.iter().zip(&plain.files).filter(|(a, b)| a.sha256 != b.sha256);
        let changed: Vec<_> = changed.map(|(file, _)| file.path.clone()).collect();
        assert!(changed.len() == 1 && changed[0].ends_with(name), "{name}: {changed:?}");
    }
    let findings = Made::new(&[
        ("config.json", CONFIG.as_bytes()),
        ("model.safetensors", &weights),
        ("additional_chat_templates/rag.jinja", b"{{ x.__init__ }}"),
    ])
    .look()
    .findings;
    assert_eq!(findings[0].part.as_deref(), Some("additional_chat_templates/rag.jinja"));
    assert!(findings[0].message.contains("the chat template \"rag\""), "{findings:?}");
}

#[test]
fn packed_weights_need_their_scales() {
    let folder = |scales: bool, quantization: &str| {
        let json = format!(
            r#"{{"model.norm.weight":{{"dtype":"F32","shape":[4],"data_offsets":[0,16]}},
               "model.layers.0.mlp.up_proj.weight":{{"dtype":"U32","shape":[4,1],"data_offsets":[16,32]}}{}}}"#,
            if scales {
                r#","model.layers.0.mlp.up_proj.scales":{"dtype":"F32","shape":[4,1],"data_offsets":[32,48]}"#
            } else {
                ""
            }
        );
        let mut bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
        bytes.resize(bytes.len() + if scales { 48 } else { 32 }, 1);
        let config = format!(r#"{{"model_type":"x","quantization":{{{quantization}}}}}"#);
        Made::new(&[("config.json", config.as_bytes()), ("model.safetensors", &bytes)])
    };
    let eight = r#""bits":4,"group_size":8"#;
    let sound = folder(true, eight).look();
    assert_eq!((sound.kind, sound.status), (ArtifactKind::Mlx, Status::Accept), "{:?}", sound.findings);
    assert_eq!(sound.quantization.as_deref(), Some("mlx 4-bit"));
    let own = r#""bits":2,"group_size":8,"model.layers.0.mlp.up_proj":{"bits":4}"#;
    assert_eq!(folder(true, own).look().status, Status::Accept);
    let lacking = folder(false, eight).look();
    let finding = lacking.findings.iter().find(|finding| finding.code == "missing-tensor").unwrap();
    assert_eq!(finding.tensor.as_deref(), Some("model.layers.0.mlp.up_proj.scales"));
    for wrong in [r#""bits":8,"group_size":8"#, r#""bits":4,"group_size":16"#] {
        assert!(folder(true, wrong).codes().contains("shape-mismatch"), "{wrong}");
    }
    let sound = fs::read(folder(true, eight).0.path().join("model.safetensors")).unwrap();
    let text = String::from_utf8_lossy(&sound).replacen(
        "{\"model.norm",
        "{\"__metadata__\":{\"format\":\"mlx\"},\"model.norm",
        1,
    );
    let json = text[8..].split_inclusive("}}").next().unwrap();
    let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &[1; 48]].concat();
    let unsaid = Made::new(&[("config.json", br#"{"model_type":"x"}"#), ("model.safetensors", &bytes)]);
    assert!(unsaid.codes().contains("metadata-missing"), "{:?}", unsaid.codes());
}

mod adapters;
mod beside;
mod honest;
mod odd;
