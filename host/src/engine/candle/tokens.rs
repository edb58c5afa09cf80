//! `tokenizer.json` through the `tokenizers` crate.
//!
//! As in the other engine, a text is only text: the names of special tokens in it are not read
//! as special tokens, but in a rendered chat. Truncation and padding that the file asks for are
//! switched off.

use std::cell::RefCell;
use std::path::PathBuf;

use tokenizers::Tokenizer;

use super::weights::text_file;
use crate::domain::budget;

/// A text longer than this is not tokenized.
const TEXT_BYTES: usize = 16 << 20;

/// The tokenizer of a folder, if it has one.
#[derive(Debug)]
pub(super) struct Tokens {
    /// Borrowed for one call at a time; how it reads special tokens is a setting of its own.
    tokenizer: Option<RefCell<Tokenizer>>,
    pub adds_bos: bool,
}

impl Tokens {
    /// # Errors
    /// tokenizer.json is there and cannot be read or used.
    pub fn open(paths: &[PathBuf], bos: Option<u32>) -> Result<Self, String> {
        let Some(text) = text_file(paths, "tokenizer.json", budget::JSON_FILE_BYTES)? else {
            return Ok(Self { tokenizer: None, adds_bos: false });
        };
        let failed = |error: tokenizers::Error| format!("tokenizer.json: {error}");
        let mut tokenizer = Tokenizer::from_bytes(text.as_bytes()).map_err(failed)?;
        tokenizer.with_truncation(None).map_err(failed)?;
        tokenizer.with_padding(None);
        tokenizer.set_encode_special_tokens(true);
        let first = tokenizer.encode_fast("a", true).map_err(failed)?.get_ids().first().copied();
        let adds_bos = bos.is_some() && first == bos;
        Ok(Self { tokenizer: Some(RefCell::new(tokenizer)), adds_bos })
    }

    fn tokenizer(&self) -> Result<&RefCell<Tokenizer>, String> {
        self.tokenizer.as_ref().ok_or_else(|| "the model has no tokenizer.json".to_owned())
    }

    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, String> {
        if text.len() > TEXT_BYTES {
            return Err(format!(
                "a text of {} bytes is too long; at most {TEXT_BYTES} are tokenized",
                text.len()
            ));
        }
        let encoded = self.tokenizer()?.borrow().encode_fast(text, add_special);
        encoded.map(|encoded| encoded.get_ids().to_vec()).map_err(|error| error.to_string())
    }

    /// With special tokens where the text names them, and nothing added.
    pub fn encode_marked(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer()?.borrow_mut().set_encode_special_tokens(false);
        let tokens = self.encode(text, false);
        self.tokenizer()?.borrow_mut().set_encode_special_tokens(true);
        tokens
    }

    pub fn decode(&self, tokens: &[u32]) -> Result<String, String> {
        self.tokenizer()?.borrow().decode(tokens, false).map_err(|error| error.to_string())
    }
}
