//! Every way in which a plugin can fail to load or to answer.

use std::fmt;

use wasmtime::Trap;

use crate::domain::{Problem, Sha256};

/// Why a file is not a plugin that may run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{bytes} bytes, more than the {limit} a plugin may have")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("a core module, not a component")]
    CoreModule,
    #[error("not a WebAssembly component: {0}")]
    NotAComponent(String),
    #[error("it imports {}, which no {kind} gets", .names.join(", "))]
    ForbiddenImport { kind: &'static str, names: Vec<String> },
    #[error("it exports {found}, and this assayd serves {supported}")]
    UnknownInterfaceVersion { found: String, supported: String },
    #[error("it exports no plugin interface{}", listed(.exports))]
    NoKnownExport { exports: Vec<String> },
    #[error("it exports several plugin interfaces: {}", .exports.join(", "))]
    SeveralKinds { exports: Vec<String> },
    #[error("its functions do not have the shape of the interface: {0}")]
    ShapeMismatch(String),
    #[error("it does not compile: {0}")]
    Compile(String),
    #[error("it failed its first call, describe: {0}")]
    ProbeFailed(Box<PluginFault>),
    #[error("it calls itself {described:?} but its file says {expected:?}")]
    NameMismatch { described: String, expected: String },
    #[error("it cannot be packed: {0}")]
    NotPacked(String),
    #[error("its sha256 is {0}, which nobody trusted yet")]
    NotPinned(Sha256),
}

fn listed(exports: &[String]) -> String {
    if exports.is_empty() { String::new() } else { format!(", only {}", exports.join(", ")) }
}

impl LoadError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "build it with optimisation and without debug information",
            Self::CoreModule => "turn it into a component: assayd plugin pack FILE",
            Self::NotAComponent(_) => "build it for wasm32-unknown-unknown, then run assayd plugin pack",
            Self::ForbiddenImport { names, .. } if names.iter().any(|name| name.starts_with("wasi:")) => {
                "the standard library of wasm32-wasip2 adds WASI imports; build for wasm32-unknown-unknown \
                 and run assayd plugin pack"
            }
            Self::ForbiddenImport { .. } => {
                "a plugin may only import the interfaces of its world, see wit/README.md"
            }
            Self::UnknownInterfaceVersion { .. } => {
                "rebuild it against the interface version this assayd serves"
            }
            Self::NoKnownExport { .. } => {
                "export one interface of assay:plugin, for instance with the plugin SDK"
            }
            Self::SeveralKinds { .. } => "make one component per kind",
            Self::ShapeMismatch(_) => "rebuild it against the released wit/deps/plugin-0.1.0",
            Self::Compile(_) => "check the file with wasm-tools validate",
            Self::ProbeFailed(_) => "describe must answer at once without touching anything",
            Self::NameMismatch { .. } => "rename the file to ID.wasm or give the plugin the id of its file",
            Self::NotPacked(_) => {
                "give the .wasm that cargo build --target wasm32-unknown-unknown wrote for a cdylib crate that \
                 uses the plugin SDK"
            }
            Self::NotPinned(_) => "look at it, then trust it: assayd plugin trust FILE",
        }
    }
}

/// What a plugin itself gave as the reason for no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    InvalidParams,
    InvalidEvidence,
    Unsupported,
    Numeric,
    Other,
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidParams => "invalid parameters",
            Self::InvalidEvidence => "invalid evidence",
            Self::Unsupported => "unsupported",
            Self::Numeric => "numeric failure",
            Self::Other => "refused",
        })
    }
}

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultClass {
    #[error("{kind}: {message}")]
    Refused { kind: RefusalKind, message: String },
    #[error("it panicked: {message} at {file}:{line}")]
    Panic { message: String, file: String, line: u32 },
    #[error("it trapped: {0}")]
    Trap(String),
    #[error("it ran out of fuel ({limit} units)")]
    OutOfFuel { limit: u64 },
    #[error("it took longer than {} ms", .limit.as_millis())]
    Deadline { limit: std::time::Duration },
    #[error("it wanted {wanted} bytes of memory of at most {limit}")]
    MemoryDenied { wanted: usize, limit: usize },
    #[error("it gave back too much: {0}")]
    OutputTooLarge(String),
    #[error("it gave back nonsense: {0}")]
    BadOutput(String),
    #[error("the host could not serve it: {0}")]
    HostCall(String),
    #[error("it cannot be loaded: {0}")]
    NotLoadable(LoadError),
    #[error("all plugin threads are busy and the queue is full")]
    Busy,
}

/// A plugin call that gave no answer. Never a score, a decision or a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFault {
    /// Kind and id, such as `scorer kl`.
    pub plugin: String,
    /// Function that was called.
    pub call: &'static str,
    pub class: FaultClass,
    /// What it logged in this call.
    pub log: Box<[String]>,
}

impl PluginFault {
    /// What to do about it, where something can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match &self.class {
            FaultClass::NotLoadable(error) => Some(error.hint()),
            FaultClass::Refused { kind: RefusalKind::InvalidParams, .. } => {
                Some("see the plugin's README, or its params_schema in assayd plugin check FILE")
            }
            FaultClass::Busy => Some("try again in a moment"),
            FaultClass::Panic { .. } | FaultClass::Trap(_) | FaultClass::BadOutput(_) => {
                Some("this is a mistake in the plugin; assayd plugin run repeats the call alone")
            }
            _ => None,
        }
    }
}

impl fmt::Display for PluginFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed in {}: {}", self.plugin, self.call, self.class)
    }
}

impl std::error::Error for PluginFault {}

impl From<PluginFault> for Problem {
    fn from(fault: PluginFault) -> Self {
        let problem = Self::plugin(fault.to_string());
        match fault.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

/// A host import that could not be served; ends the guest's call.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unserved(pub(super) String);

/// What the store knew when a call failed.
pub(super) struct Circumstances<'a> {
    pub(super) panic: Option<(String, String, u32)>,
    pub(super) denied: Option<super::limits::Denied>,
    pub(super) limits: &'a crate::domain::budget::PluginLimits,
}

/// The class of an error of wasmtime's. What was recorded during the call comes first,
/// because a panic and a refused allocation both end in the same `unreachable` trap.
pub(super) fn classify(error: &wasmtime::Error, at: Circumstances<'_>) -> FaultClass {
    if let Some((message, file, line)) = at.panic {
        return FaultClass::Panic { message, file, line };
    }
    let trap = error.downcast_ref::<Trap>();
    if let Some(denied) = at.denied {
        return FaultClass::MemoryDenied { wanted: denied.wanted, limit: denied.limit };
    }
    match trap {
        Some(Trap::OutOfFuel) => return FaultClass::OutOfFuel { limit: at.limits.fuel },
        Some(Trap::Interrupt) => return FaultClass::Deadline { limit: at.limits.deadline },
        Some(trap) => return FaultClass::Trap(trap.to_string()),
        None => {}
    }
    if let Some(unserved) = error.downcast_ref::<Unserved>() {
        return FaultClass::HostCall(unserved.0.clone());
    }
    let text = format!("{error:#}");
    // wasmtime has no type for this one.
    if text.contains("too much data is being copied") {
        return FaultClass::OutputTooLarge(format!("more than {} bytes", at.limits.transfer_bytes));
    }
    FaultClass::Trap(text)
}
