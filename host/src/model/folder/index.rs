//! `model.safetensors.index.json`: which file each tensor is in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::text;
use crate::domain::budget;
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};

/// The file that each tensor is in.
pub(super) type Index = BTreeMap<String, String>;

#[derive(serde::Deserialize)]
struct IndexFile {
    #[serde(deserialize_with = "once_each")]
    weight_map: Index,
}

/// How the message about a tensor that is listed twice begins.
const TWICE: &str = "the tensor ";

/// A map in which no key occurs twice; readers disagree on which one counts.
fn once_each<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Index, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Index;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of file names")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
            let mut index = Index::new();
            while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                if index.contains_key(&tensor) {
                    return Err(A::Error::custom(format!("{TWICE}{tensor} is listed twice")));
                }
                index.insert(tensor, file);
            }
            Ok(index)
        }
    }
    deserializer.deserialize_map(Entries)
}

pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The index, if there is one that can be read.
pub(super) fn read(path: &Path, names: &BTreeSet<String>, findings: &mut Findings) -> Option<Index> {
    if !names.contains(INDEX) {
        return None;
    }
    let text = text(path, INDEX, budget::INDEX_BYTES, findings)?;
    match serde_json::from_str::<IndexFile>(&text) {
        Ok(index) => Some(index.weight_map),
        Err(error) => {
            let message = error.to_string();
            let code = if message.starts_with(TWICE) { Code::DuplicateTensor } else { Code::BadJson };
            let finding = code.finding(format!("{INDEX} is not a valid index: {message}"));
            findings.push(Finding { part: Some(INDEX.to_owned()), ..finding });
            None
        }
    }
}
