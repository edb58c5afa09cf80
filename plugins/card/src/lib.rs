//! Report `card`: a model card to publish beside a model. Its front matter is YAML for
//! programs, its body Markdown for people; both hold nothing but values of the report, and a
//! null value is "n/a". Deliberately absent: paths of the machine that judged (a card is
//! published), and the name of a base model on any hub, which the report does not know.

use std::fmt::Write as _;

use assayd_plugin_sdk::text::{self, at, bytes, markdown, show};
use assayd_plugin_sdk::{Refusal, Rendered, export_report};
use serde::Deserialize;
use serde_json::Value;

/// It takes none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

/// Renders `card.md`.
///
/// # Errors
/// None of its own.
pub fn render(report: &Value, _params: &Params) -> Result<Vec<Rendered>, Refusal> {
    let body = format!("{}\n{}", front_matter(report), page(report)).into_bytes();
    Ok(vec![Rendered { file_name: "card.md".into(), media_type: "text/markdown".into(), body }])
}

export_report!("card", render);

/// Keys of the front matter and where their values stand in the report.
const FACTS: [(&str, &str); 12] = [
    ("decision", "final_decision"),
    ("claim", "enhanced_diff.claim"),
    ("confidence", "enhanced_diff.confidence"),
    ("gamma", "enhanced_diff.gamma"),
    ("delta", "enhanced_diff.delta"),
    ("challenges", "enhanced_diff.n_effective"),
    ("lineage", "lineage.relation"),
    ("candidate_root", "provenance.candidate_root"),
    ("reference_root", "provenance.reference_root"),
    ("transcript_root", "provenance.transcript_root"),
    ("assayd_version", "assayd_version"),
    ("judged_at", "finished_at"),
];

/// JSON scalars are YAML scalars, whatever a model's metadata holds.
fn front_matter(report: &Value) -> String {
    let mut out = String::from("---\ntags:\n- assayd\nassayd:\n");
    for (key, path) in FACTS {
        let value = at(report, path).filter(|value| !value.is_array() && !value.is_object());
        let _ = writeln!(out, "  {key}: {}", value.unwrap_or(&Value::Null));
    }
    out + "---\n"
}

fn page(report: &Value) -> String {
    let v = |path: &str| markdown(&show(at(report, path)));
    let mut out = format!("# {}: {}\n\n", file_name(report, "model2"), v("final_decision"));
    let claim =
        if at(report, "enhanced_diff.decision").is_some() { "enhanced_diff.claim" } else { "because" };
    let _ = writeln!(out, "> {}\n", v(claim));
    out.push_str("| | |\n|---|---|\n");
    for (label, value) in [
        ("Reference", file_name(report, "model1")),
        ("Architecture", v("inspections.candidate.architecture")),
        ("Parameters", v("inspections.candidate.parameters")),
        ("Quantization", v("inspections.candidate.quantization")),
        ("Relation of the weights to the reference", v("lineage.relation")),
        ("Mean score, in shares of the clip", v("enhanced_diff.mean_diff")),
        ("Interval of the mean score", interval(report)),
        ("Error probability at most", error_probability(report)),
        ("Challenges that count", v("enhanced_diff.n_effective")),
        ("Scorer, decider", format!("{}, {}", v("enhanced_diff.scorer"), v("enhanced_diff.decider"))),
        ("Engine", format!("{} {}", v("engine.name"), v("engine.version"))),
        ("Memory peak", markdown(&bytes(at(report, "memory.peak_bytes")))),
    ] {
        let _ = writeln!(out, "| {label} | {value} |");
    }
    out.push_str("\n## Files\n\n| File | Bytes | SHA-256 |\n|---|---|---|\n");
    let files = at(report, "files").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let judged = files.iter().filter(|file| at(file, "role").and_then(Value::as_str) == Some("candidate"));
    for file in judged {
        let (bytes, digest) = (show(at(file, "bytes")), show(at(file, "sha256")));
        let _ =
            writeln!(out, "| {} | {} | {} |", file_name(file, "path"), markdown(&bytes), markdown(&digest));
    }
    out + "\n## What this does not say\n\n\
        The verdict is about the mean divergence over challenges drawn from a secret key. It does not exclude \
        a difference on rare prompts, and it is no statement on how good or how safe the model is.\n\
        \n## Check it again\n\n\
        Compare the SHA-256 above with the file you have. Whoever has both models repeats the assay with \
        `assayd verify CANDIDATE --reference REFERENCE`; whoever has the bundle recomputes this verdict without \
        any model with `assayd bundle verify FILE`.\n"
}

fn interval(report: &Value) -> String {
    match (at(report, "enhanced_diff.ci_lower"), at(report, "enhanced_diff.ci_upper")) {
        (Some(lower), Some(upper)) => {
            format!("{} to {}, valid at every stopping time", show(Some(lower)), show(Some(upper)))
        }
        _ => text::MISSING.into(),
    }
}

fn error_probability(report: &Value) -> String {
    let decided = at(report, "enhanced_diff.decision").is_some();
    let confidence = at(report, "enhanced_diff.confidence").and_then(Value::as_f64).filter(|_| decided);
    confidence.map_or_else(|| text::MISSING.into(), |confidence| text::number(1.0 - confidence))
}

/// The last part of a path; a card tells nothing of the folders of the machine that judged.
fn file_name(value: &Value, path: &str) -> String {
    let whole = at(value, path).and_then(Value::as_str);
    markdown(whole.and_then(|path| path.rsplit(['/', '\\']).next()).unwrap_or(text::MISSING))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(report: &Value) -> String {
        let files = render(report, &Params::default()).unwrap();
        assert_eq!((files.len(), files[0].file_name.as_str()), (1, "card.md"));
        String::from_utf8(files[0].body.clone()).unwrap()
    }

    #[test]
    fn an_empty_report_claims_nothing() {
        let card = rendered(&serde_json::json!({}));
        for line in ["  decision: null", "# n/a: n/a", "| Error probability at most | n/a |"] {
            assert!(card.lines().any(|have| have == line), "{line}\n{card}");
        }
        assert!(!card.contains("SAME"));
    }

    #[test]
    fn values_stand_where_they_belong_and_no_folder_is_told() {
        let card = rendered(&serde_json::json!({
            "final_decision": "SAME",
            "model1": "/home/me/secret/ref.gguf",
            "model2": "C:\\home\\cand_a.gguf",
            "enhanced_diff": {"decision": "SAME", "confidence": 0.99, "claim": "the mean is below 0.2\n# no",
                "ci_lower": 0.0, "ci_upper": 0.125, "n_effective": 24, "scorer": "kl", "decider": "grid5"},
            "lineage": {"relation": "quantization"},
            "files": [
                {"role": "reference", "path": "/home/me/ref.gguf", "bytes": 1, "sha256": "aa"},
                {"role": "candidate", "path": "/home/me/cand_a.gguf", "bytes": 2, "sha256": "bb"},
            ],
        }));
        for line in [
            "  decision: \"SAME\"",
            "  claim: \"the mean is below 0.2\\n# no\"",
            "  confidence: 0.99",
            "  lineage: \"quantization\"",
            "# cand\\_a.gguf: SAME",
            "> the mean is below 0.2 \\# no",
            "| Reference | ref.gguf |",
            "| Interval of the mean score | 0 to 0.125, valid at every stopping time |",
            "| Error probability at most | 0.01 |",
            "| cand\\_a.gguf | 2 | bb |",
        ] {
            assert!(card.lines().any(|have| have == line), "{line}\n{card}");
        }
        assert!(!card.contains("home") && !card.contains("| ref.gguf | 1 |"), "{card}");
    }
}
