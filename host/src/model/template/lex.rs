//! From text to segments, and from the inside of `{{ }}` and `{% %}` to tokens.

/// A word of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Name(String),
    Str(String),
    Int(String),
    Float(String),
    /// Operators and brackets.
    Sign(&'static str),
}

/// A stretch of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Text(String),
    Output(Vec<Token>),
    Statement(Vec<Token>),
}

/// Longer signs first, so that `//` is not read as two `/`.
const SIGNS: [&str; 29] = [
    "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{",
    "}", ",", ".", ":", "|", ";", "&", "!", "@",
];

/// Cuts a template into segments.
pub(super) fn segments(source: &str) -> Result<Vec<Segment>, String> {
    let mut out = Vec::new();
    let mut rest = source;
    loop {
        let opens = |at: usize| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
        let Some(at) = rest.match_indices('{').map(|(at, _)| at).find(|&at| opens(at)) else {
            push_text(&mut out, rest);
            return Ok(out);
        };
        let (text, opened) = rest.split_at(at);
        push_text(&mut out, text);
        let (open, inside) = opened.split_at_checked(2).unwrap_or((opened, ""));
        if open == "{#" {
            let end = inside.find("#}").ok_or("a comment does not end")?;
            rest = inside.get(end + 2..).unwrap_or_default();
            continue;
        }
        let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
        let close = if open == "{{" { "}}" } else { "%}" };
        let (tokens, after) = tokens(inside, close)?;
        rest = after;
        if open == "{{" {
            out.push(Segment::Output(tokens));
        } else if matches!(tokens.as_slice(), [Token::Name(word)] if word == "raw") {
            let (text, after) = raw(rest)?;
            push_text(&mut out, text);
            rest = after;
        } else {
            out.push(Segment::Statement(tokens));
        }
    }
}

fn push_text(out: &mut Vec<Segment>, text: &str) {
    if !text.is_empty() {
        out.push(Segment::Text(text.to_owned()));
    }
}

/// The text up to `{% endraw %}`, and what follows it.
fn raw(source: &str) -> Result<(&str, &str), String> {
    for (at, _) in source.match_indices("{%") {
        let (text, tag) = source.split_at(at);
        let inside = tag.get(2..).unwrap_or_default();
        let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside).trim_start();
        let Some(end) = inside.strip_prefix("endraw") else { continue };
        let end = end.trim_start();
        if let Some(after) = end.strip_prefix(['-', '+']).unwrap_or(end).strip_prefix("%}") {
            return Ok((text, after));
        }
    }
    Err("a raw block does not end".to_owned())
}

/// Tokens up to `close`, and the text behind it.
fn tokens<'a>(source: &'a str, close: &str) -> Result<(Vec<Token>, &'a str), String> {
    let mut out = Vec::new();
    let mut rest = source;
    // Brackets that are open: `}}` may end two dictionaries instead of the expression.
    let mut open = 0usize;
    loop {
        rest = rest.trim_start();
        let bare = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        if open == 0
            && let Some(after) = rest.strip_prefix(close).or_else(|| bare.strip_prefix(close))
        {
            return Ok((out, after));
        }
        let Some(first) = rest.chars().next() else {
            return Err(format!("an expression does not end with {close}"));
        };
        if first == '"' || first == '\'' {
            let (text, after) = string(rest, first)?;
            out.push(Token::Str(text));
            rest = after;
        } else if first.is_ascii_digit() {
            let (token, after) = number(rest);
            out.push(token);
            rest = after;
        } else if first.is_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            // Python takes names that differ in the form of their letters for one.
            if !word.is_ascii() {
                return Err(format!("the name {word:?} may be read as another"));
            }
            out.push(Token::Name(word.to_owned()));
            rest = after;
        } else {
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
            let sign = sign.ok_or_else(|| format!("{first:?} has no meaning in an expression"))?;
            match sign {
                "(" | "[" | "{" => open += 1,
                ")" | "]" | "}" => open = open.saturating_sub(1),
                _ => {}
            }
            out.push(Token::Sign(sign));
            rest = rest.get(sign.len()..).unwrap_or_default();
        }
    }
}

fn number(source: &str) -> (Token, &str) {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let whole = digits(source);
    let (int, rest) = source.split_at(whole);
    let fraction = rest.strip_prefix('.').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let after_fraction = fraction.map_or(rest, |rest| rest.get(digits(rest)..).unwrap_or_default());
    let exponent =
        after_fraction.strip_prefix(['e', 'E']).map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
    let exponent = exponent.filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let end = exponent.map_or(after_fraction, |rest| rest.get(digits(rest)..).unwrap_or_default());
    if end.len() == rest.len() {
        return (Token::Int(int.replace('_', "")), rest);
    }
    let text = source.get(..source.len() - end.len()).unwrap_or_default();
    (Token::Float(text.to_owned()), end)
}

/// The content of a string with its escapes resolved: they hide names from a plain search.
fn string(source: &str, quote: char) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut chars = source.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((out, source.get(at + c.len_utf8()..).unwrap_or_default()));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some((_, escape)) = chars.next() else { break };
        let mut code = |length: usize| -> char {
            let digits: String = chars.by_ref().take(length).map(|(_, digit)| digit).collect();
            u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).unwrap_or('\u{fffd}')
        };
        match escape {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'x' => out.push(code(2)),
            'u' => out.push(code(4)),
            'U' => out.push(code(8)),
            // A character by its name is none that is known here.
            'N' => {
                let mut name = chars.clone().map(|(_, c)| c);
                if name.next() == Some('{') && name.find(|c| *c == '}' || *c == quote) == Some('}') {
                    chars.by_ref().find(|(_, c)| *c == '}');
                }
                out.push('\u{fffd}');
            }
            '\n' => {}
            '0'..='7' => {
                let mut value = escape.to_digit(8).unwrap_or(0);
                let mut rest = chars.clone();
                for _ in 0..2 {
                    let Some(digit) = rest.next().and_then(|(_, digit)| digit.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    chars = rest.clone();
                }
                out.push(char::from_u32(value).unwrap_or('\u{fffd}'));
            }
            other @ ('\\' | '\'' | '"') => out.push(other),
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    Err("a string does not end".to_owned())
}
