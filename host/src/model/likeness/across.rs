//! A folder's tokenizer in the words of GGUF. GGUF names an algorithm (`model`) and a way to cut
//! texts up (`pre`) and implies the rest; tokenizer.json spells everything out. Forms that are known
//! to mean the same are put in GGUF's words, those without a word are named.

use std::collections::{HashMap, HashSet};

use compact_str::CompactString;
use serde_json::{Value, json};

use super::facts::Facts;
use super::{pipeline, quoted, shortened};
use crate::model::gguf::token::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER, is_byte};

/// Ids that decide which tokens a text becomes.
const DECIDES: [&str; 3] = ["bos_token_id", "eos_token_id", "unknown_token_id"];

/// Puts the folder's tokenizer in GGUF's words, and takes from both what cannot be compared; says
/// what that is.
pub(super) fn translate(folder: &mut Facts, file: &mut Facts) -> Vec<String> {
    let mut unknown = Vec::new();
    let model = file.rules.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
    let bytes = model == "llama";
    pad(folder, file);
    kinds(folder, file, bytes, &mut unknown);
    special(folder, file, &mut unknown);
    let known = folder.rules.get("model.type").is_some_and(|kind| kind == "BPE");
    match model.as_str() {
        "llama" if known => {
            file.rules.insert("model.byte_fallback".to_owned(), true.into());
            // Nothing is unknown where every byte has a token.
            let tokens = folder.tokens.iter().flatten().flatten();
            if tokens.filter(|token| is_byte(token.as_bytes())).count() == 256 {
                folder.rules.remove("model.fuse_unk");
            }
            // Runtimes do not cut a text up before they look for tokens.
            file.rules.remove("pre");
            spaces(folder, file, &mut unknown);
            by_scores(folder, file, &mut unknown);
        }
        "gpt2" if known => {
            // Scores are read and not used.
            file.scores = None;
            cut(folder, file, &mut unknown);
            if folder.merges.is_some() != file.merges.is_some() {
                unknown.push("tokenizer.merges: only one side lists them".to_owned());
                (folder.merges, file.merges) = (None, None);
            }
        }
        _ => {
            let theirs =
                folder.rules.get("model.type").map_or_else(|| "nothing".to_owned(), Value::to_string);
            unknown.push(format!("tokenizer: {theirs} in the folder and {model:?} in GGUF are not compared"));
            for side in [folder, file] {
                side.rules.clear();
                (side.scores, side.merges) = (None, None);
            }
            return unknown;
        }
    }
    folder.rules.remove("model.type");
    folder.rules.remove("model.unk_token");
    folder.rules.insert("model".to_owned(), model.into());
    folder.rules.entry("remove_extra_whitespaces".to_owned()).or_insert(false.into());
    around(folder, file, &mut unknown);
    unknown
}

/// How converters name ids that have an embedding and no token.
fn is_padding(token: &str) -> bool {
    token.is_empty() || token.starts_with("[PAD") || token.starts_with("<pad") || token.starts_with("<unused")
}

/// A folder has no names for ids that only pad the embedding.
fn pad(folder: &mut Facts, file: &Facts) {
    let (Some(ours), Some(theirs)) = (&mut folder.tokens, &file.tokens) else { return };
    for (id, token) in theirs.iter().enumerate() {
        let unused = file.kinds.as_ref().is_some_and(|kinds| kinds.get(id) == Some(&UNUSED));
        if !unused && !token.as_deref().is_some_and(is_padding) {
            continue;
        }
        if ours.len() == id {
            ours.push(None);
        }
        if let Some(slot @ None) = ours.get_mut(id) {
            slot.clone_from(token);
        }
    }
}

