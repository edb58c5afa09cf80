//! What can be said about an artifact without running it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Sha256;

/// What an artifact is, decided by content and never by name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
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

impl ArtifactKind {
    /// Whether digests of tokenizer and configuration are over what GGUF says of them: those of two
    /// formats never agree.
    pub fn is_gguf(self) -> bool {
        matches!(self, Self::Gguf | Self::GgufSplit)
    }
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
    #[serde(serialize_with = "super::text::path_as_json")]
    pub path: PathBuf,
    pub bytes: u64,
    pub sha256: Option<Sha256>,
}

/// What one tensor's bytes amount to as they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorDigest {
    pub name: String,
    /// Storage type as the file format names it.
    pub dtype: String,
    /// The slowest-varying dimension first, whatever the format.
    pub shape: Vec<u64>,
    pub bytes: u64,
    /// RFC 6962 root over the tensor's bytes in chunks of 1 MiB.
    pub root: Sha256,
    /// Digests of other kinds that were asked for, by the kind's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub others: BTreeMap<String, String>,
}

/// One metadata entry: the hash of its leaf, which holds part, key, type and value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryDigest {
    /// Number of the file it is in, from 0.
    pub part: u64,
    pub key: String,
    pub sha256: Sha256,
}

/// The RFC 6962 tree over one file: it is cut at the borders of its tensors, and what lies
/// between two borders into chunks of 1 MiB; a leaf is the bytes of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTree {
    /// The file's name without folders.
    pub file: String,
    pub leaves: u64,
    pub root: Sha256,
    /// Digests of other kinds that were asked for, over the data of all its tensors in the
    /// order of its table.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub weights: BTreeMap<String, String>,
}

/// Shows that a chunk is part of a file whose tree has this root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkProof {
    /// Where the chunk lies in the file.
    pub offset: u64,
    pub bytes: u64,
    /// Number of the leaf, from 0, and of all of them.
    pub leaf: u64,
    pub leaves: u64,
    pub leaf_hash: Sha256,
    /// The hashes beside the way from the leaf to the root.
    pub path: Vec<Sha256>,
    pub root: Sha256,
}

/// A TLSH digest of some of the weights, and which ones: from each tensor with at least two
/// dimensions, blocks at even distances. See `model::fuzzy` for what is digested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuzzyDigest {
    pub algorithm: String,
    /// Null where the sample is too small or has too little variety.
    pub digest: Option<String>,
    pub tensors: u64,
    /// Tensors whose storage type cannot be read.
    pub skipped: u64,
    pub blocks_per_tensor: u64,
    pub weights_per_block: u64,
    /// Weights looked at.
    pub weights: u64,
}

/// A TLSH digest of a sample of a file's bytes, which the hash check `tlsh-similarity` compares.
/// See `model::fuzzy` for what is sampled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteSample {
    /// The file's name without folders.
    pub file: String,
    pub algorithm: String,
    /// Null where the file is too small or has too little variety.
    pub digest: Option<String>,
}

/// What a full pass adds: RFC 6962 roots and the digest of every tensor. A root is null
/// unless everything under it was read and understood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// Over every byte of every file of weights: the root of the file's tree; of several
    /// files, the root over a leaf for each.
    pub file_root: Option<Sha256>,
    /// Over metadata and tensors: what the artifact says, however it is laid out.
    pub content_root: Option<Sha256>,
    /// Over tensors alone, sorted by name: name, type, shape and bytes of each.
    pub weights_root: Option<Sha256>,
    /// The trees over the files of weights, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub trees: Vec<FileTree>,
    /// Sorted by part and key.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub metadata_digests: Vec<EntryDigest>,
    /// Sorted by name.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tensor_digests: Vec<TensorDigest>,
    /// Of the weights.
    pub fuzzy: Option<FuzzyDigest>,
    /// Of the bytes of each file of weights, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub byte_samples: Vec<ByteSample>,
    /// The proof that was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub proof: Option<ChunkProof>,
    /// Files whose digests were taken from the cache: they are as they were when read.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub files_from_cache: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The inspection of one artifact; `assayd inspect --json` prints a list of these.
/// A value that is not known is null, never a guess.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    #[serde(serialize_with = "super::text::path_as_json")]
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
    /// The folder that the files of the artifact lie in, some of them in folders below it.
    pub fn folder(&self) -> &Path {
        let folders = self.files.iter().filter_map(|file| file.path.parent());
        let own = || self.path.parent().unwrap_or(&self.path);
        folders.min_by_key(|folder| folder.components().count()).unwrap_or_else(own)
    }

    /// The name of one of its files within that folder.
    pub fn name_of(&self, file: &FileRecord) -> String {
        file.path.strip_prefix(self.folder()).unwrap_or(&file.path).to_string_lossy().into_owned()
    }

    /// The status that the findings amount to: an error rejects, a warning warns.
    pub fn status_of(findings: &[Finding]) -> Status {
        match findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Error) => Status::Reject,
            Some(Severity::Warning) => Status::Warn,
            Some(Severity::Info) | None => Status::Accept,
        }
    }
}
