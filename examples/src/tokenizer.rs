//! A SentencePiece-style tokenizer as llama.cpp reads it from GGUF metadata
//! (`tokenizer.ggml.model = llama`): built by byte-pair merges on our own text, and
//! applied by the same rule as llama.cpp, so that training and running see one text.
//!
//! Ids: 0 `<unk>`, 1 `<s>`, 2 `</s>`, 3..259 the bytes `<0x00>`..`<0xFF>`, then merged
//! pieces in the order they were learned (score -1, -2, ...), then single characters.
//! The byte tokens make every UTF-8 text representable.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, bail};

/// Begin of text.
pub(crate) const BOS: u32 = 1;
/// End of text.
pub(crate) const EOS: u32 = 2;
/// llama.cpp's numbers for kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;
/// Stands for a space.
const SPACE: char = '\u{2581}';

/// The vocabulary: parallel lists, an entry per token id.
#[derive(Debug, Clone)]
pub(crate) struct Tokenizer {
    pub(crate) pieces: Vec<String>,
    pub(crate) scores: Vec<f32>,
    pub(crate) kinds: Vec<i32>,
    ids: HashMap<String, u32>,
}

impl Tokenizer {
    /// Learns a vocabulary of `size` tokens from `texts`.
    pub(crate) fn train(texts: &[String], size: usize) -> Result<Self> {
        // Words with their counts; pieces never cross a space or the end of a line.
        let mut words: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        let mut characters: BTreeMap<char, usize> = BTreeMap::new();
        for text in texts {
            for word in split(&normalise(text)) {
                for c in word.chars().filter(|&c| c != '\n') {
                    *characters.entry(c).or_default() += 1;
                }
                *words.entry(word.chars().map(String::from).collect()).or_default() += 1;
            }
        }
        let mut words: Vec<(Vec<String>, usize)> = words.into_iter().collect();

        let fixed = 3 + 256 + characters.len();
        if fixed > size {
            bail!("{size} tokens cannot hold {} characters", characters.len());
        }
        let mut merged: Vec<String> = Vec::new();
        while fixed + merged.len() < size {
            let mut pairs: BTreeMap<(&str, &str), usize> = BTreeMap::new();
            for (symbols, count) in &words {
                for pair in symbols.windows(2) {
                    if let [left, right] = pair
                        && left != "\n"
                        && right != "\n"
                    {
                        *pairs.entry((left, right)).or_default() += count;
                    }
                }
            }
            // The most frequent pair; among equals the first in order, for one answer.
            let Some(((left, right), _)) =
                pairs.into_iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0)))
            else {
                bail!("the text is too small for {size} tokens");
            };
            let (left, right) = (left.to_owned(), right.to_owned());
            for (symbols, _) in &mut words {
                merge(symbols, &left, &right);
            }
            let piece = left + &right;
            if !merged.contains(&piece) {
                merged.push(piece);
            }
        }

        let mut out = Self { pieces: Vec::new(), scores: Vec::new(), kinds: Vec::new(), ids: HashMap::new() };
        out.push("<unk>".into(), 0.0, UNKNOWN);
        out.push("<s>".into(), 0.0, CONTROL);
        out.push("</s>".into(), 0.0, CONTROL);
        for byte in 0..=255_u8 {
            out.push(format!("<0x{byte:02X}>"), 0.0, BYTE);
        }
        let mut score = 0.0;
        let singles = characters.keys().map(|c| c.to_string());
        for piece in merged.into_iter().chain(singles) {
            score -= 1.0;
            out.push(piece, score, NORMAL);
        }
        Ok(out)
    }

    fn push(&mut self, piece: String, score: f32, kind: i32) {
        let id = self.pieces.len() as u32;
        if kind == NORMAL {
            self.ids.insert(piece.clone(), id);
        }
        self.pieces.push(piece);
        self.scores.push(score);
        self.kinds.push(kind);
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Token ids of `text`, without BOS and EOS: repeatedly joins the neighbours whose
    /// joined piece has the highest score, the leftmost among equals; what is then no
    /// piece becomes its bytes.
    pub(crate) fn encode(&self, text: &str) -> Vec<u32> {
        split(&normalise(text)).iter().flat_map(|word| self.encode_word(word)).collect()
    }

    fn encode_word(&self, word: &str) -> Vec<u32> {
        let mut symbols: Vec<String> = word.chars().map(String::from).collect();
        loop {
            let best = symbols
                .windows(2)
                .enumerate()
                .filter_map(|(at, pair)| {
                    let id = *self.ids.get(&pair.concat())?;
                    // Pieces are in order of falling score: the smallest id wins.
                    Some((id, at))
                })
                .min();
            let Some((_, at)) = best else { break };
            let right = symbols.remove(at + 1);
            if let Some(left) = symbols.get_mut(at) {
                left.push_str(&right);
            }
        }
        let mut out = Vec::new();
        for symbol in symbols {
            match self.ids.get(&symbol) {
                Some(&id) => out.push(id),
                None => out.extend(symbol.bytes().map(|b| 3 + u32::from(b))),
            }
        }
        out
    }

    /// The text of `tokens`; control tokens are left out.
    pub(crate) fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &token in tokens {
            match self.kinds.get(token as usize) {
                Some(&BYTE) => bytes.push((token - 3) as u8),
                Some(&NORMAL) => {
                    let piece = self.pieces.get(token as usize).map_or("", String::as_str);
                    bytes.extend(piece.replace(SPACE, " ").bytes());
                }
                _ => {}
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A space in front (llama.cpp's `add_space_prefix`), and every space made visible.
fn normalise(text: &str) -> String {
    format!(" {text}").replace(' ', &SPACE.to_string())
}

/// Cuts before every space and around every end of line.
fn split(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut after_line = true;
    for c in text.chars() {
        if c == SPACE || c == '\n' || after_line {
            out.push(String::new());
        }
        after_line = c == '\n';
        if let Some(word) = out.last_mut() {
            word.push(c);
        }
    }
    out
}

fn merge(symbols: &mut Vec<String>, left: &str, right: &str) {
    let mut at = 0;
    while at + 1 < symbols.len() {
        let hit = matches!(symbols.get(at..at + 2), Some([l, r]) if l == left && r == right);
        if hit {
            symbols.remove(at + 1);
            if let Some(symbol) = symbols.get_mut(at) {
                symbol.push_str(right);
            }
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Tokenizer {
        let texts = vec!["the cat and the hat\nthe end".to_owned(); 3];
        Tokenizer::train(&texts, 3 + 256 + 11 + 6).unwrap()
    }

    #[test]
    fn any_text_comes_back() {
        let tokenizer = small();
        for text in ["the cat", "The \u{e9}t\u{e9}\n\u{1f40e}", "  two  spaces ", "\n\n", ""] {
            let tokens = tokenizer.encode(text);
            assert_eq!(tokenizer.decode(&tokens), format!(" {text}"), "{tokens:?}");
        }
    }

    #[test]
    fn layout_is_what_llama_cpp_expects() {
        let tokenizer = small();
        assert_eq!(tokenizer.len(), 276);
        assert_eq!(tokenizer.pieces[BOS as usize], "<s>");
        assert_eq!(tokenizer.pieces[EOS as usize], "</s>");
        assert_eq!(tokenizer.pieces[3 + 0x0A], "<0x0A>");
        assert_eq!(tokenizer.kinds[3], BYTE);
        let normal = tokenizer.scores.get(259..).unwrap();
        assert!(normal.windows(2).all(|w| w[0] > w[1]), "scores fall with the id");
        // "the" is the commonest word, so it is one piece with its space.
        assert_eq!(tokenizer.encode("the").len(), 1);
    }
}
