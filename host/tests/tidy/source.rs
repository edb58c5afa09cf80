//! A small reader of Rust source: tokens without comments, and the paths among them.
//!
//! Deliberately small: it knows literals and `use` groups, and nothing about macros.

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Word(String),
    /// The contents of a string literal.
    Text(String),
    Sign(char),
}

/// A token and its line, counted from 1.
pub type Token = (usize, Kind);

/// The tokens of a source without comments; numbers and character literals are left out.
pub fn tokens(source: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut line = 1;
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let used = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some((inner, used)) = string(rest) {
            out.push((line, Kind::Text(inner)));
            used
        } else if c == '\'' {
            character(rest)
        } else if c.is_alphanumeric() || c == '_' {
            let used = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            out.push((
                line,
                Kind::Word(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()),
            ));
            used
        } else {
            if !c.is_whitespace() {
                out.push((line, Kind::Sign(c)));
            }
            c.len_utf8()
        };
        let (taken, after) = rest.split_at_checked(used.max(1)).unwrap_or((rest, ""));
        line += taken.matches('\n').count();
        rest = after;
    }
    out
}

/// Length of the block comment that `rest` begins with; they nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut previous = ' ';
    for (at, c) in rest.char_indices() {
        match (previous, c) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth = depth.saturating_sub(1),
            _ => {
                previous = c;
                continue;
            }
        }
        if depth == 0 {
            return at + 1;
        }
        previous = ' ';
    }
    rest.len()
}

/// The string literal, plain or raw, of text or bytes, that `rest` begins with.
fn string(rest: &str) -> Option<(String, usize)> {
    let body = rest.trim_start_matches(['b', 'c']);
    if rest.len() - body.len() > 1 {
        return None;
    }
    if let Some(raw) = body.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let inner = raw.trim_start_matches('#').strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = inner.find(&end)?;
        let used = rest.len() - inner.len() + length + end.len();
        return Some((inner.get(..length)?.to_owned(), used));
    }
    let inner = body.strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            '"' if !escaped => {
                return Some((inner.get(..at)?.to_owned(), rest.len() - inner.len() + at + 1));
            }
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

/// Length of the character literal, or of the lone quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest.get(3..).and_then(|r| r.find('\'')).map_or(1, |at| at + 4),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

/// One path in a source: line, and its words joined by `::`. Groups are opened, so that
/// `use crate::{a, b::c}` gives `crate::a` and `crate::b::c`.
pub fn paths(source: &str) -> Vec<(usize, String)> {
    let all = tokens(source);
    let mut out = Vec::new();
    let mut at = 0;
    while at < all.len() {
        at = path(&all, at, "", &mut out).max(at + 1);
    }
    out
}

/// Reads the path that begins at `at`, in front of which `prefix` stands; returns where it ends.
fn path(all: &[Token], mut at: usize, prefix: &str, out: &mut Vec<(usize, String)>) -> usize {
    let mut name = prefix.to_owned();
    let kind = |at: usize| all.get(at).map(|(_, kind)| kind);
    let Some(&(line, _)) = all.get(at) else { return at };
    while let Some(Kind::Word(word)) = kind(at) {
        if !name.is_empty() {
            name.push_str("::");
        }
        name.push_str(word);
        at += 1;
        if kind(at) != Some(&Kind::Sign(':')) || kind(at + 1) != Some(&Kind::Sign(':')) {
            out.push((line, name));
            return at;
        }
        at += 2;
        if kind(at) == Some(&Kind::Sign('{')) {
            at += 1;
            while let Some(next) = kind(at) {
                match next {
                    Kind::Sign('}') => return at + 1,
                    Kind::Word(_) => at = path(all, at, &name, out),
                    _ => at += 1,
                }
            }
            return at;
        }
    }
    // A glob, a turbofish, or something else after the last `::`.
    if name != prefix {
        out.push((line, name));
    }
    at
}
