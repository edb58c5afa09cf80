//! From bytes to a plugin that may be called.
//!
//! First by name only, without compiling anything ([`inspect`]): a compiler is the most
//! expensive thing that hostile bytes could reach. Then compiled, linked, and asked to
//! describe itself, because a wrong shape shows only when an instance is made.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::component::Component;

use super::bindings::assay::plugin::types::PluginInfo;
use super::engine::{Exports, Loaded, Runtime, Usage};
use super::fault::{FaultClass, LoadError};
use crate::domain::budget::{
    DECIDER_LIMITS, HASH_CHECK_LIMITS, PLUGIN_FILE_BYTES, PROBE_LIMITS, PluginLimits, REPORT_LIMITS,
    SCORER_LIMITS,
};

/// The interface version that this host serves.
pub const INTERFACE_VERSION: &str = "0.1.0";

/// What a plugin does.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum PluginKind {
    /// Two traces of one challenge become one bounded score.
    Scorer,
    /// Scores become SAME, DIFFERENT or UNDECIDED.
    Decider,
    /// Says which bytes to digest, then judges the digests.
    HashCheck,
    /// The report document becomes files.
    Report,
}

impl PluginKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Scorer, Self::Decider, Self::HashCheck, Self::Report];

    /// As in the name of the interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scorer => "scorer",
            Self::Decider => "decider",
            Self::HashCheck => "hash-check",
            Self::Report => "report",
        }
    }

    /// What one call to a plugin of this kind may take; a scorer gets more fuel for more evidence.
    pub fn limits(self) -> PluginLimits {
        match self {
            Self::Scorer => SCORER_LIMITS,
            Self::Decider => DECIDER_LIMITS,
            Self::HashCheck => HASH_CHECK_LIMITS,
            Self::Report => REPORT_LIMITS,
        }
    }

    /// Interfaces a plugin of this kind may import.
    fn allowed(self) -> &'static [&'static str] {
        match self {
            Self::Scorer => &["types", "diagnostics", "evidence"],
            Self::Decider | Self::Report => &["types", "diagnostics"],
            Self::HashCheck => &["types", "diagnostics", "artifact"],
        }
    }
}

/// What a component says about itself without being compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blueprint {
    pub kind: PluginKind,
    /// Version of `assay:plugin` it was built against.
    pub interface: String,
    pub imports: Vec<String>,
    /// From the custom section that the SDK writes; a promise that `describe` must keep.
    pub info: Option<SectionInfo>,
}

/// The custom section `assayd:plugin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionInfo {
    pub id: String,
    pub version: String,
    pub summary: String,
}

/// Reads names and sections of a component and checks that it may be compiled at all.
///
/// # Errors
/// Every reason but those that need an instance.
pub fn inspect(bytes: &[u8]) -> Result<Blueprint, LoadError> {
    if bytes.len() as u64 > PLUGIN_FILE_BYTES {
        return Err(LoadError::TooLarge { bytes: bytes.len() as u64, limit: PLUGIN_FILE_BYTES });
    }
    let broken = |error: wasmparser::BinaryReaderError| LoadError::NotAComponent(error.to_string());
    let (mut depth, mut imports, mut exports, mut info) = (0_u32, Vec::new(), Vec::new(), None);
    let mut begun = false;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::Version { encoding: Encoding::Module, .. } if !begun => {
                return Err(LoadError::CoreModule);
            }
            Payload::Version { .. } => begun = true,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if section.name() == "assayd:plugin" => {
                info = section_info(section.data());
            }
            _ => {}
        }
    }
    let (kind, interface) = kind_of(&exports)?;
    let allowed = |name: &String| {
        let Some((interface, version)) = name.strip_prefix("assay:plugin/").and_then(|n| n.split_once('@'))
        else {
            return false;
        };
        kind.allowed().contains(&interface) && served(version)
    };
    let names: Vec<String> = imports.iter().filter(|name| !allowed(name)).cloned().collect();
    if !names.is_empty() {
        return Err(LoadError::ForbiddenImport { kind: kind.as_str(), names });
    }
    Ok(Blueprint { kind, interface, imports, info })
}

/// Patch releases of one minor version only add what a plugin may import.
fn served(version: &str) -> bool {
    version.strip_prefix("0.1.").is_some_and(|patch| patch.parse::<u32>().is_ok())
}

