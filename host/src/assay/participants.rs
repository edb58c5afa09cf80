//! Which plugins take part in an assay: what is compiled for it, listed in its report with a
//! digest, and carried by its bundle.

use super::band::BandChoice;
use super::judge::INTERVAL_DECIDER;
use super::report::ReportPlugin;
use super::request::AssayRequest;
use crate::domain::modes::DEFAULT_DECIDER;
use crate::plugin::{PluginKind, PluginSet};

/// Whether a plugin can influence this assay's verdict or its report's numbers.
pub fn takes_part(request: &AssayRequest, kind: PluginKind, id: &str) -> bool {
    match kind {
        PluginKind::Scorer => id == request.scorer,
        PluginKind::Decider => {
            // The band's bound is the default decider's, whoever judges within it.
            let bounds = request.band == BandChoice::Auto && id == DEFAULT_DECIDER;
            id == request.decider || id == INTERVAL_DECIDER || bounds
        }
        PluginKind::HashCheck => true,
        PluginKind::Report => false,
    }
}

/// Every plugin that takes part, with its digest.
pub fn participants(plugins: &PluginSet, request: &AssayRequest) -> Vec<ReportPlugin> {
    let records = plugins.list().into_iter().filter(|record| takes_part(request, record.kind, &record.id));
    let named = records.map(|record| ReportPlugin {
        id: record.id,
        kind: record.kind.as_str().to_owned(),
        version: record.version,
        sha256: record.sha256,
    });
    named.collect()
}
