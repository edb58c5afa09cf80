//! Does `tokenizer.json` contradict itself? What the `tokenizers` library refuses to load is an error; where
//! it takes one of two tokens without a word, that is a warning.

use std::collections::{BTreeMap, HashMap};

use super::{Tokenizer, Vocabulary};
use crate::domain::budget;
use crate::domain::inspection::{Finding, Severity};
use crate::model::finding::{Code, Findings};

/// All models that the library has.
const KINDS: [&str; 4] = ["BPE", "WordPiece", "WordLevel", "Unigram"];

/// The ids of tokens by their texts.
struct Ids<'a>(HashMap<&'a str, u64>);

impl Ids<'_> {
    fn id(&self, token: &str) -> Option<u64> {
        self.0.get(token).copied()
    }

    /// Is it there? Merges that are lists have their spaces written as other letters here, and where there
    /// are several of these it is not clear which were spaces.
    fn has(&self, token: &str) -> bool {
        const SPACE: char = '\u{120}';
        self.id(token).is_some()
            || match token.matches(SPACE).count() {
                0 => false,
                1 => self.id(&token.replace(SPACE, " ")).is_some(),
                _ => true,
            }
    }
}

impl Tokenizer {
    /// Adds every contradiction to `findings`, of each kind the first.
    pub fn check(&self, findings: &mut Findings) {
        let mut push = |code: Code, severity, message: String| {
            findings.push(Finding { severity, ..code.finding(message) });
        };
        let kind = self.model.kind.as_str();
        if let Some(kind) = kind.filter(|kind| !KINDS.contains(kind)) {
            let message = format!("the tokenizer is a {kind:?}, which loaders do not know");
            push(Code::BadJson, Severity::Warning, message);
        }
        let merged = kind == Some("BPE");
        let known = kind.is_some_and(|kind| KINDS.contains(&kind));
        for (what, absent) in [
            ("vocabulary", known && matches!(self.model.vocab, Vocabulary::None)),
            ("merges", merged && self.model.merges.is_none()),
        ] {
            if absent {
                push(Code::BadJson, Severity::Error, format!("the tokenizer has no {what}"));
            }
        }
        let ids = match &self.model.vocab {
            Vocabulary::Ids(list) => {
                if let Some((id, token)) = second_of_id(list.iter().map(|(token, id)| (*id, token.as_str())))
                {
                    let message = format!("the token {token:?} has the id {id}, as another one has");
                    push(Code::VocabMismatch, Severity::Warning, message);
                }
                let mut ids = HashMap::with_capacity(list.len());
                let mut twin = None;
                for (token, id) in list {
                    if ids.insert(token.as_str(), *id).is_some() {
                        twin = Some(token);
                    }
                }
                if let Some(token) = twin {
                    let message = format!("the vocabulary has the token {token:?} twice");
                    push(Code::DuplicateToken, Severity::Warning, message);
                }
                Some(Ids(ids))
            }
            _ => None,
        };
        if let Some((code, message)) = self.added_twice(ids.as_ref()) {
            push(code, Severity::Warning, message);
        }
        let Some(ids) = ids.filter(|_| merged) else { return };
        if let Some(message) = self.bad_merge(&ids) {
            push(Code::VocabMismatch, Severity::Error, message);
        }
        if let Some(unknown) = self.model.unk_token.as_str().filter(|token| !token.is_empty())
            && ids.id(unknown).is_none()
            && self.added_tokens.iter().all(|added| added.content != unknown)
        {
            let message = format!("unk_token is {unknown:?}, which is no token of the vocabulary");
            push(Code::VocabMismatch, Severity::Warning, message);
        }
    }

    /// A token that was added with an id or a text that another one has.
    fn added_twice(&self, vocabulary: Option<&Ids<'_>>) -> Option<(Code, String)> {
        let mut texts: BTreeMap<&str, u64> = BTreeMap::new();
        let mut ids: BTreeMap<u64, &str> = BTreeMap::new();
        for added in &self.added_tokens {
            let (text, id) = (added.content.as_str(), added.id);
            let trained = vocabulary.and_then(|ids| ids.id(text)).filter(|trained| *trained != id);
            if let Some(other) = texts.insert(text, id).or(trained) {
                let message = format!("the added token {text:?} is there twice, as {other} and as {id}");
                return Some((Code::DuplicateToken, message));
            }
            if let Some(other) = ids.insert(id, text) {
                let message = format!("the added tokens {other:?} and {text:?} have one id, {id}");
                return Some((Code::VocabMismatch, message));
            }
        }
        None
    }