/// GGUF has a kind for each token where a folder has flags for some.
fn kinds(folder: &mut Facts, file: &mut Facts, bytes: bool, unknown: &mut Vec<String>) {
    let Some(tokens) = &folder.tokens else { return };
    // To runtimes all tokens are normal where nothing is said.
    let theirs = file.kinds.take().unwrap_or_else(|| vec![NORMAL; tokens.len()]);
    let kind = |(id, token): (u64, &Option<CompactString>)| {
        let text = token.as_deref().unwrap_or_default();
        let fits = match folder.added.get(&id) {
            Some(added) if added.special => &[CONTROL, UNKNOWN][..],
            // Converters go by the look of a token that is not marked as special.
            Some(_) if looks_special(text) => &[USER, CONTROL],
            Some(_) => &[USER],
            None if bytes && is_byte(text.as_bytes()) => &[BYTE],
            None => &[NORMAL, UNUSED],
        };
        let own = usize::try_from(id).ok().and_then(|id| theirs.get(id));
        let own = own.filter(|own| fits.contains(own)).or(fits.first());
        own.copied().unwrap_or(NORMAL)
    };
    folder.kinds = Some((0..).zip(tokens).map(kind).collect());
    file.kinds = Some(theirs);
    let normalizes = folder.rules.get("normalizer").is_some_and(|rule| !pipeline::is_of(rule, "NFC"));
    for (id, added) in std::mem::take(&mut folder.added) {
        let moves = added.lstrip || added.rstrip || added.single_word;
        if moves || added.normalized && normalizes {
            unknown.push(format!("tokenizer.added_tokens[{id}]: GGUF has no word for {added}"));
        }
    }
}

fn looks_special(token: &str) -> bool {
    [("<|", "|>"), ("<｜", "｜>")].iter().any(|(begin, end)| token.starts_with(begin) && token.ends_with(end))
}

/// Ids of special tokens; those that do not decide what a text becomes may be one side's.
fn special(folder: &mut Facts, file: &mut Facts, unknown: &mut Vec<String>) {
    for key in ["bos_token_id", "eos_token_id"] {
        if !folder.special.contains_key(key)
            && let Some(id) = folder.config.get(key).filter(|id| id.is_u64())
        {
            folder.special.insert(key.to_owned(), id.clone());
        }
    }
    let unk = folder.rules.get("model.unk_token").and_then(Value::as_str);
    let unk =
        unk.and_then(|text| folder.tokens.as_ref()?.iter().position(|token| token.as_deref() == Some(text)));
    if let Some(id) = unk {
        folder.special.entry("unknown_token_id".to_owned()).or_insert(id.into());
    }
    let alone = |key: &String| {
        folder.special.contains_key(key) != file.special.contains_key(key) && !DECIDES.contains(&key.as_str())
    };
    let alone: Vec<String> =
        folder.special.keys().chain(file.special.keys()).filter(|key| alone(key)).cloned().collect();
    for key in alone {
        folder.special.remove(&key);
        file.special.remove(&key);
        unknown.push(format!("special tokens: only one side names the {key}"));
    }
}

/// Spaces are written as a letter of their own, one of them perhaps before the text.
fn spaces(folder: &mut Facts, file: &Facts, unknown: &mut Vec<String>) {
    let (normalizer, pre) = (folder.rules.remove("normalizer"), folder.rules.remove("pre_tokenizer"));
    match pipeline::space_prefix(normalizer.as_ref(), pre.as_ref()) {
        Some(prefix) => drop(folder.rules.insert("add_space_prefix".to_owned(), prefix.into())),
        None => {
            unknown.push(unworded(normalizer, pre));
            as_the_file(&["add_space_prefix"], folder, file);
        }
    }
}

/// GGUF has a name for the way in which texts are cut up before pairs are merged.
fn cut(folder: &mut Facts, file: &mut Facts, unknown: &mut Vec<String>) {
    let (normalizer, pre) = (folder.rules.remove("normalizer"), folder.rules.remove("pre_tokenizer"));
    let theirs = file.rules.get("pre").and_then(Value::as_str).unwrap_or_default().to_owned();
    match pipeline::names(normalizer.as_ref(), pre.as_ref()) {
        Some(names) => {
            let name = names.iter().find(|name| **name == theirs).or(names.first());
            folder.rules.extend(name.map(|name| ("pre".to_owned(), (*name).into())));
            folder.rules.insert("add_space_prefix".to_owned(), false.into());
        }
        None => {
            unknown.push(unworded(normalizer, pre));
            as_the_file(&["pre", "add_space_prefix"], folder, file);
        }
    }
    if pipeline::WHOLE.contains(&theirs.as_str()) {
        file.rules.insert("model.ignore_merges".to_owned(), true.into());
    }
}

/// What was said to be unknown is not also a difference.
fn as_the_file(keys: &[&str], folder: &mut Facts, file: &Facts) {
    for key in keys {
        folder.rules.extend(file.rules.get(*key).map(|value| ((*key).to_owned(), value.clone())));
    }
}

fn unworded(normalizer: Option<Value>, pre: Option<Value>) -> String {
    let both = json!({"normalizer": normalizer, "pre_tokenizer": pre}).to_string();
    format!("tokenizer.normalizer: GGUF has no word here for {}", shortened(&both))
}

