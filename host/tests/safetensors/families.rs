//! Models by chance of every family in both forms, and what both engines say of them.

use super::*;

const WIDTH: usize = 64;
const FFN: usize = 96;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const VOCAB: usize = 512;
const CONTEXT: usize = 512;

/// One model by chance in both forms. `gguf` maps weights of the folder to llama.cpp's.
struct Twin {
    config: Value,
    weights: Vec<Weight>,
    architecture: &'static str,
    metadata: Vec<(&'static str, Entry)>,
    extra: Vec<Weight>,
    map: fn(&str, &[Weight]) -> Option<Weight>,
}

impl Twin {
    /// Writes both and compares their log-probabilities.
    fn compare(&self, source: &Source, folder: &Path) {
        let model = Folder {
            config: self.config.clone(),
            tokenizer: source.tokenizer_json(),
            weights: self.weights.clone(),
        };
        let name = self.config["model_type"].as_str().unwrap();
        let safetensors = model.write(&folder.join(format!("{name}-{}", self.architecture)), Stored::F32);
        let mut metadata = vec![
            ("general.architecture".to_owned(), self.architecture.into()),
            ("general.name".to_owned(), "by chance".into()),
        ];
        let number = |n: usize| Entry::from(n as u32);
        let common = [
            ("context_length", number(CONTEXT)),
            ("embedding_length", number(WIDTH)),
            ("block_count", number(LAYERS)),
            ("feed_forward_length", number(FFN)),
            ("attention.head_count", number(HEADS)),
            ("vocab_size", number(VOCAB)),
        ];
        for (key, value) in common.into_iter().chain(self.metadata.clone()) {
            metadata.push((format!("{}.{key}", self.architecture), value));
        }
        metadata.extend(source.tokenizer());
        let mut weights: Vec<Weight> =
            self.weights.iter().filter_map(|weight| (self.map)(&weight.name, &self.weights)).collect();
        weights.extend(self.extra.clone());
        let gguf = folder.join(format!("{name}-{}.gguf", self.architecture));
        write_gguf(&gguf, &metadata, &weights);
        let asked = sequences(300);
        let (wanted, _) = logprobs(&gguf, &asked, &["--portable"], folder);
        let (got, _) = logprobs(&safetensors, &asked, &[], folder);
        print!("{name}: ");
        // llama.cpp looks the tanh form of GELU up in a table of 16-bit numbers.
        let bound = if matches!(name, "gpt2" | "phi") { 2e-3 } else { 1e-4 };
        close(&got, &wanted, bound);
        let spread = wanted.iter().copied().fold(0.0, f64::min) - wanted.iter().copied().fold(-1e9, f64::max);
        assert!(spread < -1.0, "the model says nothing: {spread}");
        let (eight, _) = logprobs(&safetensors, &asked, &["--load-bits", "8"], folder);
        eight::near(&got, &eight);
    }
}

fn find<'a>(name: &str, weights: &'a [Weight]) -> &'a Weight {
    weights.iter().find(|weight| weight.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// Layer and the rest of a name under `prefix`.
fn layer_of<'a>(name: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    name.strip_prefix(prefix)?.split_once('.')
}

fn whole_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "model.embed_tokens.weight" | "wte.weight" => "token_embd.weight",
        "wpe.weight" => "position_embd.weight",
        "model.norm.weight" | "model.final_layernorm.weight" | "ln_f.weight" => "output_norm.weight",
        "model.final_layernorm.bias" | "ln_f.bias" => "output_norm.bias",
        "lm_head.weight" => "output.weight",
        "lm_head.bias" => "output.bias",
        _ => return None,
    })
}

fn renamed(name: &str, weights: &[Weight], prefix: &str, parts: &[(&str, &str)]) -> Option<Weight> {
    let weight = find(name, weights);
    if let Some(name) = whole_name(name) {
        return Some(Weight { name: name.to_owned(), ..weight.clone() });
    }
    let (layer, rest) = layer_of(name, prefix)?;
    let (part, end) = rest.rsplit_once('.')?;
    let (to, _) = parts.iter().find(|(_, from)| *from == part)?;
    Some(Weight { name: format!("blk.{layer}.{to}.{end}"), ..weight.clone() })
}

/// llama, qwen2, qwen3: names as in llama; the first with its own order of queries and keys.
fn llama_like(name: &str, weights: &[Weight]) -> Option<Weight> {
    let mut parts = hf::LLAMA_NAMES.to_vec();
    parts.extend([("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")]);
    renamed(name, weights, "model.layers.", &parts)
}

