//! Forms of tokenizer.json that are known to mean what GGUF says in a word, or implies.

use serde_json::Value;

/// The letter that stands for a space.
const SPACE: &str = "\u{2581}";

pub(super) fn is_of(rule: &Value, kind: &str) -> bool {
    rule.get("type").is_some_and(|found| found == kind)
}

fn text<'a>(rule: &'a Value, key: &str) -> Option<&'a str> {
    rule.get(key)?.as_str()
}

fn flag(rule: &Value, key: &str, default: bool) -> bool {
    rule.get(key).map_or(Some(default), Value::as_bool) == Some(true)
}

/// The steps of a sequence, or the only one.
fn steps<'a>(rule: Option<&'a Value>, list: &str) -> Vec<&'a Value> {
    match rule {
        None => Vec::new(),
        Some(rule) if is_of(rule, "Sequence") => {
            rule.get(list).and_then(Value::as_array).map(|list| list.iter().collect()).unwrap_or(vec![rule])
        }
        Some(rule) => vec![rule],
    }
}

fn replaces(rule: &Value, from: &str, to: &str) -> bool {
    is_of(rule, "Replace")
        && rule.get("pattern").is_some_and(|pattern| text(pattern, "String") == Some(from))
        && text(rule, "content") == Some(to)
}

/// Whether a space is put before a text, in forms that mean nothing else. One that is put before
/// the first part alone, or not before another space, is none of these.
pub(super) fn space_prefix(normalizer: Option<&Value>, pre: Option<&Value>) -> Option<bool> {
    let spaces = |rule: &Value| replaces(rule, " ", SPACE);
    match (steps(normalizer, "normalizers").as_slice(), steps(pre, "pretokenizers").as_slice()) {
        ([prepend, rest], []) if is_of(prepend, "Prepend") && spaces(rest) => {
            (text(prepend, "prepend") == Some(SPACE)).then_some(true)
        }
        ([rule], []) if spaces(rule) => Some(false),
        // Nothing is left to be split at.
        ([rule], [split]) if spaces(rule) && is_of(split, "Split") => {
            let at = split.get("pattern").and_then(|pattern| text(pattern, "String"));
            (at == Some(" ")).then_some(false)
        }
        ([], [rule]) if is_of(rule, "Metaspace") && text(rule, "replacement") == Some(SPACE) => {
            (text(rule, "prepend_scheme") == Some("never") && !flag(rule, "split", true)).then_some(false)
        }
        _ => None,
    }
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Pre-tokenizers of GGUF under which a word that is a token is not taken apart.
pub(super) const WHOLE: [&str; 12] = [
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "glm4",
    "glm5",
    "tekken",
];

/// GGUF's names for a way to cut a text up. A name stands for the whole way of the models that it
/// was made for, also where runtimes leave out a step (NFC).
pub(super) fn names(normalizer: Option<&Value>, pre: Option<&Value>) -> Option<&'static [&'static str]> {
    let composed = match normalizer {
        None => false,
        Some(rule) if is_of(rule, "NFC") => true,
        Some(_) => return None,
    };
    let bytes = |rule: &Value, cuts: bool| {
        is_of(rule, "ByteLevel")
            && !flag(rule, "add_prefix_space", true)
            && flag(rule, "use_regex", true) == cuts
    };
    match steps(pre, "pretokenizers").as_slice() {
        [rule] if bytes(rule, true) && !composed => Some(&["gpt-2", "phi-2", "mpt", "olmo", "jais"]),
        [digits, rule] if is_of(digits, "Digits") && flag(digits, "individual_digits", false) => {
            let names = &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"];
            (bytes(rule, true) && !composed).then_some(names)
        }
        [split, rule] if is_of(split, "Split") && bytes(rule, false) => {
            let whole = text(split, "behavior") == Some("Isolated") && !flag(split, "invert", false);
            let expression = split.get("pattern").and_then(|pattern| text(pattern, "Regex"));
            match (expression.filter(|_| whole)?, composed) {
                (LLAMA3, false) => {
                    Some(&["llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2", "dbrx", "smaug-bpe"])
                }
                (QWEN2, true) => Some(&["qwen2", "megrez"]),
                (QWEN2, false) => Some(&["deepseek-r1-qwen", "stablelm2"]),
                (TEKKEN, false) => Some(&["tekken"]),
                (GPT4O, false) => Some(&["gpt-4o", "llama4"]),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The tokens that are put before and behind a text; `None` for forms that are not known.
pub(super) fn ends(post: Option<&Value>) -> Option<[Option<u64>; 2]> {
    let mut out = [None, None];
    for rule in steps(post, "processors") {
        // That of offsets alone.
        if is_of(rule, "ByteLevel") {
            continue;
        }
        if !is_of(rule, "TemplateProcessing") || out != [None, None] {
            return None;
        }
        let mut text_seen = false;
        for piece in rule.get("single")?.as_array()? {
            if piece.get("Sequence").is_some() {
                if std::mem::replace(&mut text_seen, true) {
                    return None;
                }
                continue;
            }
            let name = text(piece.get("SpecialToken")?, "id")?;
            let ids = rule.get("special_tokens")?.get(name)?.get("ids")?.as_array()?;
            let [id] = ids.as_slice() else { return None };
            let slot = out.get_mut(usize::from(text_seen))?;
            if slot.replace(id.as_u64()?).is_some() {
                return None;
            }
        }
        if !text_seen {
            return None;
        }
    }
    Some(out)
}

/// Does the decoder undo what GGUF says was done?
pub(super) fn decodes(decoder: Option<&Value>, space_prefix: bool) -> bool {
    match steps(decoder, "decoders").as_slice() {
        [rule] => is_of(rule, "ByteLevel") && !space_prefix,
        [spaces, bytes, fuse, strip @ ..] => {
            let stripped = match strip {
                [] => Some(false),
                [rule] if is_of(rule, "Strip") && text(rule, "content") == Some(" ") => {
                    let count = |key: &str| rule.get(key).and_then(Value::as_u64);
                    (count("start") == Some(1) && count("stop") == Some(0)).then_some(true)
                }
                _ => None,
            };
            replaces(spaces, SPACE, " ")
                && is_of(bytes, "ByteFallback")
                && is_of(fuse, "Fuse")
                && stripped == Some(space_prefix)
        }
        _ => false,
    }
}
