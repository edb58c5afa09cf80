//! Every limit in one place: what hostile files, plugins, workers and clients may take.
//! Raising one means looking at the hostile test that guards it.

use std::time::Duration;

/// Bytes of GGUF header (metadata and tensor table) read before giving up.
/// Vocabularies of 262,144 tokens with merges take some 15 MiB.
pub const GGUF_HEADER_BYTES: u64 = 128 << 20;
/// Bytes of one metadata string.
pub const GGUF_STRING_BYTES: u64 = 16 << 20;
/// Bytes of a metadata key (the specification's limit is 65,535).
pub const GGUF_KEY_BYTES: u64 = 65_535;
/// Elements of one metadata array.
pub const GGUF_ARRAY_ELEMENTS: u64 = 16 << 20;
/// Metadata entries of one file.
pub const GGUF_METADATA_ENTRIES: u64 = 65_536;
/// Tensors of one file.
pub const GGUF_TENSORS: u64 = 262_144;
/// Bytes of a tensor name (llama.cpp's GGML_MAX_NAME is 64, with the NUL).
pub const TENSOR_NAME_BYTES: u64 = 64;
/// Files of one split set.
pub const SPLIT_PARTS: u64 = 1_024;
/// Findings listed per artifact; further ones are counted in a last finding.
pub const FINDINGS: usize = 1_000;

/// One frame on the worker's pipe.
pub const WORKER_FRAME_BYTES: usize = 256 << 20;
/// Silence from a worker after which it is STALLED: no progress of any kind.
pub const WORKER_STALL: Duration = Duration::from_secs(120);
/// Bytes of a worker's standard error that are kept, from the end.
pub const WORKER_LOG_BYTES: usize = 64 << 10;

/// Bytes of a plugin file.
pub const PLUGIN_FILE_BYTES: u64 = 8 << 20;
