//! The text of a growing sequence of tokens, piece by piece.
//!
//! A token alone has no text: a character may be spread over several, and a tokenizer writes a
//! word's leading space only inside a sequence. So a few tokens before are turned into text
//! together with the new one, and what is new at the end is the piece. Invariants: pieces are
//! whole characters; what ends within one is not told.

use super::{EngineError, RunSpec};

/// Tokens that are turned into text again with every new one, at least.
pub const BEFORE: usize = 8;
/// ...and at most, if a character or the tokenizer lets them.
const WINDOW: usize = 64;
/// What bytes that are no character become.
pub const BROKEN: char = '\u{fffd}';

/// Turns token ids into text.
pub(super) type Detokenize<'a> = &'a dyn Fn(&[u32]) -> Result<String, String>;

/// Takes tokens and gives what each adds to the text.
#[derive(Debug, Clone, Default)]
struct Pieces {
    window: Vec<u32>,
    /// Bytes of the window's text that were given out.
    given: usize,
}

impl Pieces {
    /// After a prompt, whose own text is not given out.
    fn after(prompt: &[u32], text_of: Detokenize<'_>) -> Result<Self, String> {
        let window = prompt.get(prompt.len().saturating_sub(BEFORE)..).unwrap_or_default().to_vec();
        let given = if window.is_empty() { 0 } else { text_of(&window)?.trim_end_matches(BROKEN).len() };
        Ok(Self { window, given })
    }

    /// What one more token adds; empty while a character is not complete.
    fn push(&mut self, token: u32, text_of: Detokenize<'_>) -> Result<String, String> {
        self.window.push(token);
        let text = text_of(&self.window)?;
        let sound = text.trim_end_matches(BROKEN).len();
        // Broken bytes at the end may yet become a character, but not for ever.
        let full = self.window.len() >= if sound == text.len() { WINDOW } else { 2 * WINDOW };
        let whole = if full { text.len() } else { sound };
        let piece = text.get(self.given..whole).unwrap_or_default().to_owned();
        self.given = self.given.max(whole);
        if full {
            self.window.drain(..self.window.len().saturating_sub(BEFORE));
            self.given = text_of(&self.window)?.len();
        }
        Ok(piece)
    }
}

/// The text of one sequence of a run, as far as the run wants to know it.
pub(super) struct RunText<'a> {
    prompt: &'a [u32],
    spec: &'a RunSpec,
    pieces: Option<Pieces>,
    /// The end of the text, where a text to stop at may begin.
    tail: String,
}

impl<'a> RunText<'a> {
    pub(super) fn new(spec: &'a RunSpec, prompt: &'a [u32]) -> Self {
        Self { prompt, spec, pieces: None, tail: String::new() }
    }

    /// What a token adds, and whether a text to stop at is complete with it.
    pub(super) fn push(
        &mut self,
        token: u32,
        text_of: Detokenize<'_>,
    ) -> Result<(String, bool), EngineError> {
        if !self.spec.text {
            return Ok((String::new(), false));
        }
        let failed = EngineError::Compute;
        if self.pieces.is_none() {
            self.pieces = Some(Pieces::after(self.prompt, text_of).map_err(failed)?);
        }
        let Some(pieces) = &mut self.pieces else { return Ok((String::new(), false)) };
        let piece = pieces.push(token, text_of).map_err(failed)?;
        self.tail.push_str(&piece);
        let stop = self.spec.stop.iter().any(|stop| self.tail.contains(stop.as_str()));
        let longest = self.spec.stop.iter().map(String::len).max().unwrap_or(0);
        let keep = floor(&self.tail, self.tail.len().saturating_sub(longest));
        self.tail.drain(..keep);
        Ok((piece, stop))
    }
}

/// The border of a character at or before a byte.
pub fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token per byte of UTF-8; a leading space is dropped, as SentencePiece does.
    fn bytes(tokens: &[u32]) -> Result<String, String> {
        let bytes: Vec<u8> = tokens.iter().map(|token| u8::try_from(*token).unwrap()).collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(text.strip_prefix(' ').map(str::to_owned).unwrap_or(text))
    }

    fn tokens(text: &[u8]) -> Vec<u32> {
        text.iter().map(|byte| u32::from(*byte)).collect()
    }

    #[test]
    fn pieces_are_whole_characters_and_make_the_whole_text() {
        let text = "caf\u{e9} \u{1f600} and \u{4e16}\u{754c}, ".repeat(20);
        let mut pieces = Pieces::after(&tokens(b"so it was,"), &bytes).unwrap();
        let mut told = String::new();
        for token in tokens(format!(" {text}").as_bytes()) {
            let piece = pieces.push(token, &bytes).unwrap();
            assert!(!piece.contains(BROKEN), "{piece:?}");
            told.push_str(&piece);
        }
        assert_eq!(told, format!(" {text}"), "the space before the first word is not lost");
    }

    #[test]
    fn broken_bytes_wait_for_their_character_but_not_for_ever() {
        let mut pieces = Pieces::default();
        let cut: String = tokens(b"a\xf0\x9f").into_iter().map(|t| pieces.push(t, &bytes).unwrap()).collect();
        assert_eq!(cut, "a");
        // Broken for ever: it does not grow for ever.
        let mut pieces = Pieces::default();
        let told: String = std::iter::repeat_n(0xff, 1000).map(|t| pieces.push(t, &bytes).unwrap()).collect();
        assert!(told.chars().count() > 900 && pieces.window.len() <= 2 * WINDOW);
    }

    #[test]
    fn a_run_stops_with_the_token_that_completes_a_stop() {
        let spec =
            RunSpec { text: true, stop: vec!["\n\n".into(), "END".into()], ..RunSpec::plain(&[], 9, 1) };
        for (said, at) in [("ab\n\ncd", Some(3)), ("xEND", Some(3)), ("E N D\n", None)] {
            let mut text = RunText::new(&spec, &[]);
            let stops =
                tokens(said.as_bytes()).into_iter().position(|token| text.push(token, &bytes).unwrap().1);
            assert_eq!(stops, at, "{said:?}");
        }
    }
}