    /// A merge that is none of two tokens into a third.
    fn bad_merge(&self, ids: &Ids<'_>) -> Option<String> {
        // The part that goes on within a word has a mark, which the whole does not have.
        let marked = self.model.continuing_subword_prefix.as_str().is_some_and(|prefix| !prefix.is_empty());
        let mut whole = String::new();
        let merges = self.model.merges.iter().flatten().map(|merge| merge.0.as_str());
        merges.filter(|merge| !merge.starts_with("#version")).find_map(|merge| {
            let parts = merge.split_once(' ').filter(|(_, right)| !right.contains(' '));
            let Some((left, right)) = parts else {
                return Some(format!("the merge {merge:?} is not one of two tokens"));
            };
            whole.clear();
            whole.extend([left, right]);
            let of = [left, right, &whole];
            let absent = of.into_iter().take(if marked { 2 } else { 3 }).find(|token| !ids.has(token))?;
            Some(format!("the vocabulary lacks {absent:?} of the merge {merge:?}"))
        })
    }
}

/// A token with an id that one before it has, among ids that are not beyond all that can be filled.
fn second_of_id<'a>(tokens: impl ExactSizeIterator<Item = (u64, &'a str)>) -> Option<(u64, &'a str)> {
    let room = usize::try_from(budget::TOKEN_GAPS).unwrap_or(0).saturating_add(tokens.len());
    let mut seen = vec![0u64; room.div_ceil(64)];
    tokens.into_iter().find(|(id, _)| {
        let Some(word) = usize::try_from(id / 64).ok().and_then(|word| seen.get_mut(word)) else {
            return false;
        };
        let bit = 1 << (id % 64);
        let twice = *word & bit != 0;
        *word |= bit;
        twice
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_found() {
        let bpe = |rest: &str| format!(r#"{{"model":{{"type":"BPE",{rest}}}}}"#);
        let merges = |merges: &str| {
            bpe(&format!(r#""vocab":{{"a":0,"b":1,"ab":2," b":3,"a b":4,"\u0120":5}},"merges":[{merges}]"#))
        };
        let added = |added: &str| {
            format!(r#"{{"model":{{"type":"WordPiece","vocab":{{"a":0,"b":1}}}},"added_tokens":[{added}]}}"#)
        };
        let (mismatch, twin) = ("vocab-mismatch warning", "duplicate-token warning");
        let (broken, unknown) = ("bad-json error", "vocab-mismatch error");
        for (json, expected) in [
            (merges(r#"["a","b"],"a b",["a"," b"],"\u0120 \u0120""#), ""),
            (merges(r##""#version: 0.2""##), ""),
            (merges(r#""a c""#), unknown),
            (merges(r#"["b","a"]"#), unknown),
            (merges(r#"["a","\u0120a"]"#), unknown),
            (merges(r#"["a"]"#), unknown),
            (merges(r#"["a","b","ab"]"#), unknown),
            (merges(r#""a b ab""#), unknown),
            (merges(r#""ab""#), unknown),
            (bpe(r#""vocab":{"a":0,"ba":1},"merges":["a a"]"#), unknown),
            (
                bpe(
                    r###""continuing_subword_prefix":"##","vocab":{"a":0,"##b":1,"ab":2},"merges":["a ##b"]"###,
                ),
                "",
            ),
            (bpe(r#""vocab":{"a":0}"#), broken),
            (bpe(r#""vocab":{"a":0},"merges":null"#), broken),
            (bpe(r#""merges":[]"#), broken),
            (r#"{"model":{"type":"WordLevel"}}"#.to_owned(), broken),
            (r#"{"model":{"vocab":{}}}"#.to_owned(), ""),
            (r#"{"model":{"type":"Foo"}}"#.to_owned(), "bad-json warning"),
            (bpe(r#""vocab":{"a":0,"b":0},"merges":[]"#), mismatch),
            (bpe(r#""vocab":{"a":0,"b":1,"a":2},"merges":[]"#), twin),
            (bpe(r#""vocab":{"a":0,"b":18446744073709551615},"merges":[]"#), ""),
            (bpe(r#""vocab":{"a":0},"merges":[],"unk_token":"<unk>""#), mismatch),
            (bpe(r#""vocab":{"a":0},"merges":[],"unk_token":"a""#), ""),
            (
                r#"{"model":{"type":"BPE","vocab":{},"merges":[],"unk_token":"<unk>"},"added_tokens":[{"id":0,"content":"<unk>"}]}"#
                    .to_owned(),
                "",
            ),
            (bpe(r#""vocab":{"a":0},"merges":[],"unk_token":"""#), ""),
            // Some pieces of SentencePiece are there twice.
            (r#"{"model":{"type":"Unigram","vocab":[["a",0],["a",-1]]}}"#.to_owned(), ""),
            (added(r#"{"id":1,"content":"b"},{"id":2,"content":"c"}"#), ""),
            (added(r#"{"id":2,"content":"c"},{"id":2,"content":"d"}"#), mismatch),
            (added(r#"{"id":2,"content":"c"},{"id":3,"content":"c"}"#), twin),
            (added(r#"{"id":2,"content":"a"}"#), twin),
        ] {
            let mut findings = Findings::default();
            Tokenizer::parse(json.as_bytes()).unwrap().check(&mut findings);
            let name = |of: Finding| format!("{} {:?}", of.code, of.severity).to_lowercase();
            let found: Vec<String> = findings.finish().into_iter().map(name).collect();
            assert_eq!(found.join(", "), expected, "{json}");
        }
    }
}