fn kind_of(exports: &[String]) -> Result<(PluginKind, String), LoadError> {
    let ours = |name: &String| {
        let (interface, version) = name.strip_prefix("assay:plugin/")?.split_once('@')?;
        let kind = PluginKind::ALL.into_iter().find(|kind| kind.as_str() == interface)?;
        Some((kind, version.to_owned(), name.clone()))
    };
    let found: Vec<_> = exports.iter().filter_map(ours).collect();
    match found.as_slice() {
        [] => Err(LoadError::NoKnownExport { exports: exports.to_vec() }),
        [(kind, version, _)] if served(version) => Ok((*kind, version.clone())),
        [(_, _, name)] => Err(LoadError::UnknownInterfaceVersion {
            found: name.clone(),
            supported: format!("assay:plugin@{INTERFACE_VERSION}"),
        }),
        several => {
            let exports = several.iter().map(|(_, _, name)| name.clone()).collect();
            Err(LoadError::SeveralKinds { exports })
        }
    }
}

/// Kind, id, version and summary, one per line.
fn section_info(data: &[u8]) -> Option<SectionInfo> {
    let mut lines = std::str::from_utf8(data).ok()?.lines().skip(1);
    let info = SectionInfo {
        id: lines.next()?.to_owned(),
        version: lines.next()?.to_owned(),
        summary: lines.next()?.to_owned(),
    };
    is_id(&info.id).then_some(info)
}

/// Lower-case letters, digits and dashes, 1 to 64 of them.
pub(super) fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Compiles, links and asks a plugin of the given id to describe itself.
pub(super) fn load(
    runtime: &Arc<Runtime>,
    kind: PluginKind,
    id: &str,
    bytes: &[u8],
) -> Result<(Arc<Loaded>, PluginInfo, Usage), LoadError> {
    let component =
        Component::new(&runtime.engine, bytes).map_err(|error| LoadError::Compile(format!("{error:#}")))?;
    let mismatch = |error: wasmtime::Error| LoadError::ShapeMismatch(format!("{error:#}"));
    let pre = runtime.link(kind, &component).map_err(mismatch)?;
    let exports = Exports::find(kind, &pre).map_err(mismatch)?;
    let loaded = Arc::new(Loaded { pre, exports });
    let label = format!("{} {id}", kind.as_str());
    let probe = runtime.call(&loaded, &label, "describe", PROBE_LIMITS, move |store, instance, exports| {
        // An interface of the right name but of another shape shows only here.
        let shape = |error: wasmtime::Error| Ok(Err(FaultClass::NotLoadable(mismatch(error))));
        Ok(Ok(match exports {
            Exports::Scorer(indices) => match indices.load(&mut *store, instance) {
                Ok(guest) => guest.call_describe(store)?,
                Err(error) => return shape(error),
            },
            Exports::Decider(indices) => match indices.load(&mut *store, instance) {
                Ok(guest) => guest.call_describe(store)?,
                Err(error) => return shape(error),
            },
            Exports::HashCheck(indices) => match indices.load(&mut *store, instance) {
                Ok(guest) => guest.call_describe(store)?,
                Err(error) => return shape(error),
            },
            Exports::Report(indices) => match indices.load(&mut *store, instance) {
                Ok(guest) => guest.call_describe(store)?,
                Err(error) => return shape(error),
            },
        }))
    });
    let (info, usage) = probe.map_err(|fault| match fault.class {
        FaultClass::NotLoadable(error) => error,
        // Instantiation fails without a trap if a type does not fit.
        FaultClass::Trap(text) if text.contains("type mismatch") => LoadError::ShapeMismatch(text),
        _ => LoadError::ProbeFailed(Box::new(fault)),
    })?;
    if info.name != id {
        return Err(LoadError::NameMismatch { described: info.name, expected: id.into() });
    }
    Ok((loaded, info, usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_by_bytes_alone() {
        assert!(matches!(inspect(b""), Err(LoadError::NotAComponent(_))));
        assert!(matches!(inspect(b"GGUF\x03\0\0\0"), Err(LoadError::NotAComponent(_))));
        assert_eq!(inspect(b"\0asm\x01\0\0\0"), Err(LoadError::CoreModule));
        let empty = b"\0asm\x0d\0\x01\0";
        assert_eq!(inspect(empty), Err(LoadError::NoKnownExport { exports: vec![] }));
        let large = vec![0; usize::try_from(PLUGIN_FILE_BYTES).unwrap() + 1];
        assert!(matches!(inspect(&large), Err(LoadError::TooLarge { .. })));
    }

    #[test]
    fn one_minor_version_is_served() {
        for (version, yes) in
            [("0.1.0", true), ("0.1.7", true), ("0.2.0", false), ("0.1.x", false), ("1.0.0", false)]
        {
            assert_eq!(served(version), yes, "{version}");
        }
    }
}
