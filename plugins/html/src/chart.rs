//! The confidence sequence as SVG: n from left to right, the mean score from 0 to 1.

use std::fmt::Write as _;

use assayd_plugin_sdk::text;
use serde_json::Value;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// What is drawn; every value is finite and in [0, 1], or it is not here.
struct Data {
    /// One per score; `None` where it is missing or not a score.
    scores: Vec<Option<f64>>,
    /// `(n, lower, upper)` where both bounds are known.
    band: Vec<(f64, f64, f64)>,
    /// Names and heights of dashed lines.
    limits: Vec<(&'static str, f64)>,
    /// First n with a decision.
    stop: Option<f64>,
}

fn unit(value: Option<&Value>) -> Option<f64> {
    value.and_then(Value::as_f64).filter(|x| (0.0..=1.0).contains(x))
}

/// The number of scores up to and including this one.
fn n_of(record: &Value) -> Option<f64> {
    text::at(record, "n").and_then(Value::as_u64).map(|n| n as f64)
}

fn collect(report: &Value) -> Data {
    let records =
        text::at(report, "records").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // A challenge that could not be scored has no n and is not drawn.
    let scored = || records.iter().filter(|record| n_of(record).is_some());
    let band = scored().filter_map(|record| {
        let (lower, upper) = (unit(text::at(record, "lower"))?, unit(text::at(record, "upper"))?);
        Some((n_of(record)?, lower, upper))
    });
    let decided = |record: &&Value| {
        matches!(text::at(record, "decision").and_then(Value::as_str), Some("SAME" | "DIFFERENT"))
    };
    let limits = [("gamma", "enhanced_diff.gamma"), ("delta", "enhanced_diff.delta")];
    Data {
        scores: scored().map(|record| unit(text::at(record, "score"))).collect(),
        band: band.collect(),
        limits: limits
            .into_iter()
            .filter_map(|(name, path)| Some((name, unit(text::at(report, path))?)))
            .collect(),
        stop: scored().find(decided).and_then(n_of),
    }
}

/// The chart, or a sentence where nothing was recorded.
pub(crate) fn draw(report: &Value) -> String {
    let data = collect(report);
    let last = data.band.iter().map(|(n, ..)| *n).fold(data.scores.len() as f64, f64::max);
    if last < 1.0 {
        return format!("<p>{}: no scores were recorded</p>", text::MISSING);
    }
    let x = |n: f64| LEFT + (WIDTH - LEFT - RIGHT) * if last > 1.0 { (n - 1.0) / (last - 1.0) } else { 0.5 };
    let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Confidence sequence of the mean \
         score over the number of challenges\">\n"
    );
    for value in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (at, right) = (y(value), WIDTH - RIGHT);
        let _ = writeln!(
            out,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\">1</text><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{last} \
         challenges</text>",
        x(1.0),
        HEIGHT - 12.0,
        x(last).max(LEFT + 90.0),
        HEIGHT - 12.0
    );
    if !data.band.is_empty() {
        let upper = data.band.iter().map(|(n, _, upper)| (*n, *upper));
        let lower = data.band.iter().rev().map(|(n, lower, _)| (*n, *lower));
        let points: Vec<String> =
            upper.chain(lower).map(|(n, value)| format!("{:.1},{:.1}", x(n), y(value))).collect();
        let _ = writeln!(out, "<polygon class=\"band\" points=\"{}\"/>", points.join(" "));
    }
    let (mut sum, mut seen, mut mean) = (0.0, 0.0, Vec::new());
    for (n, score) in (1..).zip(&data.scores) {
        let n = f64::from(n);
        let Some(score) = score else { continue };
        sum += score;
        seen += 1.0;
        mean.push(format!("{:.1},{:.1}", x(n), y(sum / seen)));
        let _ = writeln!(out, "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\"/>", x(n), y(*score));
    }
    let _ = writeln!(out, "<polyline class=\"mean\" points=\"{}\"/>", mean.join(" "));
    for (name, value) in &data.limits {
        let (at, right) = (y(*value), WIDTH - RIGHT);
        let _ = writeln!(
            out,
            "<line class=\"limit\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"limit-name\" x=\"{:.1}\" y=\"{:.1}\">{name} {}</text>",
            right + 4.0,
            at + 4.0,
            text::number(*value)
        );
    }
    if let Some(stop) = data.stop {
        let _ = writeln!(
            out,
            "<line class=\"stop\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{1:.1}\"/>",
            x(stop),
            HEIGHT - BOTTOM
        );
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_comes_from_the_report() {
        let report = serde_json::json!({
            "enhanced_diff": {"gamma": 0.05, "delta": 0.2},
            "records": [
                {"n": 1, "score": 0.0, "lower": 0.0, "upper": 1.0, "decision": "UNDECIDED"},
                {"n": null, "score": null, "failure": "no answer"},
                {"n": 2, "score": 1.0, "lower": 0.1, "upper": 0.9, "decision": "SAME"},
                {"n": 3, "score": null, "lower": null, "upper": 0.9, "decision": "SAME"},
                {"n": 4, "score": 7.0},
            ],
        });
        let svg = draw(&report);
        assert_eq!(svg.matches("class=\"dot\"").count(), 2, "null and 7 are no scores");
        assert_eq!(svg.matches("class=\"limit\"").count(), 2);
        let data = collect(&report);
        assert_eq!((data.band.len(), data.stop), (2, Some(2.0)));
        assert!(svg.contains("points=\"44.0,266.0 252.7,139.0\""), "mean 0 then 0.5: {svg}");
    }

    #[test]
    fn one_score_is_enough_and_none_is_said() {
        let one = draw(&serde_json::json!({"records": [{"n": 1, "score": 0.5}]}));
        assert!(one.contains("cx=\"357.0\"") && !one.contains("NaN"));
        assert!(draw(&serde_json::json!({})).starts_with("<p>n/a"));
    }
}
