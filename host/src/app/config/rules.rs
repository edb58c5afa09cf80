//! Which reference an artifact is compared with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use globset::{Glob, GlobMatcher};
use serde_json::Value;

use super::file::{RuleEntry, Sidecar};
use super::text;
use crate::domain::Problem;
use crate::domain::modes::ModeName;

/// The rules of a configuration, in its order.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    glob: Glob,
    matcher: GlobMatcher,
    reference: PathBuf,
    mode: Option<ModeName>,
    hash_checks: BTreeMap<String, Value>,
}

/// What a rule or a sidecar chose, and which of them it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub reference: PathBuf,
    pub mode: Option<ModeName>,
    /// Parameters of hash checks, by plugin id.
    pub hash_checks: BTreeMap<String, Value>,
    pub by: String,
}

impl Rules {
    /// `base` is the folder that relative references are relative to.
    pub fn new(entries: Vec<RuleEntry>, base: &Path) -> Self {
        let rule = |entry: RuleEntry| Rule {
            matcher: entry.pattern.0.compile_matcher(),
            glob: entry.pattern.0,
            reference: base.join(entry.reference),
            mode: entry.mode,
            hash_checks: entry.hash_checks,
        };
        Self { rules: entries.into_iter().map(rule).collect() }
    }

    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub fn references(&self) -> impl Iterator<Item = &Path> {
        self.rules.iter().map(|rule| rule.reference.as_path())
    }

    /// What the rules hold artifacts to.
    pub fn hash_checks(&self) -> impl Iterator<Item = &BTreeMap<String, Value>> {
        self.rules.iter().map(|rule| &rule.hash_checks)
    }

    /// The sidecar if there is one, else the first rule that matches, else none.
    ///
    /// Errors: the sidecar cannot be read or understood; it is never passed over then, since
    /// somebody meant something by it.
    pub fn choose(
        &self,
        artifact: &Path,
        folders: &[PathBuf],
        sidecar: Option<&Path>,
    ) -> Result<Option<Chosen>, Problem> {
        if let Some(path) = sidecar {
            let sidecar: Sidecar = text::read(path)?;
            let base = path.parent().unwrap_or_else(|| Path::new("."));
            return Ok(Some(Chosen {
                reference: base.join(sidecar.reference),
                mode: sidecar.mode,
                hash_checks: sidecar.hash_checks,
                by: format!("the sidecar {}", path.display()),
            }));
        }
        Ok(self.rules.iter().find(|rule| rule.matches(artifact, folders)).map(|rule| Chosen {
            reference: rule.reference.clone(),
            mode: rule.mode,
            hash_checks: rule.hash_checks.clone(),
            by: format!("the rule `{}`", rule.glob.glob()),
        }))
    }
}

impl Rule {
    fn matches(&self, artifact: &Path, folders: &[PathBuf]) -> bool {
        let pattern = self.glob.glob();
        if !pattern.contains('/') {
            return artifact.file_name().is_some_and(|name| self.matcher.is_match(name));
        }
        if pattern.starts_with('/') {
            return self.matcher.is_match(artifact);
        }
        folders
            .iter()
            .filter_map(|folder| artifact.strip_prefix(folder).ok())
            .any(|inside| self.matcher.is_match(inside))
    }
}
