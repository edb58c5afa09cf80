//! Do a GGUF file and a safetensors folder mean the same tokens by the same ids?
//!
//! The two keep their tokenizers in forms whose digests cannot be compared, so the tokens
//! themselves are: every id must have the same text. Ids that one side has no token for are
//! only right where the other has a placeholder. Merges and scores are not compared: what the
//! tokenizers make of a text is for the engines to show.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::gguf;
use super::source::{ReadAt as _, SourceFile};
use crate::domain::inspection::{ArtifactKind, Inspection};
use crate::domain::{Problem, budget};

/// Differences that are told one by one.
const TOLD: usize = 5;
/// llama.cpp's number for a token that fills a hole.
const UNUSED: i128 = 5;

/// What a comparison of two vocabularies found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Ids that both sides have a token for.
    pub compared: usize,
    /// The first few ids that mean something else, in words.
    pub differences: Vec<String>,
}

/// Tokens by id; `None` where there is none, or only a placeholder.
type Tokens = Vec<Option<Vec<u8>>>;

/// Compares the vocabularies of two artifacts of different form; `None` if they are of one
/// form, or one has no tokenizer.
///
/// # Errors
/// A tokenizer is there and cannot be read.
pub fn compare(reference: &Inspection, candidate: &Inspection) -> Result<Option<Comparison>, Problem> {
    let gguf =
        |inspection: &Inspection| matches!(inspection.kind, ArtifactKind::Gguf | ArtifactKind::GgufSplit);
    if gguf(reference) == gguf(candidate) {
        return Ok(None);
    }
    let (Some(ours), Some(theirs)) = (tokens(reference)?, tokens(candidate)?) else { return Ok(None) };
    Ok(Some(matched(&ours, &theirs)))
}

fn matched(ours: &Tokens, theirs: &Tokens) -> Comparison {
    let mut comparison = Comparison { compared: 0, differences: Vec::new() };
    let mut different = 0usize;
    let (blank, length) = (None, ours.len().max(theirs.len()));
    for id in 0..length {
        let (ours, theirs) = (ours.get(id).unwrap_or(&blank), theirs.get(id).unwrap_or(&blank));
        comparison.compared += usize::from(ours.is_some() && theirs.is_some());
        if ours == theirs {
            continue;
        }
        different += 1;
        if different <= TOLD {
            let show = |token: &Option<Vec<u8>>| match token {
                Some(text) => format!("{:?}", String::from_utf8_lossy(text)),
                None => "no token".to_owned(),
            };
            comparison.differences.push(format!("id {id} is {} and {}", show(ours), show(theirs)));
        }
    }
    if different > TOLD {
        comparison.differences.push(format!("{} more ids differ", different - TOLD));
    }
    comparison
}

fn tokens(inspection: &Inspection) -> Result<Option<Tokens>, Problem> {
    let named = |path: &&Path| path.file_name().is_some_and(|name| name == "tokenizer.json");
    let mut paths = inspection.files.iter().map(|file| file.path.as_path());
    match inspection.kind {
        ArtifactKind::Gguf | ArtifactKind::GgufSplit => paths.next().map_or(Ok(None), of_gguf),
        _ => paths.find(named).map_or(Ok(None), |path| of_json(path).map(Some)),
    }
}

fn of_gguf(path: &Path) -> Result<Option<Tokens>, Problem> {
    let source = SourceFile::open(path).map_err(|error| Problem::io("read", path, &error))?;
    let header = gguf::read_strict(&source)
        .map_err(|error| Problem::input(format!("cannot read {}: {error}", path.display())))?;
    let Some(texts) = header.metadata.array("tokenizer.ggml.tokens") else { return Ok(None) };
    let kinds: Vec<i128> = match header.metadata.array("tokenizer.ggml.token_type") {
        Some(kinds) => kinds.integers().collect(),
        None => Vec::new(),
    };
    let token = |(id, text): (usize, &[u8])| (kinds.get(id) != Some(&UNUSED)).then(|| text.to_vec());
    Ok(Some(texts.strings().enumerate().map(token).collect()))
}

#[derive(Deserialize)]
struct TokenizerFile {
    model: ModelSection,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct ModelSection {
    vocab: Vocab,
}

/// Byte-pair and word-piece models map texts to ids; unigram models list texts with scores.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vocab {
    Ids(BTreeMap<String, u32>),
    List(Vec<(String, f64)>),
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

fn of_json(path: &Path) -> Result<Tokens, Problem> {
    let read = || -> io::Result<Vec<u8>> {
        let source = SourceFile::open(path)?;
        if source.size() > budget::JSON_FILE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too large"));
        }
        let mut bytes = vec![0; usize::try_from(source.size()).map_err(io::Error::other)?];
        source.read_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| Problem::io("read", path, &error))?;
    let bad = |what: String| Problem::input(format!("{}: {what}", path.display()));
    let file: TokenizerFile = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let mut tokens: Tokens = Vec::new();
    let mut put = |id: u32, text: String| {
        let id = id as usize;
        if id as u64 >= budget::GGUF_ARRAY_ELEMENTS {
            return Err(bad(format!("the token id {id} is impossible")));
        }
        if tokens.len() <= id {
            tokens.resize(id + 1, None);
        }
        if let Some(slot) = tokens.get_mut(id) {
            *slot = Some(text.into_bytes());
        }
        Ok(())
    };
    match file.model.vocab {
        Vocab::Ids(ids) => ids.into_iter().try_for_each(|(text, id)| put(id, text))?,
        Vocab::List(list) => (0u32..).zip(list).try_for_each(|(id, (text, _))| put(id, text))?,
    }
    file.added_tokens.into_iter().try_for_each(|token| put(token.id, token.content))?;
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_agree_only_where_texts_do() {
        let list = |texts: &[&str]| -> Tokens {
            texts.iter().map(|text| (!text.is_empty()).then(|| text.as_bytes().to_vec())).collect()
        };
        let same = matched(&list(&["a", "b", ""]), &list(&["a", "b"]));
        assert_eq!(same, Comparison { compared: 2, differences: Vec::new() });
        let swapped = matched(&list(&["a", "b", "c"]), &list(&["a", "c", "b"]));
        assert_eq!(swapped.differences, ["id 1 is \"b\" and \"c\"", "id 2 is \"c\" and \"b\""]);
        let short = matched(&list(&["a", "b"]), &list(&["a"]));
        assert_eq!(short.differences, ["id 1 is \"b\" and no token"]);
        let other = matched(&list(&["a"; 9]), &list(&["b"; 9]));
        assert_eq!(other.differences.len(), TOLD + 1);
        assert!(other.differences[TOLD].starts_with("4 more"), "{:?}", other.differences);
    }

    #[test]
    fn both_forms_of_tokenizer_json_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            of_json(&path)
        };
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let ids = r#"{"model":{"vocab":{"b":1,"a":0}},"added_tokens":[{"id":3,"content":"<s>"}]}"#;
        assert_eq!(read(ids).unwrap(), [text("a"), text("b"), None, text("<s>")]);
        assert_eq!(read(r#"{"model":{"vocab":[["a",-1.5],["b",0]]}}"#).unwrap(), [text("a"), text("b")]);
        assert!(read(r#"{"model":{"vocab":{"a":4000000000}}}"#).is_err());
        assert!(read(r#"{"model":{}}"#).is_err());
    }
}
