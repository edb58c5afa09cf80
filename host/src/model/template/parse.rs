//! From segments to a tree: the tags that chat templates may use.
//!
//! Whatever a runtime would work out is in the tree: an expression that is skipped here is one
//! that nobody looks at.

use super::expression::{NESTING, Words};
use super::lex::{Segment, segments};
use super::tree::{Kind, Node};

/// The tree of a template.
///
/// # Errors
/// Why it cannot be read, in words.
pub(super) fn parse(source: &str) -> Result<Node, String> {
    let mut blocks = Blocks { segments: segments(source)?.into_iter(), nesting: 0 };
    let (body, end) = blocks.body(&[])?;
    match end {
        None => Ok(body),
        Some(_) => Err("a block ends that did not begin".to_owned()),
    }
}

struct Blocks {
    segments: std::vec::IntoIter<Segment>,
    nesting: usize,
}

/// The tag that ended a body.
type End = Option<(String, Words)>;

impl Blocks {
    /// Everything up to one of the tags in `ends`.
    fn body(&mut self, ends: &[&str]) -> Result<(Node, End), String> {
        self.nesting += 1;
        if self.nesting > NESTING {
            return Err(format!("blocks are nested more than {NESTING} levels deep"));
        }
        let mut children = Vec::new();
        let mut end = None;
        while let Some(segment) = self.segments.next() {
            match segment {
                Segment::Text(text) => children.push(Node::leaf(Kind::Text, text)),
                Segment::Output(tokens) => {
                    let mut words = Words::new(tokens);
                    let value = words.tuple()?;
                    words.done()?;
                    children.push(Node::new(Kind::Output, "", vec![value])?);
                }
                Segment::Statement(tokens) => {
                    let mut words = Words::new(tokens);
                    let tag = words.name().ok_or("a statement without a name")?;
                    if ends.contains(&tag.as_str()) {
                        end = Some((tag, words));
                        break;
                    }
                    children.push(self.statement(&tag, words)?);
                }
            }
        }
        self.nesting -= 1;
        if end.is_none() && !ends.is_empty() {
            return Err(format!("{} is missing", ends.last().unwrap_or(&"an end")));
        }
        Ok((Node::new(Kind::Body, "", children)?, end))
    }

    fn statement(&mut self, tag: &str, mut words: Words) -> Result<Node, String> {
        match tag {
            "if" => self.conditions(words),
            "for" => self.repetition(words),
            "set" => {
                let target = words.target()?;
                if words.sign("=") {
                    let value = words.tuple()?;
                    words.done()?;
                    return Node::new(Kind::Set, target, vec![value]);
                }
                let (body, _) = self.body(&["endset"])?;
                let value = if words.sign("|") { words.filters(body)? } else { body };
                words.done()?;
                Node::new(Kind::Set, target, vec![value])
            }
            "macro" => {
                let mut text = words.name().ok_or("a macro without a name")?;
                let mut children = Vec::new();
                words.expect("(")?;
                while !words.sign(")") {
                    text.push(',');
                    text.push_str(&words.name().ok_or("a macro with a strange parameter")?);
                    if words.sign("=") {
                        children.push(words.expression()?);
                    }
                    words.sign(",");
                }
                words.done()?;
                let (body, _) = self.body(&["endmacro"])?;
                children.push(body);
                Node::new(Kind::Macro, text, children)
            }
            "call" => {
                let mut parameters = Vec::new();
                if words.sign("(") {
                    while !words.sign(")") {
                        parameters.push(words.name().ok_or("a call block with a strange parameter")?);
                        words.sign(",");
                    }
                }
                let called = words.expression()?;
                words.done()?;
                let (body, _) = self.body(&["endcall"])?;
                Node::new(Kind::CallBlock, parameters.join(","), vec![called, body])
            }
            "filter" => {
                let (body, _) = self.body(&["endfilter"])?;
                let filtered = words.filters(body)?;
                words.done()?;
                Node::new(Kind::Output, "", vec![filtered])
            }
            "with" => {
                let mut children = Vec::new();
                while !words.at_end() {
                    let target = words.target()?;
                    words.expect("=")?;
                    children.push(Node::new(Kind::Set, target, vec![words.expression()?])?);
                    words.sign(",");
                }
                let (body, _) = self.body(&["endwith"])?;
                children.push(body);
                Node::new(Kind::Block, tag, children)
            }
            "generation" | "block" | "autoescape" => {
                let mut children = Vec::new();
                match tag {
                    "autoescape" => children.push(words.expression()?),
                    "block" => while words.name().is_some() {},
                    _ => {}
                }
                words.done()?;
                let end = format!("end{tag}");
                children.push(self.body(&[end.as_str()])?.0);
                Node::new(Kind::Block, tag, children)
            }
            "do" => {
                let value = words.tuple()?;
                words.done()?;
                Node::new(Kind::Block, tag, vec![value])
            }
            "break" | "continue" => Ok(Node::leaf(Kind::Jump, tag)),
            "import" | "from" | "include" | "extends" => Ok(Node::leaf(Kind::Load, tag)),
            other => Err(format!("the tag {other:?} is not known")),
        }
    }

    fn conditions(&mut self, mut words: Words) -> Result<Node, String> {
        let mut branches = Vec::new();
        let mut condition = words.tuple()?;
        words.done()?;
        loop {
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push(Node::new(Kind::Branch, "", vec![condition, body])?);
            match end {
                Some((tag, mut words)) if tag == "elif" => {
                    condition = words.tuple()?;
                    words.done()?;
                }
                Some((tag, _)) if tag == "else" => {
                    let (body, _) = self.body(&["endif"])?;
                    branches.push(Node::new(Kind::Branch, "", vec![body])?);
                    break;
                }
                _ => break,
            }
        }
        Node::new(Kind::If, "", branches)
    }

    fn repetition(&mut self, mut words: Words) -> Result<Node, String> {
        let target = words.target()?;
        if words.name().as_deref() != Some("in") {
            return Err("a loop without in".to_owned());
        }
        let over = words.tuple_without_choice()?;
        let condition = match words.word("if") {
            true => words.expression()?,
            false => Node::leaf(Kind::Const, "true"),
        };
        words.word("recursive");
        words.done()?;
        let (body, end) = self.body(&["else", "endfor"])?;
        let mut children = vec![over, condition, body];
        if end.is_some_and(|(tag, _)| tag == "else") {
            children.push(self.body(&["endfor"])?.0);
        }
        Node::new(Kind::For, target, children)
    }
}
