//! Values of the report document as text for people. A missing or null value is "n/a",
//! never a guess.

use serde_json::Value;

/// What stands for a value that is not known.
pub const MISSING: &str = "n/a";

/// The value at a path such as `enhanced_diff.ci_lower`; numbers in a path index lists.
pub fn at<'a>(report: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = report;
    for key in path.split('.') {
        value = match value {
            Value::Array(items) => items.get(key.parse::<usize>().ok()?)?,
            other => other.get(key)?,
        };
    }
    (!value.is_null()).then_some(value)
}

/// Any value: text as it is, numbers by [`number`], true as yes, false as no, lists joined
/// with commas, everything else as JSON.
pub fn show(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => MISSING.into(),
        Some(Value::String(text)) if text.is_empty() => MISSING.into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(true)) => "yes".into(),
        Some(Value::Bool(false)) => "no".into(),
        Some(Value::Number(n)) if n.is_f64() => n.as_f64().map_or_else(|| MISSING.into(), number),
        Some(Value::Number(n)) => n.to_string(),
        Some(Value::Array(items)) if items.is_empty() => "none".into(),
        Some(Value::Array(items)) => items.iter().map(|item| show(Some(item))).collect::<Vec<_>>().join(", "),
        Some(other) => other.to_string(),
    }
}

/// Four significant digits; very small and very large ones with an exponent.
pub fn number(x: f64) -> String {
    if !x.is_finite() {
        return MISSING.into();
    }
    let size = x.abs();
    if x == 0.0 {
        "0".into()
    } else if !(1e-4..1e7).contains(&size) {
        format!("{x:.3e}")
    } else {
        let decimals = (3.0 - size.log10().floor()).clamp(0.0, 8.0) as usize;
        let text = format!("{x:.decimals$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
    }
}

/// A number of bytes in binary units.
pub fn bytes(value: Option<&Value>) -> String {
    let Some(mut size) = value.and_then(Value::as_f64) else { return MISSING.into() };
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return format!("{} {unit}", number(size));
        }
        size /= 1024.0;
    }
    format!("{} TiB", number(size))
}

/// A duration in seconds.
pub fn seconds(value: Option<&Value>) -> String {
    value.and_then(Value::as_f64).map_or_else(|| MISSING.into(), |x| format!("{} s", number(x)))
}

/// Safe in a heading, a quotation and a table cell of Markdown: no markup and no line break of its own.
pub fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '!' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (x, text) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (0.123_456, "0.1235"),
            (-12.345_6, "-12.35"),
            (123_456.7, "123457"),
            (1.0, "1"),
            (3.2e-7, "3.200e-7"),
            (f64::NAN, "n/a"),
            (f64::INFINITY, "n/a"),
        ] {
            assert_eq!(number(x), text);
        }
        assert_eq!(bytes(Some(&1536.into())), "1.5 KiB");
        assert_eq!(bytes(None), "n/a");
    }

    #[test]
    fn missing_is_said() {
        let report = serde_json::json!({"a": {"b": [null, 2]}, "empty": ""});
        assert_eq!(show(at(&report, "a.b.0")), "n/a");
        assert_eq!(show(at(&report, "a.b.1")), "2");
        assert_eq!(show(at(&report, "a.c.d")), "n/a");
        assert_eq!(show(at(&report, "empty")), "n/a");
    }
}
