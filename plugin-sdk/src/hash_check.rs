//! Hash checks: say which bytes to digest, then judge the digests.

use serde::de::DeserializeOwned;

use crate::Result;
use crate::bindings::hash_check as wit;

/// One file of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Name relative to the artifact, `/` between folders.
    pub name: String,
    /// Length.
    pub bytes: u64,
}

/// A small text file beside the artifact that may speak about it, such as `SHA256SUMS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its file name.
    pub name: String,
    /// Its whole text.
    pub text: String,
}

/// What a hash check sees of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    /// The artifact's name.
    pub name: String,
    /// Its files.
    pub files: Vec<File>,
    /// What lies beside it.
    pub manifests: Vec<Manifest>,
}

/// Bytes to digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestRequest {
    /// Index into [`Model::files`].
    pub file: usize,
    /// `sha256` over the ranges; `tlsh` over ranges of at most 64 MiB (the digest as text, or
    /// nothing where there is none). Of the whole artifact, without ranges: `file-root`,
    /// `content-root`, `weights-root` (nothing if it is not whole), and `list`, the text that
    /// `assayd hash` writes.
    pub algorithm: String,
    /// `(offset, bytes)`, digested in order as one stream; empty means the whole file.
    pub ranges: Vec<(u64, u64)>,
}

/// What a check amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every digest is the expected one.
    Passed,
    /// At least one is not.
    Failed,
    /// There was nothing to check against. Never counts as passed.
    NotApplicable,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look at it.
    Warning,
    /// The artifact is not what it should be.
    Error,
}

/// One thing to tell people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A stable lower-case word such as `digest-mismatch`.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub message: String,
    /// Index into [`Model::files`], if it is about one.
    pub file: Option<usize>,
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it amounts to.
    pub outcome: Outcome,
    /// Why.
    pub findings: Vec<Finding>,
}

/// A hash check. `plan` and `judge` see the same model and parameters.
pub trait HashCheck {
    /// Deserialized from the user's JSON, defaulted when there is none.
    type Params: Default + DeserializeOwned;

    /// Which bytes to digest.
    ///
    /// # Errors
    /// What cannot be checked, and why.
    fn plan(model: &Model, params: &Self::Params) -> Result<Vec<DigestRequest>>;

    /// Judges the digests, which answer the plan's requests in order.
    ///
    /// # Errors
    /// What cannot be judged, and why.
    fn judge(model: &Model, digests: &[Vec<u8>], params: &Self::Params) -> Result<Check>;
}

/// The two exported functions over a [`HashCheck`].
#[doc(hidden)]
pub mod run {
    use super::{File, HashCheck, Manifest, Model, Outcome, Result, Severity, wit};
    use crate::Refusal;
    use wit::assay::plugin::{artifact, types::PluginError};
    use wit::exports::assay::plugin::hash_check as out;

    fn model_of(host: &artifact::Model) -> Model {
        let file = |f: artifact::File| File { name: f.name, bytes: f.bytes };
        let manifest = |m: artifact::Manifest| Manifest { name: m.name, text: m.text };
        Model {
            name: host.name(),
            files: host.files().into_iter().map(file).collect(),
            manifests: host.manifests().into_iter().map(manifest).collect(),
        }
    }

    fn index(file: usize) -> Result<u32> {
        u32::try_from(file).map_err(|_| Refusal::Other(format!("there is no file {file}")))
    }

    /// Which bytes to digest.
    pub fn plan<H: HashCheck>(
        model: &artifact::Model,
        params: &str,
    ) -> Result<Vec<out::DigestRequest>, PluginError> {
        crate::install_panic_hook();
        let requests = H::plan(&model_of(model), &crate::error::params(params)?)?;
        let convert = |request: super::DigestRequest| {
            let range = |(offset, bytes)| out::Range { offset, bytes };
            Ok(out::DigestRequest {
                file: index(request.file)?,
                algorithm: request.algorithm,
                ranges: request.ranges.into_iter().map(range).collect(),
            })
        };
        Ok(requests.into_iter().map(convert).collect::<Result<_>>()?)
    }

    /// Judges the digests.
    pub fn judge<H: HashCheck>(
        model: &artifact::Model,
        digests: &[Vec<u8>],
        params: &str,
    ) -> Result<out::Check, PluginError> {
        crate::install_panic_hook();
        let check = H::judge(&model_of(model), digests, &crate::error::params(params)?)?;
        let convert = |finding: super::Finding| {
            Ok(out::Finding {
                code: finding.code,
                severity: match finding.severity {
                    Severity::Info => out::Severity::Info,
                    Severity::Warning => out::Severity::Warning,
                    Severity::Error => out::Severity::Error,
                },
                message: finding.message,
                file: finding.file.map(index).transpose()?,
            })
        };
        Ok(out::Check {
            outcome: match check.outcome {
                Outcome::Passed => out::Outcome::Passed,
                Outcome::Failed => out::Outcome::Failed,
                Outcome::NotApplicable => out::Outcome::NotApplicable,
            },
            findings: check.findings.into_iter().map(convert).collect::<Result<_>>()?,
        })
    }
}

/// Makes a type that implements [`HashCheck`] a hash check plugin. Does nothing on
/// targets other than wasm32.
#[macro_export]
macro_rules! export_hash_check {
    ($id:expr, $check:ty) => {
        $crate::export_hash_check!($id, $check, "");
    };
    ($id:expr, $check:ty, $schema:expr) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            $crate::__plugin_info!(hash_check, "hash-check", $id, $schema);
            use $crate::bindings::hash_check::{
                assay::plugin::{artifact, types},
                exports::assay::plugin::hash_check,
            };
            struct Plugin;
            impl hash_check::Guest for Plugin {
                fn describe() -> types::PluginInfo {
                    info()
                }
                fn plan(
                    model: &artifact::Model,
                    params: String,
                ) -> Result<Vec<hash_check::DigestRequest>, types::PluginError> {
                    $crate::run_hash_check::plan::<$check>(model, &params)
                }
                fn judge(
                    model: &artifact::Model,
                    digests: Vec<Vec<u8>>,
                    params: String,
                ) -> Result<hash_check::Check, types::PluginError> {
                    $crate::run_hash_check::judge::<$check>(model, &digests, &params)
                }
            }
    $crate::bindings::hash_check::export!(Plugin with_types_in $crate::bindings::hash_check);
        };
    };
}
