//! Tokens, their attributes, special tokens and the embedding must be of one size.

use super::{Model, about};
use crate::model::finding::{Code, Findings};
use crate::model::gguf::{Array, Value};

/// The token type of a byte.
const BYTE: i128 = 6;

/// Is it written `<0x00>` to `<0xFF>`?
fn is_byte(token: &[u8]) -> bool {
    matches!(token, [b'<', b'0', b'x', a, b, b'>'] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
}

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    let metadata = model.metadata;
    let tokens = metadata.array("tokenizer.ggml.tokens");
    let declared = metadata.hparam("vocab_size").and_then(Value::as_u64);
    let rows = |name: &str| {
        let (tensor, part) =
            model.placed().find(|(tensor, _)| tensor.name == name && tensor.shape.len() == 2)?;
        Some((tensor.dimension(1), part))
    };
    let embedding = rows("token_embd.weight").map(|(rows, _)| rows);
    let Some(size) = tokens.map(Array::len).or(declared) else {
        return;
    };
    let what = if tokens.is_some() { "the tokenizer has" } else { "the metadata declares" };
    for name in ["token_embd.weight", "output.weight"] {
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
        // The largest u32 is how some converters write "none".
        if special
            && let Some(id) = value.as_integer()
            && id != i128::from(u32::MAX)
            && !(0..i128::from(size)).contains(&id)
        {
            findings.push(Code::SpecialTokenRange.finding(format!("{key} is {id} of {size} tokens")));
        }
    }
}
