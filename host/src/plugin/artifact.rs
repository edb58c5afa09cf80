//! The files of a model, as a resource that a hash check borrows for one call.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::component::Resource;

use super::bindings::assay::plugin::artifact as wit;
use super::engine::CallState;
use crate::domain::budget::{HASH_HEADER_BYTES, HASH_HEADERS_BYTES};

/// What is to be checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HashTarget {
    /// The artifact's name.
    pub name: String,
    pub files: Vec<TargetFile>,
    /// Small text files beside the artifact that may speak about it.
    pub manifests: Vec<TargetManifest>,
}

/// One file of the artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFile {
    /// Name relative to the artifact, `/` between folders.
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
}

/// A text file such as `SHA256SUMS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetManifest {
    pub name: String,
    pub text: String,
}

/// The resource behind `model`.
#[derive(Debug)]
pub struct Model {
    target: Arc<HashTarget>,
    /// Header bytes this call may still read.
    left: u64,
}

impl Model {
    pub(super) fn new(target: Arc<HashTarget>) -> Self {
        Self { target, left: HASH_HEADERS_BYTES }
    }

    fn read_header(&mut self, file: u32, len: u32) -> Result<Vec<u8>, wit::ReadError> {
        let files = &self.target.files;
        let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
        let found = usize::try_from(file).ok().and_then(|file| files.get(file));
        let found = found.ok_or(wit::ReadError::NoSuchFile(count))?;
        if len > HASH_HEADER_BYTES {
            return Err(wit::ReadError::TooLong(HASH_HEADER_BYTES));
        }
        self.left = self.left.checked_sub(len.into()).ok_or(wit::ReadError::Exhausted)?;
        let failed = |error: std::io::Error| wit::ReadError::Failed(error.to_string());
        // Opening a pipe would wait for a writer.
        if !found.path.metadata().map_err(failed)?.is_file() {
            return Err(wit::ReadError::Failed("not a regular file".into()));
        }
        let mut bytes = Vec::new();
        File::open(&found.path).map_err(failed)?.take(len.into()).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }
}

impl wit::Host for CallState {}

impl wit::HostModel for CallState {
    fn name(&mut self, model: Resource<Model>) -> wasmtime::Result<String> {
        Ok(self.table.get(&model)?.target.name.clone())
    }

    fn files(&mut self, model: Resource<Model>) -> wasmtime::Result<Vec<wit::File>> {
        let file = |file: &TargetFile| wit::File { name: file.name.clone(), bytes: file.bytes };
        Ok(self.table.get(&model)?.target.files.iter().map(file).collect())
    }

    fn manifests(&mut self, model: Resource<Model>) -> wasmtime::Result<Vec<wit::Manifest>> {
        let manifest = |m: &TargetManifest| wit::Manifest { name: m.name.clone(), text: m.text.clone() };
        Ok(self.table.get(&model)?.target.manifests.iter().map(manifest).collect())
    }

    fn read_header(
        &mut self,
        model: Resource<Model>,
        file: u32,
        len: u32,
    ) -> wasmtime::Result<Result<Vec<u8>, wit::ReadError>> {
        Ok(self.table.get_mut(&model)?.read_header(file, len))
    }

    fn drop(&mut self, model: Resource<Model>) -> wasmtime::Result<()> {
        self.table.delete(model)?;
        Ok(())
    }
}
