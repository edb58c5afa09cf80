//! Tokens, their attributes, special tokens and the embedding must be of one size.

use std::borrow::Cow;

use super::tensors::warning;
use super::{Model, about};
use crate::model::finding::{Code, Findings};
use crate::model::gguf::token::{BYTE, is_byte};
use crate::model::gguf::{Array, Metadata, Value};

/// Tokenizers that llama.cpp knows, and what each needs besides.
const TOKENIZERS: [(&str, &[&str]); 12] = [
    ("llama", &["tokens"]),
    ("bert", &["tokens"]),
    ("gpt2", &["tokens", "merges"]),
    ("hybriddna", &["tokens", "merges"]),
    ("whitespace", &["tokens", "merges"]),
    ("gemma4", &["tokens", "merges"]),
    ("t5", &["tokens"]),
    ("rwkv", &["tokens"]),
    ("plamo2", &["tokens"]),
    ("test", &["tokens"]),
    ("none", &[]),
    ("no_vocab", &[]),
];
/// Those that cut texts before they merge, in one of many ways.
const CUTTING: [&str; 3] = ["gpt2", "hybriddna", "whitespace"];
/// The ways that llama.cpp knows; it does not load a model of another.
const SPLITTERS: &str = "a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx \
     deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 \
     falcon falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling \
     granite-embed-multi-311m granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 \
     jina-de jina-es jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 \
     kormo laguna lfm2 llada-moe llama-bpe llama-v3 llama3 llama4 megrez mellum mellum2 midm-2.0 \
     minerva-7b minicpm5 minimax-m2 mmbert modern-bert mpt olmo phi-2 pixtral poro-chat qwen2 qwen35 \
     refact roberta-bpe sarvam-moe seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2 starcoder \
     superbpe talkie tekken tiny_aya trillion ufakzeka viking whitespace youtu";
/// Its tokens are found without merges.
const WITHOUT_MERGES: &str = "kimi-k2";

/// Architectures that put out something else than tokens of the vocabulary, or only some of these, as
/// models that draft for another do.
const OTHER_OUTPUT: [&str; 4] = ["qwen3tts", "wavtokenizer-dec", "eagle3", "dflash"];

fn tokenizer(metadata: &Metadata, findings: &mut Findings) {
    let Some(name) = metadata.str("tokenizer.ggml.model") else { return };
    let Some((_, needs)) = TOKENIZERS.iter().find(|(known, _)| *known == name) else {
        let message = format!("tokenizer.ggml.model is {name:?}, a tokenizer that runtimes do not know");
        findings.push(Code::MetadataAbsurd.finding(message));
        return;
    };
    let way = metadata.str("tokenizer.ggml.pre").filter(|way| !way.is_empty());
    if let Some(way) =
        way.filter(|way| CUTTING.contains(&name) && !SPLITTERS.split(' ').any(|known| known == *way))
    {
        let message = format!(
            "tokenizer.ggml.pre is {way:?}, which runtimes do not know; it may be newer than they are"
        );
        findings.push(warning(Code::MetadataAbsurd.finding(message)));
    }
    let merged = way == Some(WITHOUT_MERGES);
    for need in needs.iter().filter(|need| !(merged && **need == "merges")) {
        let key = format!("tokenizer.ggml.{need}");
        if metadata.get(&key).is_none() {
            findings.push(Code::MetadataMissing.finding(format!("{key} is missing")));
        }
    }
}

/// A text that two tokens have, as llama.cpp reads them: up to a NUL, and an empty one by its number.
fn twin(tokens: &Array) -> Option<String> {
    let mut texts: Vec<Cow<'_, [u8]>> = (0u64..)
        .zip(tokens.strings())
        .map(|(id, token)| match token.split(|byte| *byte == 0).next() {
            Some([]) | None => Cow::Owned(format!("[EMPTY_{id}]").into_bytes()),
            Some(text) => Cow::Borrowed(text),
        })
        .collect();
    texts.sort_unstable();
    let pair = texts.iter().zip(texts.iter().skip(1)).find(|(one, next)| one == next);
    pair.map(|(text, _)| String::from_utf8_lossy(text).into_owned())
}

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    let metadata = model.metadata;
    tokenizer(metadata, findings);
    let tokens = metadata.array("tokenizer.ggml.tokens");
    let declared = metadata.hparam("vocab_size").and_then(Value::as_u64);
    let rows = |name: &str| {
        let (tensor, part) =
            model.placed().find(|(tensor, _)| tensor.name == name && tensor.dimension(2) == 1)?;
        Some((tensor.dimension(1), part))
    };
    let embedding = rows("token_embd.weight").map(|(rows, _)| rows);
    let Some(size) = tokens.map(Array::len).or(declared) else {
        return;
    };
    let what = if tokens.is_some() { "the tokenizer has" } else { "the metadata declares" };
    let other = metadata.architecture().is_some_and(|name| OTHER_OUTPUT.contains(&name));
    let rows_of = if other { &["token_embd.weight"][..] } else { &["token_embd.weight", "output.weight"] };
    for &name in rows_of {
        if let Some((rows, part)) = rows(name)
            && rows != size
        {
            let message = format!("{what} {size} tokens and {name} has {rows} rows");
            findings.push(about(name, part, Code::VocabMismatch.finding(message)));
        }
    }
    if let (Some(declared), Some(rows)) = (declared, embedding)
        && declared != rows
        && size == rows
    {
        let message = format!("vocab_size is {declared} and token_embd.weight has {rows} rows");
        findings.push(Code::VocabMismatch.finding(message));
    }
    if let Some(tokens) = tokens {
        if let Some(text) = twin(tokens) {
            findings.push(Code::DuplicateToken.finding(format!("two tokens have the text {text:?}")));
        }
        for key in ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"] {
            if let Some(list) = metadata.array(key)
                && list.len() != size
            {
                let message = format!("{key} has {} entries for {size} tokens", list.len());
                findings.push(Code::VocabMismatch.finding(message));
            }
        }
        let kinds = metadata.array("tokenizer.ggml.token_type");
        let bytes = tokens
            .strings()
            .zip(kinds.into_iter().flat_map(Array::integers))
            .filter(|(_, kind)| *kind == BYTE);
        if let Some((token, _)) = bytes.into_iter().find(|(token, _)| !is_byte(token)) {
            let message = format!("the token {:?} is marked as a byte", String::from_utf8_lossy(token));
            findings.push(Code::BadToken.finding(message));
        }
        let broken = tokens.strings().filter(|token| std::str::from_utf8(token).is_err()).count();
        if broken > 0 {
            let message = format!("{broken} of {size} tokens are not valid UTF-8");
            findings.push(Code::TokenNotUtf8.finding(message));
        }
    }
    for (key, value) in metadata.iter() {
        let special = key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id");
        // The largest u32 is how some converters write "none"; other types are no ids.
        if special
            && let Value::U32(id) = value
            && *id != u32::MAX
            && u64::from(*id) >= size
        {
            findings.push(Code::SpecialTokenRange.finding(format!("{key} is {id} of {size} tokens")));
        }
    }
}
