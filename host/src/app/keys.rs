//! One challenge key for assays that wait together, and for one that is begun again.
//!
//! A key is fresh for every assay, so that no candidate can be made for its challenges. But
//! the reference then has to answer new challenges for every candidate. When an assay starts,
//! those that wait for the same comparison with the same reference therefore get its key: the
//! reference's traces are then in the cache. That is sound only for candidates whose bytes
//! were fixed before anyone knew the key, so a key goes only to candidates whose digests are
//! on record when it is drawn, and is used only while they still have them (`assay/` checks
//! that, and draws a fresh one otherwise).
//!
//! The key of an assay that runs is on disk until it ends (readable by the owner, told to
//! nobody), so that an assay that was broken off goes on as the same assay: with other challenges
//! whoever can end the daemon could try again until he likes the verdict. Keys of those that
//! wait are in memory only: after a restart fresh ones are drawn.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::supervisor::Supervisor;
use crate::assay::artifact_root;
use crate::challenge::Key;
use crate::domain::{Problem, Sha256};
use crate::store::{Assay, AssayState};

/// A key that was drawn when an assay's candidate had this root.
#[derive(Debug, Clone)]
pub struct DrawnKey {
    key: Key,
    candidate_root: Sha256,
}

/// The same on disk.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    candidate_root: Sha256,
}

impl DrawnKey {
    pub fn to_json(&self) -> Result<String, Problem> {
        let kept = Kept { key: self.key.reveal(), candidate_root: self.candidate_root };
        serde_json::to_string(&kept).map_err(|error| Problem::internal(error.to_string()))
    }

    pub fn from_json(text: &str) -> Result<Self, Problem> {
        let kept: Kept = serde_json::from_str(text)
            .map_err(|error| Problem::input(format!("the key of an assay on record: {error}")))?;
        Ok(Self { key: Key::from_hex(&kept.key)?, candidate_root: kept.candidate_root })
    }
}

impl Supervisor {
    /// The request of an assay that starts now, and the key that it was given. Without one it
    /// draws its own, or has the one that it was asked to use.
    ///
    /// # Errors
    /// The machine has no random source.
    pub(super) fn with_key(&mut self, assay: &Assay) -> Result<(Value, Option<DrawnKey>), Problem> {
        let mut request = assay.request.clone();
        let drawn = self.keys.remove(&assay.id);
        let draws = request.get("key").is_none_or(Value::is_null) && assay.reference.is_some();
        let Some(fields) = request.as_object_mut().filter(|_| draws) else { return Ok((request, None)) };
        let drawn = match drawn {
            Some(drawn) => Some(drawn),
            None => self.draw(assay)?,
        };
        if let Some(drawn) = &drawn {
            fields.insert("key".to_owned(), drawn.key.reveal().into());
            fields.insert("candidate_root".to_owned(), drawn.candidate_root.to_string().into());
        }
        Ok((request, drawn))
    }

    /// A fresh key for this assay and for those that wait for the same comparison; `None` where
    /// the candidate's bytes are not on record.
    fn draw(&mut self, assay: &Assay) -> Result<Option<DrawnKey>, Problem> {
        let Some(candidate_root) = self.root_on_record(assay) else { return Ok(None) };
        let key = Key::random()?;
        let asked = question(&assay.request);
        let followers = self.queue.iter().filter(|other| {
            other.id != assay.id
                && other.state == AssayState::Queued
                && !self.keys.contains_key(&other.id)
                && question(&other.request) == asked
        });
        let followers: Vec<_> =
            followers.filter_map(|other| Some((other.id, self.root_on_record(other)?))).collect();
        for (id, candidate_root) in followers {
            self.keys.insert(id, DrawnKey { key: key.clone(), candidate_root });
        }
        Ok(Some(DrawnKey { key, candidate_root }))
    }

    fn root_on_record(&self, assay: &Assay) -> Option<Sha256> {
        artifact_root(self.artifacts.get(&assay.candidate)?.inspection.as_ref()?)
    }
}

/// What is asked of whichever candidate.
fn question(request: &Value) -> Value {
    let mut question = request.clone();
    if let Some(fields) = question.as_object_mut() {
        fields.remove("candidate");
    }
    question
}
