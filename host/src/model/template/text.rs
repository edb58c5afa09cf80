//! Texts and names below a node.

use super::names::{LOOKING, among};
use super::tree::{Kind, Node};

/// Words of prose that a condition on content may not decide about.
pub(super) const PROSE_WORDS: usize = 4;

/// `a.b.c` of names alone.
pub(super) fn dotted(node: &Node) -> Option<String> {
    match node.kind {
        Kind::Name => Some(node.text.clone()),
        Kind::Attr => Some(format!("{}.{}", dotted(node.child(0)?)?, node.text)),
        _ => None,
    }
}

/// A name with two underscores before and behind it.
pub(super) fn is_inner(text: &str) -> bool {
    text.match_indices("__").any(|(at, _)| {
        // Names of the interpreter are short; longer ones would take forever in a long line.
        let name = text.get(at + 2..).unwrap_or_default().chars().take(40);
        let name: String = name.take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        name.split_once("__").is_some_and(|(word, _)| word.len() >= 2 && !word.starts_with('_'))
    })
}

/// Literal texts below a node that a reader of the prompt would see, and names of what may hold
/// some: no exceptions, and nothing that is only looked for or asked about.
pub(super) fn shown<'a>(node: &'a Node, out: &mut Vec<&'a Node>) {
    let (kind, name) = (node.kind, node.text.as_str());
    let children = node.children.as_slice();
    let seen = match (kind, children) {
        (Kind::Text | Kind::Str | Kind::Name, _) => return out.push(node),
        (Kind::Attr, _) if dotted(node).is_some() => return out.push(node),
        (Kind::Test, _) => return,
        (Kind::Binary, _) if is_comparison(name) => return,
        (Kind::For, [over, _, bodies @ ..]) => {
            shown(over, out);
            bodies
        }
        (Kind::Branch, [_, bodies @ ..]) if !bodies.is_empty() => bodies,
        (Kind::Choice, [_, values @ ..]) => values,
        (Kind::Item, [of, ..]) => std::slice::from_ref(of),
        (Kind::Call, [called, arguments @ ..]) => match (called.kind, called.text.as_str()) {
            (Kind::Name, "raise_exception" | "strftime_now") => return,
            (Kind::Attr, method) => {
                called.children.iter().for_each(|of| shown(of, out));
                not_looked_for(method, arguments)
            }
            _ => children,
        },
        (Kind::Filter, [of, arguments @ ..]) => {
            shown(of, out);
            not_looked_for(name, arguments)
        }
        _ => children,
    };
    seen.iter().for_each(|child| shown(child, out));
}

/// Arguments that may come into the text. What is put in place of a word does, the word does not.
fn not_looked_for<'a>(name: &str, arguments: &'a [Node]) -> &'a [Node] {
    match name {
        "replace" | "get" | "pop" => arguments.get(1..).unwrap_or_default(),
        name if among(LOOKING, name) => &[],
        _ => arguments,
    }
}

/// Literal texts that a reader of the prompt would see.
pub(super) fn own_texts(node: &Node) -> Vec<&str> {
    let mut all = Vec::new();
    shown(node, &mut all);
    let texts = all.into_iter().filter(|node| matches!(node.kind, Kind::Text | Kind::Str));
    texts.map(|node| node.text.as_str()).collect()
}

/// Does the operator compare, or look for something?
pub(super) fn is_comparison(operator: &str) -> bool {
    matches!(operator, "==" | "!=" | "<" | ">" | "<=" | ">=" | "in" | "not in")
}

/// Words of prose: what stands in brackets of markup does not count.
pub(super) fn words_of(text: &str) -> usize {
    let mut depth = 0usize;
    let prose: String = text
        .chars()
        .map(|c| {
            match c {
                '<' | '[' | '{' => depth += 1,
                '>' | ']' | '}' => depth = depth.saturating_sub(1),
                c if depth == 0 => return c,
                _ => {}
            }
            ' '
        })
        .collect();
    prose.split_whitespace().map(words_in).sum()
}

/// Words of a text that stands where none should: whatever stands between them parts them, and
/// markers are all that does not count.
pub(super) fn words_added(text: &str) -> usize {
    // Names of markers are short and hold no spaces.
    const MARKER: usize = 40;
    let (mut words, mut rest) = (0, text);
    while let Some(at) = rest.find(['<', '[']) {
        let (before, after) = rest.split_at(at);
        let end =
            after.char_indices().take(MARKER).find(|(_, c)| matches!(c, '>' | ']') || c.is_whitespace());
        let end = match end {
            Some((end, '>' | ']')) => end + 1,
            _ => 1,
        };
        words += plain(before).map(words_in).sum::<usize>();
        rest = after.get(end..).unwrap_or_default();
    }
    words + plain(rest).map(words_in).sum::<usize>()
}

/// Has a text of several words only such as another has?
pub(super) fn repeats(other: &str, text: &str) -> bool {
    // Longer ones are no words to look for.
    const LONGEST: usize = 256;
    if other.len().max(text.len()) > LONGEST {
        return false;
    }
    let (other, text) = (other.to_lowercase(), text.to_lowercase());
    plain(&text).count() > 1 && plain(&text).all(|word| plain(&other).any(|known| known == word))
}

/// Words and numbers, and nothing between two that stand apart.
fn plain(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// Words between two spaces: in scripts that have none, two letters are about one.
fn words_in(text: &str) -> usize {
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let joined = |c: &char| matches!(c, '\u{e00}'..='\u{eff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}');
    match text.chars().filter(joined).count() {
        0 => usize::from(letters >= 2),
        without_spaces => without_spaces.div_ceil(2),
    }
}

/// The beginning of a text, for a message.
pub(super) fn start_of(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut out: String = text.trim().chars().take(SHOWN).collect();
    if text.trim().chars().count() > SHOWN {
        out.push('…');
    }
    out
}
