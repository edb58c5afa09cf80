//! What can be wrong with a header.

use std::io;

use crate::domain::inspection::Finding;
use crate::model::finding::Code;

/// Something wrong with the header, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at byte {offset})")]
pub struct Fault {
    pub code: Code,
    pub message: String,
    pub tensor: Option<String>,
    /// Byte offset in the file.
    pub offset: u64,
}

impl From<Fault> for Finding {
    fn from(fault: Fault) -> Self {
        let Fault { code, message, tensor, offset } = fault;
        Self { tensor, offset: Some(offset), ..code.finding(message) }
    }
}

/// Why no header could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Io(#[from] io::Error),
}
