//! Report `markdown`: the report document as one Markdown file. Everything comes from
//! the document; a null value is "n/a".

use std::fmt::Write as _;

use assayd_plugin_sdk::layout::{self, Body};
use assayd_plugin_sdk::text::{self, markdown};
use assayd_plugin_sdk::{Refusal, Rendered, export_report};
use serde::Deserialize;
use serde_json::Value;

/// It takes none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

/// Renders `report.md`.
///
/// # Errors
/// None of its own.
pub fn render(report: &Value, _params: &Params) -> Result<Vec<Rendered>, Refusal> {
    let body = page(report).into_bytes();
    Ok(vec![Rendered { file_name: "report.md".into(), media_type: "text/markdown".into(), body }])
}

export_report!("markdown", render);

fn page(report: &Value) -> String {
    let mut out = format!("# {}\n", markdown(&text::show(text::at(report, "final_decision"))));
    for section in layout::sections(report).into_iter().chain([layout::scores(report)]) {
        let _ = write!(out, "\n## {}\n\n", section.title);
        match section.body {
            Body::Facts(rows) => {
                out.push_str("| | |\n|---|---|\n");
                for (label, value) in rows {
                    let _ = writeln!(out, "| {} | {} |", markdown(&label), markdown(&value));
                }
            }
            Body::Table { rows: None, .. } => {
                let _ = writeln!(out, "{}", text::MISSING);
            }
            Body::Table { rows: Some(rows), .. } if rows.is_empty() => out.push_str("none\n"),
            Body::Table { head, rows: Some(rows) } => {
                let _ = writeln!(out, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
                for row in rows {
                    let cells: Vec<String> = row.iter().map(|text| markdown(text)).collect();
                    let _ = writeln!(out, "| {} |", cells.join(" | "));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(report: &Value) -> String {
        let files = render(report, &Params::default()).unwrap();
        assert_eq!((files.len(), files[0].file_name.as_str()), (1, "report.md"));
        String::from_utf8(files[0].body.clone()).unwrap()
    }

    #[test]
    fn an_empty_report_is_all_not_available() {
        let page = rendered(&serde_json::json!({"schema": "assayd.report/1"}));
        assert!(page.starts_with("# n/a\n"));
        assert!(page.contains("| Mean score | n/a |"));
        assert!(page.contains("\n## Errors and missing evidence\n\nn/a\n"));
    }

    #[test]
    fn values_stand_where_they_belong_and_cannot_break_the_table() {
        let page = rendered(&serde_json::json!({
            "final_decision": "SAME",
            "model2": "a|b`<script>",
            "enhanced_diff": {"mean_diff": 0.012_345_6, "ci_lower": 0.0, "ci_upper": 0.2, "n_effective": 24},
            "memory": {"peak_bytes": 3 << 20},
            "timings": {"score_seconds": 1.5},
            "errors": ["no lineage: the reference is gone"],
            "records": [{"index": 0, "prompt": {"text": "Why?"}, "score": 0.5, "counted": true, "notes": null}],
        }));
        for line in [
            "# SAME",
            "| Candidate | a\\|b\\`&lt;script&gt; |",
            "| Mean score | 0.01235 |",
            "| Confidence interval of the mean score | 0 to 0.2 |",
            "| Challenges scored, of at most | 24 of n/a |",
            "| Memory peak | 3 MiB |",
            "| score | 1.5 s |",
            "| no lineage: the reference is gone |",
            "| 0 | Why? | 0.5 | n/a | n/a | yes | n/a | n/a |",
        ] {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }
}
