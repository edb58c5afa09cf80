//! Report `html`: the report document as one self-contained page, light and dark, with
//! the confidence sequence drawn over the number of scores against gamma and delta.
//! No script, no font, no image and no link leaves the file.

mod chart;

use std::fmt::Write as _;

use assayd_plugin_sdk::layout::{self, Body, Section};
use assayd_plugin_sdk::{Refusal, Rendered, export_report, text};
use serde::Deserialize;
use serde_json::Value;

/// It takes none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

/// Renders `report.html`.
///
/// # Errors
/// None of its own.
pub fn render(report: &Value, _params: &Params) -> Result<Vec<Rendered>, Refusal> {
    let body = page(report).into_bytes();
    Ok(vec![Rendered { file_name: "report.html".into(), media_type: "text/html".into(), body }])
}

export_report!("html", render);

const STYLE: &str = include_str!("style.css");

fn page(report: &Value) -> String {
    let decision = text::show(text::at(report, "final_decision"));
    // Only the four known decisions choose a colour; anything else stays neutral.
    let class = match decision.as_str() {
        "SAME" => "same",
        "DIFFERENT" => "different",
        "ERROR" => "error",
        _ => "undecided",
    };
    let v = |path: &str| escape(&text::show(text::at(report, path)));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{decision}: {candidate}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header class=\"{class}\">\n<h1>{decision}</h1>\n<p>{claim}</p>\n\
         <p class=\"models\"><b>{candidate}</b> against <b>{reference}</b></p>\n</header>\n",
        decision = escape(&decision),
        candidate = v("model2"),
        reference = v("model1"),
        claim = v("enhanced_diff.claim"),
    );
    let _ = write!(
        out,
        "<figure>\n{}\n<figcaption>Mean score and its confidence sequence after each challenge (line and \
         band), single scores (dots), gamma and delta (dashed).</figcaption>\n</figure>\n",
        chart::draw(report)
    );
    for section in layout::sections(report) {
        write_section(&mut out, section);
    }
    out.push_str("<details>\n<summary>Scores of all challenges</summary>\n");
    write_section(&mut out, layout::scores(report));
    out.push_str("</details>\n</main>\n</body>\n</html>\n");
    out
}

fn write_section(out: &mut String, section: Section) {
    let _ = write!(out, "<section>\n<h2>{}</h2>\n", escape(section.title));
    match section.body {
        Body::Facts(rows) => {
            out.push_str("<dl>\n");
            for (label, value) in rows {
                let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(&label), escape(&value));
            }
            out.push_str("</dl>\n");
        }
        Body::Table { rows: None, .. } => {
            let _ = writeln!(out, "<p>{}</p>", text::MISSING);
        }
        Body::Table { rows: Some(rows), .. } if rows.is_empty() => out.push_str("<p>none</p>\n"),
        Body::Table { head, rows: Some(rows) } => {
            let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
                cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
            };
            let head = cells("th", &mut head.into_iter());
            let _ = write!(out, "<div class=\"wide\"><table>\n<tr>{head}</tr>\n");
            for row in rows {
                let _ = writeln!(out, "<tr>{}</tr>", cells("td", &mut row.iter().map(String::as_str)));
            }
            out.push_str("</table></div>\n");
        }
    }
    out.push_str("</section>\n");
}

/// Safe in text and in quoted attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(report: &Value) -> String {
        let files = render(report, &Params::default()).unwrap();
        assert_eq!((files.len(), files[0].file_name.as_str()), (1, "report.html"));
        String::from_utf8(files[0].body.clone()).unwrap()
    }

    #[test]
    fn an_empty_report_is_all_not_available() {
        let page = rendered(&serde_json::json!({"schema": "assayd.report/1"}));
        assert!(page.contains("<h1>n/a</h1>"));
        assert!(page.contains("<dt>Mean score</dt><dd>n/a</dd>"));
        assert!(page.contains("no scores were recorded"));
    }

    #[test]
    fn hostile_text_stays_text_and_nothing_is_loaded_from_elsewhere() {
        let evil = "<script>alert(1)</script>\"'&";
        let page = rendered(&serde_json::json!({
            "final_decision": evil, "model1": evil, "model2": evil, "errors": [evil],
            "enhanced_diff": {"claim": evil}, "timings": {evil: 1.0},
            "records": [{"n": 1, "prompt": {"text": evil}, "score": 0.5, "lower": evil, "upper": 1.0}],
        }));
        assert!(!page.contains("<script"));
        assert!(page.matches("&lt;script&gt;").count() >= 6);
        for loads in ["src=", "href=", "http:", "https:", "url(", "@import"] {
            assert!(!page.contains(loads), "{loads}");
        }
    }

    #[test]
    fn known_values_stand_where_they_belong() {
        let page = rendered(&serde_json::json!({
            "final_decision": "DIFFERENT",
            "enhanced_diff": {"mean_diff": 0.654_321, "n_effective": 4, "n_max": 200},
            "memory": {"peak_bytes": 1_572_864},
        }));
        assert!(page.contains("<header class=\"different\">"));
        assert!(page.contains("<dt>Mean score</dt><dd>0.6543</dd>"));
        assert!(page.contains("<dt>Memory peak</dt><dd>1.5 MiB</dd>"));
    }
}
