//! The standard sections of a report as plain rows, so that formats differ in form only.
//! Every value is text for people, not escaped for any markup; what is not known is "n/a".

use serde_json::Value;

use crate::text::{MISSING, at, bytes, seconds, show};

/// A titled part of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// For the heading.
    pub title: &'static str,
    /// What it holds.
    pub body: Body,
}

/// The two shapes of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Labels and values.
    Facts(Vec<(String, String)>),
    /// A list of alike things; `None` if the report does not have the list at all.
    Table {
        /// One per column.
        head: Vec<&'static str>,
        /// One cell per column.
        rows: Option<Vec<Vec<String>>>,
    },
}

/// Left out where a reference was given.
const MEASUREMENT: &str = "Measurement without a reference, on fixed public prompts";

fn facts(title: &'static str, rows: Vec<(&str, String)>) -> Section {
    let rows = rows.into_iter().map(|(label, value)| (label.to_owned(), value)).collect();
    Section { title, body: Body::Facts(rows) }
}

/// `columns` are headings and keys; an empty key is the item itself.
fn table(report: &Value, title: &'static str, path: &str, columns: &[(&'static str, &str)]) -> Section {
    let cell = |item: &Value, key: &str| show(if key.is_empty() { Some(item) } else { at(item, key) });
    let row = |item: &Value| columns.iter().map(|(_, key)| cell(item, key)).collect();
    let rows = at(report, path).and_then(Value::as_array).map(|items| items.iter().map(row).collect());
    Section { title, body: Body::Table { head: columns.iter().map(|(head, _)| *head).collect(), rows } }
}

/// All sections but the scores, in reading order.
pub fn sections(report: &Value) -> Vec<Section> {
    let mut sections = all(report);
    if at(report, "measurement").is_none() {
        sections.retain(|section| section.title != MEASUREMENT);
    }
    sections
}