fn llama(name: &str, weights: &[Weight]) -> Option<Weight> {
    let weight = llama_like(name, weights)?;
    match name {
        name if name.contains("q_proj") => Some(pairs_from_halves(&weight, HEADS)),
        name if name.contains("k_proj") => Some(pairs_from_halves(&weight, 2)),
        _ => Some(weight),
    }
}

fn llama_weights(
    dice: &mut Dice,
    head: usize,
    kv_heads: usize,
    bias: bool,
    norms: bool,
    tied: bool,
) -> Vec<Weight> {
    let mut out = vec![
        dice.weight("model.embed_tokens.weight", &[VOCAB, WIDTH]),
        dice.weight("model.norm.weight", &[WIDTH]),
    ];
    if !tied {
        out.push(dice.weight("lm_head.weight", &[VOCAB, WIDTH]));
    }
    for layer in 0..LAYERS {
        let mut put = |part: &str, shape: &[usize]| {
            out.push(dice.weight(&format!("model.layers.{layer}.{part}"), shape))
        };
        let (q, kv) = (HEADS * head, kv_heads * head);
        put("input_layernorm.weight", &[WIDTH]);
        put("post_attention_layernorm.weight", &[WIDTH]);
        for (name, rows) in [("q", q), ("k", kv), ("v", kv)] {
            put(&format!("self_attn.{name}_proj.weight"), &[rows, WIDTH]);
            if bias {
                put(&format!("self_attn.{name}_proj.bias"), &[rows]);
            }
        }
        if norms {
            put("self_attn.q_norm.weight", &[head]);
            put("self_attn.k_norm.weight", &[head]);
        }
        put("self_attn.o_proj.weight", &[WIDTH, q]);
        put("mlp.gate_proj.weight", &[FFN, WIDTH]);
        put("mlp.up_proj.weight", &[FFN, WIDTH]);
        put("mlp.down_proj.weight", &[WIDTH, FFN]);
    }
    out
}

fn llama_config(kind: &str, more: Value) -> Value {
    let mut config = json!({
        "model_type": kind, "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": FFN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn rms(kv_heads: u32, theta: f32) -> Vec<(&'static str, Entry)> {
    vec![
        ("attention.head_count_kv", kv_heads.into()),
        ("attention.layer_norm_rms_epsilon", 1e-5f32.into()),
        ("rope.freq_base", theta.into()),
    ]
}

#[test]
fn every_family_says_what_llama_cpp_says() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::read(&reference());
    let mut dice = Dice(20_261_121);

    // llama, with the frequencies of Llama 3 stretched: here the factors are worked out by hand.
    let head = WIDTH / HEADS;
    let (factor, low, high, original) = (8.0f64, 1.0, 4.0, 64.0);
    let stretch = (0..head / 2).map(|pair| {
        let wave = std::f64::consts::TAU * 10_000f64.powf(2.0 * pair as f64 / head as f64);
        let blend = ((original / wave - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - blend) / factor + blend)) as f32
    });
    let factors =
        Weight { name: "rope_freqs.weight".to_owned(), shape: vec![head / 2], values: stretch.collect() };
    assert!(factors.values.iter().any(|&f| f > 1.01 && f < 7.9), "{:?}", factors.values);
    let mut rope = rms(2, 10_000.0);
    rope.push(("rope.dimension_count", (head as u32).into()));
    let scaling = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low,
        "high_freq_factor": high, "original_max_position_embeddings": original});
    Twin {
        config: llama_config("llama", json!({"rope_theta": 10_000.0, "rope_scaling": scaling})),
        weights: llama_weights(&mut dice, head, 2, false, false, false),
        architecture: "llama",
        metadata: rope.clone(),
        extra: vec![factors],
        map: llama,
    }
    .compare(&source, folder.path());

    // llama, every frequency divided.
    let mut divided = rope.clone();
    divided.push(("rope.scaling.type", "linear".into()));
    divided.push(("rope.scaling.factor", 4.0f32.into()));
    let linear = json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}});
    Twin {
        config: llama_config("mistral", linear),
        weights: llama_weights(&mut dice, head, 2, false, false, true),
        architecture: "llama",
        metadata: divided,
        extra: Vec::new(),
        map: llama,
    }
    .with_tied()
    .compare(&source, folder.path());

    Twin {
        config: llama_config(
            "qwen2",
            json!({"rope_theta": 1e6, "use_sliding_window": false, "sliding_window": 8}),
        ),
        weights: llama_weights(&mut dice, head, 2, true, false, false),
        architecture: "qwen2",
        metadata: rms(2, 1e6),
        extra: Vec::new(),
        map: llama_like,
    }
    .compare(&source, folder.path());

    // Heads that are wider than the width divided by their number.
    let mut wide = rms(2, 5e5);
    wide.extend([("attention.key_length", 32u32.into()), ("attention.value_length", 32u32.into())]);
    Twin {
        config: llama_config("qwen3", json!({"rope_theta": 5e5, "head_dim": 32})),
        weights: llama_weights(&mut dice, 32, 2, false, true, true),
        architecture: "qwen3",
        metadata: wide,
        extra: Vec::new(),
        map: llama_like,
    }
    .with_tied()
    .compare(&source, folder.path());

    gpt2(&mut dice).compare(&source, folder.path());
    phi(&mut dice).compare(&source, folder.path());
    phi3(&mut dice).compare(&source, folder.path());
}

