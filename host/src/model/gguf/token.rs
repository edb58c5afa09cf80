//! Kinds of tokens, as `tokenizer.ggml.token_type` has them (`llama_token_type` of llama.cpp).

pub const NORMAL: i128 = 1;
pub const UNKNOWN: i128 = 2;
pub const CONTROL: i128 = 3;
/// Added by whoever made the tokenizer.
pub const USER: i128 = 4;
pub const UNUSED: i128 = 5;
pub const BYTE: i128 = 6;

/// Is this how a token that stands for a byte is written, `<0x00>` to `<0xFF>`?
pub fn is_byte(token: &[u8]) -> bool {
    matches!(token, [b'<', b'0', b'x', a, b, b'>'] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
}