fn all(report: &Value) -> Vec<Section> {
    let v = |path: &str| show(at(report, path));
    let size = |path: &str| bytes(at(report, path));
    let of = |part: &str, whole: &str| format!("{} of {}", v(part), v(whole));
    vec![
        facts(
            "Verdict",
            vec![
                ("Candidate", v("model2")),
                ("Reference", v("model1")),
                ("Claim", v("enhanced_diff.claim")),
                ("Because", v("because")),
                ("Error", v("error")),
                ("Mode", v("mode")),
                ("Confidence", v("enhanced_diff.confidence")),
                ("Mean score", v("enhanced_diff.mean_diff")),
                (
                    "Confidence interval of the mean score",
                    format!("{} to {}", v("enhanced_diff.ci_lower"), v("enhanced_diff.ci_upper")),
                ),
                ("Standard deviation of the scores", v("enhanced_diff.std_diff")),
                ("Effect size (Cohen's d)", v("enhanced_diff.effect_size")),
                ("Challenges scored, of at most", of("enhanced_diff.n_effective", "enhanced_diff.n_max")),
                ("Stopped early", v("enhanced_diff.stopped_early")),
                ("Scores needed for a verdict", v("enhanced_diff.needed_n")),
                ("gamma (DIFFERENT: the mean score is above)", v("enhanced_diff.gamma")),
                ("delta (SAME: the mean score is below)", v("enhanced_diff.delta")),
                ("Smallest delta certified", v("enhanced_diff.smallest_delta_certified")),
                ("Clip, nats", v("enhanced_diff.clip_nats")),
                ("Anytime p of SAME", v("enhanced_diff.p_same")),
                ("Anytime p of DIFFERENT", v("enhanced_diff.p_different")),
                ("How rare a difference could hide", v("enhanced_diff.rare_difference")),
                ("Relationship, advisory", v("relationship.label")),
                ("Evidence for the relationship", v("relationship.evidence")),
                ("Band measured on an honest", v("band.quantization")),
                ("Scorer", v("enhanced_diff.scorer")),
                ("Decider", v("enhanced_diff.decider")),
            ],
        ),
        table(
            report,
            "Challenges that stand out",
            "enhanced_diff.outliers",
            &[("Challenge", "index"), ("Prompt", "prompt.text"), ("Score", "score"), ("Nats", "nats")],
        ),
        table(
            report,
            "Your own prompts, not part of the verdict",
            "probes.results",
            &[("Prompt", "prompt"), ("Score", "score"), ("Nats", "nats"), ("Failure", "failure")],
        ),
        table(report, "Errors and missing evidence", "errors", &[("What", "")]),
        facts(
            "Weights and tokenizer",
            vec![
                ("Relation of the weights", v("lineage.relation")),
                ("Identical tensors", of("lineage.tensors_identical", "lineage.tensors_compared")),
                ("Worst tensor", v("lineage.worst_tensor")),
                ("Largest excess error", v("lineage.max_excess_error")),
                ("Configurations equal", v("security.config_hash.match")),
                ("Tokenizers compatible", v("security.tokenizer.compatible")),
                ("Tokenizer differences", v("security.tokenizer.differences")),
                ("Fuzzy hash", v("security.fuzzy_hash.algorithm")),
                ("Fuzzy similarity", v("security.fuzzy_hash.similarity")),
            ],
        ),
        facts(
            "Machine",
            vec![
                ("Engine", format!("{} {}", v("engine.name"), v("engine.version"))),
                ("Device", v("engine.device")),
                ("Memory limit", size("memory.limit_bytes")),
                ("Memory predicted", size("memory.predicted_bytes")),
                ("Memory peak", size("memory.peak_bytes")),
                ("Enforcement", v("memory.enforcement")),
                ("Time in all", seconds(at(report, "seconds"))),
                ("Started", v("started_at")),
                ("Finished", v("finished_at")),
            ],
        ),
        facts(
            MEASUREMENT,
            vec![
                ("Perplexity", v("measurement.perplexity")),
                ("Mean negative log-likelihood, nats a token", v("measurement.mean_nll")),
                ("Tokens predicted", v("measurement.positions")),
                ("Scored, tokens a second", v("measurement.score_tokens_per_second")),
                ("Written, tokens a second", v("measurement.generate_tokens_per_second")),
                ("SHA-256 of what it wrote", v("measurement.written_sha256")),
            ],
        ),
        Section { title: "Timings", body: timings(report) },
        facts(
            "Proof",
            vec![
                ("Challenge commitment", v("challenges.commitment")),
                ("Key, revealed after the run", v("challenges.key_revealed")),
                ("Distinct challenges", v("challenges.distinct")),
                ("Possible challenges", v("challenges.space_size")),
                ("Reference root", v("provenance.reference_root")),
                ("Candidate root", v("provenance.candidate_root")),
                ("Transcript root", v("provenance.transcript_root")),
                ("Constants", v("constants_digest")),
                ("assayd", v("assayd_version")),
            ],
        ),
        table(
            report,
            "Files",
            "files",
            &[("Role", "role"), ("Path", "path"), ("Bytes", "bytes"), ("SHA-256", "sha256")],
        ),
        table(
            report,
            "Plugins",
            "plugins",
            &[("Kind", "kind"), ("Id", "id"), ("Version", "version"), ("SHA-256", "sha256")],
        ),
        table(report, "Remarks", "remarks", &[("What", "")]),
        table(report, "Workers", "workers", &[("Role", "role"), ("Ending", "ending"), ("Detail", "detail")]),
    ]
}

/// The scores, one row per challenge.
pub fn scores(report: &Value) -> Section {
    let columns = [
        ("Challenge", "index"),
        ("Prompt", "prompt.text"),
        ("Score", "score"),
        ("Lower", "lower"),
        ("Upper", "upper"),
        ("Counted", "counted"),
        ("Details", "notes"),
        ("Failure", "failure"),
    ];
    table(report, "Scores", "records", &columns)
}

/// Every timing the report has; the unit is in its name.
fn timings(report: &Value) -> Body {
    let row = |(name, value): (&String, &Value)| {
        (name.trim_end_matches("_seconds").replace('_', " "), seconds(Some(value)))
    };
    match at(report, "timings").and_then(Value::as_object) {
        Some(timings) => Body::Facts(timings.iter().map(row).collect()),
        None => Body::Facts(vec![("All".into(), MISSING.into())]),
    }
}