impl Twin {
    fn with_tied(mut self) -> Self {
        self.config["tie_word_embeddings"] = json!(true);
        self
    }
}

const GPT2_PARTS: [(&str, &str); 6] = [
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

fn transposed(weight: &Weight) -> Weight {
    let [rows, columns] = weight.shape[..] else { return weight.clone() };
    let values = (0..columns).flat_map(|c| (0..rows).map(move |r| weight.values[r * columns + c])).collect();
    Weight { shape: vec![columns, rows], values, name: weight.name.clone() }
}

fn gpt2(dice: &mut Dice) -> Twin {
    let mut weights = vec![
        dice.weight("wte.weight", &[VOCAB, WIDTH]),
        dice.weight("wpe.weight", &[CONTEXT, WIDTH]),
        dice.weight("ln_f.weight", &[WIDTH]),
        dice.weight("ln_f.bias", &[WIDTH]),
    ];
    for layer in 0..LAYERS {
        let mut put =
            |part: &str, shape: &[usize]| weights.push(dice.weight(&format!("h.{layer}.{part}"), shape));
        for norm in ["ln_1", "ln_2"] {
            put(&format!("{norm}.weight"), &[WIDTH]);
            put(&format!("{norm}.bias"), &[WIDTH]);
        }
        // Stored with the input dimension first.
        for (part, inputs, outputs) in [
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, FFN),
            ("mlp.c_proj", FFN, WIDTH),
        ] {
            put(&format!("{part}.weight"), &[inputs, outputs]);
            put(&format!("{part}.bias"), &[outputs]);
        }
    }
    Twin {
        config: json!({
            "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": VOCAB, "n_embd": WIDTH,
            "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT, "n_inner": FFN,
            "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
        }),
        weights,
        architecture: "gpt2",
        metadata: vec![("attention.layer_norm_epsilon", 1e-5f32.into())],
        extra: Vec::new(),
        map: |name, weights| {
            let weight = renamed(name, weights, "h.", &GPT2_PARTS)?;
            Some(if name.contains(".c_") { transposed(&weight) } else { weight })
        },
    }
}

fn phi(dice: &mut Dice) -> Twin {
    let mut weights = vec![
        dice.weight("model.embed_tokens.weight", &[VOCAB, WIDTH]),
        dice.weight("model.final_layernorm.weight", &[WIDTH]),
        dice.weight("model.final_layernorm.bias", &[WIDTH]),
        dice.weight("lm_head.weight", &[VOCAB, WIDTH]),
        dice.weight("lm_head.bias", &[VOCAB]),
    ];
    for layer in 0..LAYERS {
        let mut put = |part: &str, shape: &[usize]| {
            weights.push(dice.weight(&format!("model.layers.{layer}.{part}"), shape))
        };
        put("input_layernorm.weight", &[WIDTH]);
        put("input_layernorm.bias", &[WIDTH]);
        for (part, inputs, outputs) in [
            ("self_attn.q_proj", WIDTH, WIDTH),
            ("self_attn.k_proj", WIDTH, WIDTH),
            ("self_attn.v_proj", WIDTH, WIDTH),
            ("self_attn.dense", WIDTH, WIDTH),
            ("mlp.fc1", WIDTH, FFN),
            ("mlp.fc2", FFN, WIDTH),
        ] {
            put(&format!("{part}.weight"), &[outputs, inputs]);
            put(&format!("{part}.bias"), &[outputs]);
        }
    }
    Twin {
        config: json!({
            "model_type": "phi", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": FFN,
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": CONTEXT,
            "layer_norm_eps": 1e-5, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5,
            "rope_theta": 10_000.0, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
        }),
        weights,
        architecture: "phi2",
        metadata: vec![
            ("attention.head_count_kv", (HEADS as u32).into()),
            ("attention.layer_norm_epsilon", 1e-5f32.into()),
            ("rope.dimension_count", (WIDTH as u32 / HEADS as u32 / 2).into()),
            ("rope.freq_base", 10_000f32.into()),
        ],
        extra: Vec::new(),
        map: |name, weights| {
            let parts = [
                ("attn_norm", "input_layernorm"),
                ("attn_q", "self_attn.q_proj"),
                ("attn_k", "self_attn.k_proj"),
                ("attn_v", "self_attn.v_proj"),
                ("attn_output", "self_attn.dense"),
                ("ffn_up", "mlp.fc1"),
                ("ffn_down", "mlp.fc2"),
            ];
            renamed(name, weights, "model.layers.", &parts)
        },
    }
}

