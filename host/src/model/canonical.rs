//! A digest of JSON by content: whitespace, the order of keys and how a number is written
//! do not count. Streams: memory is 32 bytes per entry of the objects being read.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::digest::{Sha256Stream, sha256};
use crate::domain::Sha256;

/// The digest of the JSON document `text`, whose top-level keys in `without` are left out.
///
/// # Errors
/// The text is not JSON.
pub fn digest(text: &str, without: &[&str]) -> Result<Sha256, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let digest = Value { without }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(digest)
}

#[derive(Clone, Copy)]
struct Value<'a> {
    without: &'a [&'a str],
}

/// Tags keep values of different kinds apart.
fn tagged(tag: u8, content: &[u8]) -> Sha256 {
    let mut stream = Sha256Stream::new();
    stream.update(&[tag]);
    stream.update(content);
    stream.finish()
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Sha256;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Sha256, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Sha256;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Sha256, E> {
        Ok(tagged(b'0', b""))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Sha256, E> {
        Ok(tagged(b'b', &[u8::from(value)]))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Sha256, E> {
        Ok(tagged(b'n', value.to_string().as_bytes()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Sha256, E> {
        Ok(tagged(b'n', value.to_string().as_bytes()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Sha256, E> {
        // 10000.0 and 1e4 say the same as 10000.
        Ok(tagged(b'n', value.to_string().as_bytes()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Sha256, E> {
        Ok(tagged(b's', value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Sha256, A::Error> {
        let mut stream = Sha256Stream::new();
        stream.update(b"[");
        while let Some(item) = list.next_element_seed(Value { without: &[] })? {
            stream.update(&item.0);
        }
        Ok(stream.finish())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sha256, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Value { without: &[] })?;
            if !self.without.contains(&key.as_str()) {
                let mut entry = Sha256Stream::new();
                entry.update(&sha256(key.as_bytes()).0);
                entry.update(&value.0);
                entries.push(entry.finish());
            }
        }
        entries.sort_unstable();
        let mut stream = Sha256Stream::new();
        stream.update(b"{");
        entries.iter().for_each(|entry| stream.update(&entry.0));
        Ok(stream.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_content_counts() {
        let of = |text| digest(text, &["name"]).unwrap();
        let base = of(r#"{"a": 1, "b": [1, 2.5, "x", null, true], "c": {"d": {}}, "e": 10000}"#);
        assert_eq!(base, of(r#"{"c":{"d":{}},"e":1e4,"b":[1.0,2.5,"\u0078",null,true],"a":1}"#));
        assert_eq!(base, of(r#"{"name":"m","c":{"d":{}},"e":1e4,"b":[1.0,2.5,"x",null,true],"a":1}"#));
        for other in [
            r#"{"a": 2, "b": [1, 2.5, "x", null, true], "c": {"d": {}}, "e": 10000}"#,
            r#"{"a": 1, "b": [2.5, 1, "x", null, true], "c": {"d": {}}, "e": 10000}"#,
            r#"{"a": 1, "b": [1, 2.5, "x", null, true], "c": {"d": []}, "e": 10000}"#,
            r#"{"a": 1, "b": [1, 2.5, "x", null, true], "c": {"d": {}}, "e": "10000"}"#,
            r#"{"a": 1, "b": [1, 2.5, "x", null, true], "c": {"name": 1, "d": {}}, "e": 10000}"#,
            r#"{"a": 1, "b": [1, 2.5, ["x"], null, true], "c": {"d": {}}, "e": 10000}"#,
        ] {
            assert_ne!(base, of(other), "{other}");
        }
        for broken in ["", "{", "{} {}", &"[".repeat(100_000)] {
            assert!(digest(broken, &[]).is_err());
        }
    }
}
