//! Texts and names below a node.

use super::tree::{Kind, Node};

/// `a.b.c` of names alone.
pub(super) fn dotted(node: &Node) -> Option<String> {
    match node.kind {
        Kind::Name => Some(node.text.clone()),
        Kind::Attr => Some(format!("{}.{}", dotted(node.child(0)?)?, node.text)),
        _ => None,
    }
}

/// Does the expression hold the variable more than once, put together?
pub(super) fn grows(node: &Node, name: &str) -> bool {
    fn count(node: &Node, name: &str) -> usize {
        match node.kind {
            Kind::Name | Kind::Attr if dotted(node).as_deref() == Some(name) => 1,
            Kind::Binary if matches!(node.text.as_str(), "+" | "~") => {
                node.children.iter().map(|child| count(child, name)).sum()
            }
            Kind::Binary if node.text == "*" => {
                let held = node.children.iter().map(|child| count(child, name)).max().unwrap_or(0);
                let number = node
                    .children
                    .iter()
                    .filter(|child| child.kind == Kind::Int)
                    .filter_map(|n| n.text.parse::<usize>().ok())
                    .max();
                held.saturating_mul(number.unwrap_or(2))
            }
            Kind::List => node.children.iter().map(|child| count(child, name)).sum(),
            Kind::Filter => node.child(0).map_or(0, |child| count(child, name)),
            _ => 0,
        }
    }
    // A number is no text: adding it to itself a hundred times is no danger.
    count(node, name) > 1
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

/// Literal texts below a node that a reader of the prompt would see, exceptions left out.
pub(super) fn own_texts(node: &Node, out: &mut Vec<String>) {
    match node.kind {
        Kind::Text | Kind::Str => out.push(node.text.clone()),
        Kind::Call if node.child(0).is_some_and(|called| called.is(Kind::Name, "raise_exception")) => {}
        _ => node.children.iter().for_each(|child| own_texts(child, out)),
    }
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
    prose.split_whitespace().filter(|word| word.chars().filter(|c| c.is_alphabetic()).count() >= 2).count()
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