/// What is put before and behind a text, and how tokens become text again.
fn around(folder: &mut Facts, file: &Facts, unknown: &mut Vec<String>) {
    const ENDS: [(&str, &str); 2] = [("add_bos_token", "bos_token_id"), ("add_eos_token", "eos_token_id")];
    let post = folder.rules.remove("post_processor");
    match pipeline::ends(post.as_ref()) {
        Some(ends) => {
            for ((key, id_key), added) in ENDS.into_iter().zip(ends) {
                let adds = added.is_some().into();
                if folder.rules.get(key).is_some_and(|stated| *stated != adds) {
                    unknown.push(format!(
                        "tokenizer.{key}: tokenizer_config.json contradicts the post_processor of tokenizer.json"
                    ));
                }
                folder.rules.entry(key.to_owned()).or_insert(adds);
                if let Some(id) = added
                    && folder.special.get(id_key).is_none_or(|own| *own != id)
                {
                    unknown
                        .push(format!("tokenizer.{key}: what is added is the token {id}, not the {id_key}"));
                }
            }
        }
        None => {
            let post = post.unwrap_or_default().to_string();
            unknown.push(format!("tokenizer.post_processor: GGUF has no word here for {}", shortened(&post)));
            as_the_file(&ENDS.map(|(key, _)| key), folder, file);
        }
    }
    let decoder = folder.rules.remove("decoder");
    if !pipeline::decodes(decoder.as_ref(), folder.rules.get("add_space_prefix") == Some(&true.into())) {
        let decoder = decoder.unwrap_or_default().to_string();
        unknown.push(format!("tokenizer.decoder: GGUF has no word here for {}", shortened(&decoder)));
    }
}

/// A file of this kind has no merges: of all pairs that make a token, the one is merged whose token
/// has the highest score. A folder's list must be those pairs in that order.
fn by_scores(folder: &mut Facts, file: &Facts, unknown: &mut Vec<String>) {
    if file.merges.is_some() {
        return;
    }
    let merges = folder.merges.take();
    folder.scores.clone_from(&file.scores);
    let (Some(merges), Some(tokens), Some(scores)) = (merges, &file.tokens, &file.scores) else {
        unknown.push("tokenizer.merges: a side lists neither merges nor scores".to_owned());
        return;
    };
    // Other tokens, which are listed, have other pairs.
    if folder.tokens != file.tokens {
        return;
    }
    let normal = |id: usize| file.kinds.as_ref().is_none_or(|kinds| kinds.get(id) == Some(&NORMAL));
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().filter_map(|(id, token)| Some((token.as_deref()?, id))).collect();
    let mut pairs: HashSet<(&str, &str)> = HashSet::new();
    for (token, _) in ids.iter().filter(|(_, id)| normal(**id)) {
        let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        pairs.extend(splits.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right)));
    }
    let mut strange = Vec::new();
    let mut last: Option<(f64, &str)> = None;
    for (place, merge) in merges.iter().enumerate() {
        let at = merge.char_indices().skip(1).find(|(_, letter)| *letter == ' ').map(|(at, _)| at);
        let pair = at.and_then(|at| Some((merge.get(..at)?, merge.get(at + 1..)?)));
        let id = pair.and_then(|(left, right)| ids.get([left, right].concat().as_str()).copied());
        if id.is_some_and(|id| !normal(id)) {
            continue;
        }
        if !pair.is_some_and(|pair| pairs.remove(&pair)) {
            strange.push(merge.as_str());
            continue;
        }
        let score = id.and_then(|id| scores.get(id)).copied().unwrap_or_default();
        if let Some((before, other)) = last
            && score > before
        {
            let key = format!("merges[{place}]");
            let said = |text: &str| Value::from(format!("{} before {}", quoted(text), quoted(merge)));
            folder.rules.insert(key, said(other));
            break;
        }
        last = Some((score, merge));
    }
    let ordered = !folder.rules.keys().any(|key| key.starts_with("merges["));
    let example = strange.first().map(|merge| quoted(merge));
    let example =
        example.or_else(|| pairs.iter().min().map(|(left, right)| quoted(&[*left, *right].join(" "))));
    if let Some(example) = example.filter(|_| ordered) {
        unknown.push(format!(
            "tokenizer.merges: {} pairs that the file's scores do not allow, {} that they allow are missing, such as {example}",
            strange.len(),
            pairs.len()
        ));
    }
}
