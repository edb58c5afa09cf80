//! One byte sequence per JSON value, so that equal values have equal digests: keys sorted by
//! their bytes, no white space, numbers as the shortest text that reads back the same.

use serde::Serialize;
use serde_json::Value;

use crate::digest::sha256_parts;
use crate::domain::{Problem, Sha256, modes};

/// The canonical bytes of a value.
pub fn canonical(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            list(out, [b'{', b'}'], &entries, |(key, value), out| {
                out.extend(Value::from(key.as_str()).to_string().into_bytes());
                out.push(b':');
                write(value, out);
            });
        }
        Value::Array(items) => list(out, [b'[', b']'], items, write),
        scalar => out.extend(scalar.to_string().into_bytes()),
    }
}

fn list<T>(out: &mut Vec<u8>, [open, close]: [u8; 2], items: &[T], each: impl Fn(&T, &mut Vec<u8>)) {
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        each(item, out);
    }
    out.push(close);
}

/// The canonical bytes of anything that serialises.
///
/// # Errors
/// Internal: the value has no JSON form.
pub fn canonical_of<T: Serialize>(value: &T) -> Result<Vec<u8>, Problem> {
    serde_json::to_value(value)
        .map(|value| canonical(&value))
        .map_err(|error| Problem::internal(format!("a record has no JSON form: {error}")))
}

/// SHA-256 of the canonical bytes.
///
/// # Errors
/// As [`canonical_of`].
pub fn digest_of<T: Serialize>(value: &T) -> Result<Sha256, Problem> {
    Ok(sha256_parts(&[&canonical_of(value)?]))
}

/// Digest of the one table of modes and constants; every report carries it.
pub fn constants_digest() -> Sha256 {
    // Plain numbers and names always have a JSON form; were that to change, every report
    // would carry a digest of zeros, and the test below would fail.
    digest_of(&modes::constants()).unwrap_or(Sha256([0; 32]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_white_space_do_not_matter_but_values_do() {
        let bytes = |text: &str| canonical(&serde_json::from_str::<Value>(text).unwrap());
        let first = bytes(r#"{"b": [1, 2.5, null], "a": {"y": "\u00e9\n", "x": true}}"#);
        assert_eq!(first, "{\"a\":{\"x\":true,\"y\":\"é\\n\"},\"b\":[1,2.5,null]}".as_bytes());
        assert_eq!(first, bytes(r#"{"a":{"x":true,"y":"é\n"},"b":[1,2.5,null]}"#));
        assert_ne!(first, bytes(r#"{"a":{"x":true,"y":"é\n"},"b":[2.5,1,null]}"#));
        assert_eq!(bytes("[0.1,1e-300,0.30000000000000004]"), b"[0.1,1e-300,0.30000000000000004]");
    }

    #[test]
    fn constants_have_a_stable_digest() {
        assert_eq!(digest_of(&modes::constants()), Ok(constants_digest()));
        let mut other = modes::constants();
        other.clip_nats = 0.2;
        assert_ne!(digest_of(&other).unwrap(), constants_digest());
    }
}
