//! One challenge key for assays that wait together.
//!
//! A key is fresh for every assay, so that no candidate can be made for its challenges. But
//! the reference then has to answer new challenges for every candidate. When an assay starts,
//! those that wait for the same comparison with the same reference therefore get its key: the
//! reference's traces are then in the cache. That is sound only for candidates whose bytes
//! were fixed before anyone knew the key, so a key goes only to candidates whose digests are
//! on record when it is drawn, and is used only while they still have them (`assay/` checks
//! that, and draws a fresh one otherwise). Keys are kept in memory only: after a restart
//! fresh ones are drawn.

use serde_json::Value;

use super::supervisor::Supervisor;
use crate::assay::artifact_root;
use crate::challenge::Key;
use crate::domain::{Problem, Sha256};
use crate::store::{Assay, AssayState};

/// A key that was drawn when an assay's candidate had this root.
#[derive(Debug, Clone)]
pub struct SharedKey {
    key: Key,
    candidate_root: Sha256,
}

impl Supervisor {
    /// The request of an assay that starts now, with the key it shares, if it shares one.
    ///
    /// # Errors
    /// The machine has no random source.
    pub(super) fn with_key(&mut self, assay: &Assay) -> Result<Value, Problem> {
        let mut request = assay.request.clone();
        let shared = self.keys.remove(&assay.id);
        let draws = request.get("key").is_none_or(Value::is_null) && assay.reference.is_some();
        let Some(fields) = request.as_object_mut().filter(|_| draws) else { return Ok(request) };
        if let Some(shared) = shared {
            fields.insert("key".to_owned(), shared.key.reveal().into());
            fields.insert("candidate_root".to_owned(), shared.candidate_root.to_string().into());
            return Ok(request);
        }
        let asked = question(&assay.request);
        let followers = self.queue.iter().filter(|other| {
            other.id != assay.id
                && other.state == AssayState::Queued
                && !self.keys.contains_key(&other.id)
                && question(&other.request) == asked
        });
        let followers: Vec<_> =
            followers.filter_map(|other| Some((other.id, self.root_on_record(other)?))).collect();
        if followers.is_empty() {
            return Ok(request);
        }
        let key = Key::random()?;
        fields.insert("key".to_owned(), key.reveal().into());
        for (id, candidate_root) in followers {
            self.keys.insert(id, SharedKey { key: key.clone(), candidate_root });
        }
        Ok(request)
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
