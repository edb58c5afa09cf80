//! What can be said about an artifact without running it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Sha256;

/// What an artifact is, decided by content and never by name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    Gguf,
    GgufSplit,
    Safetensors,
    Adapter,
    Mlx,
    Pickle,
    Unknown,
}

/// How bad a finding is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

/// The outcome of an inspection.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Accept,
    Warn,
    Reject,
}

/// One thing found, with a stable code that `host/docs/findings.md` explains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Finding {
    pub code: String,
    pub severity: Severity,
    pub message: String,
    /// Name of the split part or shard, where there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub part: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tensor: Option<String>,
    /// Byte offset in the file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offset: Option<u64>,
}

/// One file of an artifact. `sha256` is null until the bytes were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub path: PathBuf,
    pub bytes: u64,
    pub sha256: Option<Sha256>,
}

/// SHA-256 of one tensor's bytes as they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorDigest {
    pub name: String,
    /// Storage type as the file format names it.
    pub dtype: String,
    /// The slowest-varying dimension first, whatever the format.
    pub shape: Vec<u64>,
    pub bytes: u64,
    pub sha256: Sha256,
}

/// What a full pass adds: RFC 6962 roots and the digest of every tensor. A root is null
/// unless everything under it was read and understood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// Over every byte of every file of weights, in order, a leaf per piece.
    pub file_root: Option<Sha256>,
    /// Over metadata and tensors: what the artifact says, however it is laid out.
    pub content_root: Option<Sha256>,
    /// Over tensors alone, sorted by name: name, type, shape and bytes of each.
    pub weights_root: Option<Sha256>,
    /// Sorted by name.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tensor_digests: Vec<TensorDigest>,
}

/// The inspection of one artifact; `assayd inspect --json` prints a list of these.
/// A value that is not known is null, never a guess.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    pub path: PathBuf,
    pub kind: ArtifactKind,
    pub status: Status,
    pub findings: Vec<Finding>,
    pub format_version: Option<u32>,
    pub architecture: Option<String>,
    /// Number of weights, counted from tensor shapes.
    pub parameters: Option<u64>,
    pub quantization: Option<String>,
    pub context_length: Option<u64>,
    /// Number of tensors.
    pub tensors: Option<u64>,
    pub files: Vec<FileRecord>,
    /// The same as `weights_root`.
    pub merkle_root: Option<Sha256>,
    #[serde(flatten, default)]
    pub digests: Digests,
    pub config_hash: Option<Sha256>,
    pub tokenizer_hash: Option<Sha256>,
}

impl Inspection {
    /// The status that the findings amount to: an error rejects, a warning warns.
    pub fn status_of(findings: &[Finding]) -> Status {
        match findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Error) => Status::Reject,
            Some(Severity::Warning) => Status::Warn,
            Some(Severity::Info) | None => Status::Accept,
        }
    }
}