fn phi3(dice: &mut Dice) -> Twin {
    let mut weights = vec![
        dice.weight("model.embed_tokens.weight", &[VOCAB, WIDTH]),
        dice.weight("model.norm.weight", &[WIDTH]),
        dice.weight("lm_head.weight", &[VOCAB, WIDTH]),
    ];
    for layer in 0..LAYERS {
        let mut put = |part: &str, shape: &[usize]| {
            weights.push(dice.weight(&format!("model.layers.{layer}.{part}"), shape))
        };
        put("input_layernorm.weight", &[WIDTH]);
        put("post_attention_layernorm.weight", &[WIDTH]);
        put("self_attn.qkv_proj.weight", &[WIDTH + 2 * WIDTH / 2, WIDTH]);
        put("self_attn.o_proj.weight", &[WIDTH, WIDTH]);
        put("mlp.gate_up_proj.weight", &[2 * FFN, WIDTH]);
        put("mlp.down_proj.weight", &[WIDTH, FFN]);
    }
    let mut metadata = rms(2, 10_000.0);
    metadata.push(("rope.dimension_count", (WIDTH as u32 / HEADS as u32).into()));
    Twin {
        config: llama_config("phi3", json!({"rope_theta": 10_000.0, "sliding_window": null})),
        weights,
        architecture: "phi3",
        metadata,
        extra: Vec::new(),
        map: |name, weights| {
            let parts = [
                ("attn_norm", "input_layernorm"),
                ("ffn_norm", "post_attention_layernorm"),
                ("attn_qkv", "self_attn.qkv_proj"),
                ("attn_output", "self_attn.o_proj"),
                ("ffn_up", "mlp.gate_up_proj"),
                ("ffn_down", "mlp.down_proj"),
            ];
            renamed(name, weights, "model.layers.", &parts)
        },
    }
}

/// With one layer, the last token sees nothing before its window: what came earlier, and how
/// much of it there was, makes no difference.
#[test]
fn a_sliding_window_hides_what_is_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice(7);
    let mut weights = llama_weights(&mut dice, WIDTH / HEADS, 2, false, false, false);
    weights.retain(|weight| !weight.name.starts_with("model.layers.1."));
    let write = |name: &str, more: Value| {
        let mut config = llama_config("mistral", more);
        config["num_hidden_layers"] = json!(1);
        let tokenizer = Source::read(&reference()).tokenizer_json();
        Folder { config, tokenizer, weights: weights.clone() }.write(&folder.path().join(name), Stored::F32)
    };
    let windowed = write("windowed", json!({"sliding_window": 8}));
    let open = write("open", json!({"sliding_window": null}));
    let long = sequences(300)[0].clone();
    // Rows 260 on are in the second chunk: the window reaches over the border of chunks.
    for end in [100, 259, 280] {
        let last = |model: &Path, tokens: &[u32]| {
            *logprobs(model, &[tokens.to_vec()], &[], folder.path()).0.last().unwrap()
        };
        // The last token is predicted from the eight before it.
        let (whole, window) = (&long[..end], &long[end - 9..end]);
        assert!((last(&windowed, whole) - last(&windowed, window)).abs() < 1e-4, "{end}");
        assert!((last(&windowed, whole) - last(&open, whole)).abs() > 1e-3, "{end}");
        assert!((last(&windowed, whole) - last(&windowed, &long[end - 8..end])).abs() > 1e-3, "{end}");
    }
}
