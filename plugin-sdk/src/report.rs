//! Reports: the versioned JSON document becomes files.

use serde::de::DeserializeOwned;

use crate::bindings::report as wit;
use crate::{Refusal, Result};

/// One file of a rendered report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// `[a-z0-9._-]{1,64}`, no path.
    pub file_name: String,
    /// Such as `text/markdown`.
    pub media_type: String,
    /// The bytes.
    pub body: Vec<u8>,
}

/// The schema of the report document that this SDK knows.
const SCHEMA: &str = "assayd.report/1";

/// One call from the host.
#[doc(hidden)]
pub fn run<P: Default + DeserializeOwned>(
    report: &str,
    params: &str,
    render: fn(&serde_json::Value, &P) -> Result<Vec<Rendered>>,
) -> Result<Vec<wit::exports::assay::plugin::report::Rendered>, wit::assay::plugin::types::PluginError> {
    crate::install_panic_hook();
    let params: P = crate::error::params(params)?;
    let report: serde_json::Value = serde_json::from_str(report)
        .map_err(|error| Refusal::InvalidEvidence(format!("the report is not JSON: {error}")))?;
    match report.get("schema").and_then(serde_json::Value::as_str) {
        Some(SCHEMA) => {}
        Some(other) => {
            return Err(Refusal::Unsupported(format!("a report of schema {other}, not {SCHEMA}")).into());
        }
        None => return Err(Refusal::InvalidEvidence("the report has no schema".into()).into()),
    }
    let convert = |file: Rendered| wit::exports::assay::plugin::report::Rendered {
        file_name: file.file_name,
        media_type: file.media_type,
        body: file.body,
    };
    Ok(render(&report, &params)?.into_iter().map(convert).collect())
}

/// Makes a function `fn(&serde_json::Value, &Params) -> Result<Vec<Rendered>, Refusal>` a
/// report plugin. Does nothing on targets other than wasm32.
#[macro_export]
macro_rules! export_report {
    ($id:expr, $render:path) => {
        $crate::export_report!($id, $render, "");
    };
    ($id:expr, $render:path, $schema:expr) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            $crate::__plugin_info!(report, "report", $id, $schema);
            use $crate::bindings::report::{assay::plugin::types, exports::assay::plugin::report};
            struct Plugin;
            impl report::Guest for Plugin {
                fn describe() -> types::PluginInfo {
                    info()
                }
                fn render(
                    report_json: String,
                    params: String,
                ) -> Result<Vec<report::Rendered>, types::PluginError> {
                    $crate::run_report(&report_json, &params, $render)
                }
            }
    $crate::bindings::report::export!(Plugin with_types_in $crate::bindings::report);
        };
    };
}
