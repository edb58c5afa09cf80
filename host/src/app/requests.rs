//! What HTTP asks for: whether it may be, and doing it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::supervisor::Supervisor;
use crate::api::{Command, NewAssay, Refusal};
use crate::domain::modes::ModeName;
use crate::domain::{Problem, ProblemKind, budget};
use crate::store::{Assay, AssayState, Change};

impl Supervisor {
    pub(super) async fn obey(&mut self, command: Command) {
        // A client that went away does not take back what it asked for.
        match command {
            Command::Submit(request, reply) => {
                let answer = self.submit(*request).await;
                let _ = reply.send(answer);
            }
            Command::Cancel(id, reply) => {
                let answer = self.cancel(id).await;
                let _ = reply.send(answer);
            }
        }
    }

    async fn submit(&mut self, request: NewAssay) -> Result<Assay, Refusal> {
        let (candidate, artifact) = self.resolve(&request.candidate, "candidate")?;
        let reference = match &request.reference {
            Some(reference) => Some(self.resolve(reference, "reference")?.0),
            None => None,
        };
        let request = match &request.adapter {
            Some(adapter) => {
                let adapter = Some(text(&self.resolve(adapter, "adapter")?.0)?);
                NewAssay { adapter, ..request }
            }
            None => request,
        };
        let assay = self.new_assay(request, candidate, reference, artifact)?;
        self.write(&[Change::Assay(&assay, None)]).await?;
        self.queue.push_back(assay.clone());
        Ok(assay)
    }

    /// An assay ready to be queued, with everything filled in and checked.
    pub(super) fn new_assay(
        &self,
        request: NewAssay,
        candidate: PathBuf,
        reference: Option<PathBuf>,
        artifact: Option<Uuid>,
    ) -> Result<Assay, Problem> {
        if self.queue.len() >= budget::QUEUED_ASSAYS {
            let why = format!("{} assays wait already", budget::QUEUED_ASSAYS);
            return Err(Problem::machine(why).hint("try again when some of them are done"));
        }
        let request = NewAssay {
            hash_checks: held_to(&self.config.hash_checks, request.hash_checks)?,
            candidate: text(&candidate)?,
            reference: reference.as_deref().map(text).transpose()?,
            mode: request.mode.or(Some(self.config.mode)),
            threads: request.threads.or(self.config.threads),
            gpu_layers: request.gpu_layers.or(self.config.gpu_layers),
            max_memory_bytes: request.max_memory_bytes.or(self.config.max_memory.map(|size| size.0)),
            min_free_bytes: request.min_free_bytes.or(self.config.min_free.map(|size| size.0)),
            guardrail: request.guardrail.or(self.config.guardrail),
            enforcement: request.enforcement.or(self.config.enforcement),
            ..request
        };
        let request = serde_json::to_value(request).map_err(|error| Problem::internal(error.to_string()))?;
        let request: Value = (self.parts.check)(request)?;
        Ok(Assay {
            id: Uuid::now_v7(),
            state: AssayState::Queued,
            artifact,
            candidate,
            reference,
            request,
            decision: None,
            error: None,
            attempts: 0,
            created_at: Timestamp::now(),
            started_at: None,
            finished_at: None,
        })
    }

    /// The assay that a rule or a sidecar asks for, or a measurement where none does.
    pub(super) fn automatic(
        &self,
        candidate: &Path,
        reference: Option<&Path>,
        mode: ModeName,
        hash_checks: BTreeMap<String, Value>,
        artifact: Uuid,
    ) -> Result<Assay, Problem> {
        let request = NewAssay { mode: Some(mode), hash_checks, ..NewAssay::default() };
        self.new_assay(request, candidate.to_owned(), reference.map(Path::to_owned), Some(artifact))
    }

    /// What a client calls a model: an artifact's id, a path in a watched folder, or, where
    /// only this machine can ask, any path.
    fn resolve(&self, name: &str, param: &'static str) -> Result<(PathBuf, Option<Uuid>), Refusal> {
        let refuse = |kind, why: String| Refusal { problem: Problem::new(kind, why), param: Some(param) };
        if let Ok(id) = name.parse::<Uuid>() {
            let found = self.artifacts.values().find(|artifact| artifact.id == id);
            return match found {
                Some(artifact) if artifact.path.exists() => Ok((artifact.path.clone(), Some(id))),
                Some(_) => Err(refuse(ProblemKind::Usage, format!("the {param}'s file is no more there"))),
                None => Err(refuse(ProblemKind::Usage, format!("there is no artifact {id}"))),
            };
        }
        let named = Path::new(name);
        let mut places: Vec<PathBuf> = Vec::new();
        if named.is_absolute() {
            places.push(named.to_owned());
        } else {
            places.extend(self.config.models.iter().map(|folder| folder.join(named)));
        }
        let found = places.iter().find_map(|place| place.canonicalize().ok());
        let Some(path) = found.filter(|path| self.any_path && named.is_absolute() || self.inside(path))
        else {
            let refusal = refuse(ProblemKind::Usage, format!("there is no {param} `{name}`"));
            let hint =
                "name an artifact's id, a path inside a watched folder, or, on loopback, an absolute path";
            return Err(Refusal { problem: refusal.problem.hint(hint), ..refusal });
        };
        let artifact = self.artifacts.get(&path).map(|artifact| artifact.id);
        Ok((path, artifact))
    }

    /// Whether a remote client may name this path: it is watched, or a rule's reference.
    fn inside(&self, path: &Path) -> bool {
        self.config.models.iter().any(|folder| path.starts_with(folder))
            || self
                .config
                .rules
                .references()
                .any(|reference| reference.canonicalize().is_ok_and(|reference| reference == path))
    }

    async fn cancel(&mut self, id: Uuid) -> Result<Assay, Refusal> {
        if let Some(job) = self.running.as_mut().filter(|job| job.assay.id == id) {
            job.cancelled = true;
            job.cancel.store(true, Ordering::Relaxed);
            return Ok(job.assay.clone());
        }
        if let Some(place) = self.queue.iter().position(|assay| assay.id == id)
            && let Some(mut assay) = self.queue.get(place).cloned()
        {
            assay.state = AssayState::Cancelled;
            assay.finished_at = Some(Timestamp::now());
            self.write(&[Change::Assay(&assay, None)]).await?;
            self.queue.remove(place);
            self.keys.remove(&id);
            return Ok(assay);
        }
        let place = self.config.state.join("assayd.db");
        match self.reader.assay(id).await.map_err(|error| error.at(&place))? {
            None => Err(Problem::new(ProblemKind::NotFound, "there is no such assay").into()),
            Some(assay) => {
                let why = format!("this assay is {} already", assay.state.as_str());
                Err(Problem::new(ProblemKind::Conflict, why).into())
            }
        }
    }
}

/// What the configuration holds every candidate to, and what is added for this one.
fn held_to(
    always: &BTreeMap<String, Value>,
    own: BTreeMap<String, Value>,
) -> Result<BTreeMap<String, Value>, Problem> {
    if let Some(id) = own.keys().find(|id| always.contains_key(*id)) {
        let why = format!("the configuration already says what the hash check {id} holds every candidate to");
        return Err(Problem::usage(why).hint("leave it out, or take it out of the configuration"));
    }
    Ok(always.iter().map(|(id, params)| (id.clone(), params.clone())).chain(own).collect())
}

fn text(path: &Path) -> Result<String, Problem> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Problem::usage(format!("{} is not UTF-8; rename it", path.display())))
}
