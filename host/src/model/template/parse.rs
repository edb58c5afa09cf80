//! From segments to a tree, as Jinja2 reads them: precedence of operators, tests and filters
//! that bind more tightly than operators, and the tags that chat templates may use.

use super::lex::{Segment, Token, segments};
use super::tree::{Kind, Node};

/// Brackets and blocks within each other.
const NESTING: usize = 60;

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
                Node::new(Kind::Set, target, vec![body])
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
                let (body, _) = self.body(&["endmacro"])?;
                children.push(body);
                Node::new(Kind::Macro, text, children)
            }
            "call" => {
                if words.sign("(") {
                    while !words.sign(")") {
                        words.name().ok_or("a call block with a strange parameter")?;
                        words.sign(",");
                    }
                }
                let called = words.expression()?;
                let (body, _) = self.body(&["endcall"])?;
                Node::new(Kind::Block, tag, vec![called, body])
            }
            "filter" => {
                let filter = words.filters(None)?;
                words.done()?;
                let (body, _) = self.body(&["endfilter"])?;
                Node::new(Kind::Block, tag, vec![filter, body])
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
                let end = format!("end{tag}");
                let (body, _) = self.body(&[end.as_str()])?;
                Node::new(Kind::Block, tag, vec![body])
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

/// The tokens of one expression or statement.
struct Words {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    nesting: usize,
}

/// How tightly an operator binds; `None` for what is none.
fn binding(token: &Token) -> Option<(u8, &str)> {
    Some(match token {
        Token::Name(name) => match name.as_str() {
            "or" => (1, "or"),
            "and" => (2, "and"),
            "in" => (4, "in"),
            "not" => (4, "not in"),
            _ => return None,
        },
        Token::Sign(sign @ ("==" | "!=" | "<" | ">" | "<=" | ">=")) => (4, sign),
        Token::Sign(sign @ ("+" | "-")) => (5, sign),
        Token::Sign(sign @ "~") => (6, sign),
        Token::Sign(sign @ ("*" | "/" | "//" | "%")) => (7, sign),
        Token::Sign(sign @ "**") => (8, sign),
        _ => return None,
    })
}

impl Words {
    fn new(tokens: Vec<Token>) -> Self {
        Self { tokens: tokens.into_iter().peekable(), nesting: 0 }
    }

    fn at_end(&mut self) -> bool {
        self.tokens.peek().is_none()
    }

    fn done(&mut self) -> Result<(), String> {
        match self.tokens.peek() {
            None => Ok(()),
            Some(token) => Err(format!("{token:?} is not expected there")),
        }
    }

    fn name(&mut self) -> Option<String> {
        match self.tokens.next_if(|token| matches!(token, Token::Name(_))) {
            Some(Token::Name(name)) => Some(name),
            _ => None,
        }
    }

    fn word(&mut self, word: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Name(name) if name == word)).is_some()
    }

    fn sign(&mut self, sign: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Sign(other) if *other == sign)).is_some()
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.sign(sign) { Ok(()) } else { Err(format!("{sign} is missing")) }
    }

    /// A name, several with commas, or `name.attribute`.
    fn target(&mut self) -> Result<String, String> {
        let bracket = self.sign("(");
        let mut out = self.name().ok_or("a name is missing")?;
        while let Some(sign) = self.tokens.next_if(|token| matches!(token, Token::Sign("." | ","))) {
            out.push_str(if sign == Token::Sign(".") { "." } else { "," });
            out.push_str(&self.name().ok_or("a name is missing")?);
        }
        if bracket {
            self.expect(")")?;
        }
        Ok(out)
    }

    fn enter(&mut self) -> Result<(), String> {
        self.nesting += 1;
        if self.nesting > NESTING {
            Err(format!("brackets are nested more than {NESTING} levels deep"))
        } else {
            Ok(())
        }
    }

    /// Expressions with commas between them.
    fn tuple(&mut self) -> Result<Node, String> {
        let first = self.expression()?;
        self.more(first)
    }

    fn tuple_without_choice(&mut self) -> Result<Node, String> {
        let first = self.operators(0)?;
        self.more(first)
    }

    fn more(&mut self, first: Node) -> Result<Node, String> {
        let mut list = vec![first];
        let mut several = false;
        while self.sign(",") {
            several = true;
            if self.at_end() || matches!(self.tokens.peek(), Some(Token::Sign(")"))) {
                break;
            }
            list.push(self.expression()?);
        }
        match list.pop() {
            Some(only) if !several => Ok(only),
            Some(last) => {
                list.push(last);
                Node::new(Kind::List, "", list)
            }
            None => Err("an expression is missing".to_owned()),
        }
    }

    fn expression(&mut self) -> Result<Node, String> {
        self.enter()?;
        let mut value = self.operators(0)?;
        while self.word("if") {
            let condition = self.operators(0)?;
            let other = if self.word("else") { self.expression()? } else { Node::leaf(Kind::Const, "none") };
            value = Node::new(Kind::Choice, "", vec![condition, value, other])?;
        }
        self.nesting -= 1;
        Ok(value)
    }

    fn operators(&mut self, least: u8) -> Result<Node, String> {
        self.enter()?;
        let mut left = if self.word("not") {
            Node::new(Kind::Unary, "not", vec![self.operators(3)?])?
        } else {
            self.unary()?
        };
        while let Some((strength, text)) = self.tokens.peek().and_then(binding) {
            if strength <= least {
                break;
            }
            let text = text.to_owned();
            self.tokens.next();
            if text == "not in" && !self.word("in") {
                return Err("not without in".to_owned());
            }
            let right = self.operators(strength)?;
            left = Node::new(Kind::Binary, text, vec![left, right])?;
        }
        self.nesting -= 1;
        Ok(left)
    }

    fn unary(&mut self) -> Result<Node, String> {
        for sign in ["-", "+"] {
            if self.sign(sign) {
                self.enter()?;
                let value = self.unary()?;
                self.nesting -= 1;
                return Node::new(Kind::Unary, sign, vec![value]);
            }
        }
        let value = self.primary()?;
        let value = self.postfix(value)?;
        self.filters_and_tests(value)
    }

    fn primary(&mut self) -> Result<Node, String> {
        let token = self.tokens.next().ok_or("an expression is missing")?;
        Ok(match token {
            Token::Str(mut text) => {
                // Strings beside each other are one.
                while let Some(Token::Str(more)) = self.tokens.next_if(|token| matches!(token, Token::Str(_)))
                {
                    text.push_str(&more);
                }
                Node::leaf(Kind::Str, text)
            }
            Token::Int(text) => Node::leaf(Kind::Int, text),
            Token::Float(text) => Node::leaf(Kind::Const, text),
            Token::Name(name) => {
                let constant = matches!(name.as_str(), "true" | "false" | "none" | "True" | "False" | "None");
                Node::leaf(if constant { Kind::Const } else { Kind::Name }, name)
            }
            Token::Sign("(") => {
                if self.sign(")") {
                    return Ok(Node::leaf(Kind::List, ""));
                }
                let value = self.tuple()?;
                self.expect(")")?;
                value
            }
            Token::Sign("[") => {
                let list = self.list("]")?;
                Node::new(Kind::List, "", list)?
            }
            Token::Sign("{") => {
                let mut entries = Vec::new();
                while !self.sign("}") {
                    entries.push(self.expression()?);
                    self.expect(":")?;
                    entries.push(self.expression()?);
                    if !self.sign(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                Node::new(Kind::Dict, "", entries)?
            }
            Token::Sign(sign) => return Err(format!("{sign} is not expected there")),
        })
    }

    fn list(&mut self, close: &str) -> Result<Vec<Node>, String> {
        let mut out = Vec::new();
        while !self.sign(close) {
            out.push(self.expression()?);
            if !self.sign(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(out)
    }

    fn postfix(&mut self, mut value: Node) -> Result<Node, String> {
        loop {
            if self.sign(".") {
                let name = match self.tokens.next() {
                    Some(Token::Name(name) | Token::Int(name)) => name,
                    _ => return Err("a name is missing after a point".to_owned()),
                };
                value = Node::new(Kind::Attr, name, vec![value])?;
            } else if self.sign("[") {
                let mut children = vec![value];
                children.extend(self.slice()?);
                value = Node::new(Kind::Item, "", children)?;
            } else if matches!(self.tokens.peek(), Some(Token::Sign("("))) {
                let mut children = vec![value];
                children.extend(self.arguments()?);
                value = Node::new(Kind::Call, "", children)?;
            } else {
                return Ok(value);
            }
        }
    }

    /// An index, or the parts of a slice.
    fn slice(&mut self) -> Result<Vec<Node>, String> {
        let mut parts = Vec::new();
        while !self.sign("]") {
            if self.sign(":") || self.sign(",") {
                continue;
            }
            parts.push(self.expression()?);
        }
        Ok(parts)
    }

    /// Arguments in brackets, if there are brackets.
    fn arguments(&mut self) -> Result<Vec<Node>, String> {
        let mut out = Vec::new();
        if !self.sign("(") {
            return Ok(out);
        }
        while !self.sign(")") {
            while self.sign("*") || self.sign("**") {}
            let value = self.expression()?;
            let value = if value.kind == Kind::Name && self.sign("=") {
                Node::new(Kind::Named, value.text, vec![self.expression()?])?
            } else {
                value
            };
            out.push(value);
            if !self.sign(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(out)
    }

    fn filters_and_tests(&mut self, mut value: Node) -> Result<Node, String> {
        loop {
            if self.sign("|") {
                value = self.filters(Some(value))?;
            } else if self.word("is") {
                value = self.test(value)?;
            } else if matches!(self.tokens.peek(), Some(Token::Sign("." | "[" | "(")))
                && value.kind == Kind::Filter
            {
                value = self.postfix(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    /// A filter and those that follow it.
    fn filters(&mut self, mut value: Option<Node>) -> Result<Node, String> {
        loop {
            let name = self.name().ok_or("a filter without a name")?;
            let mut children: Vec<Node> = value.into_iter().collect();
            children.extend(self.arguments()?);
            let filter = Node::new(Kind::Filter, name, children)?;
            if !self.sign("|") {
                return Ok(filter);
            }
            value = Some(filter);
        }
    }

    fn test(&mut self, value: Node) -> Result<Node, String> {
        let negated = self.word("not");
        let name = match self.tokens.next() {
            Some(Token::Name(name)) => name,
            Some(Token::Sign(sign @ ("==" | "!=" | "<" | ">" | "<=" | ">="))) => sign.to_owned(),
            _ => return Err("a test without a name".to_owned()),
        };
        let mut children = vec![value];
        match self.tokens.peek() {
            Some(Token::Sign("(")) => children.extend(self.arguments()?),
            Some(Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Sign("[" | "{")) => {
                let argument = self.primary()?;
                children.push(self.postfix(argument)?);
            }
            Some(Token::Name(word))
                if !["and", "or", "if", "else", "is", "not", "in", "recursive"].contains(&word.as_str()) =>
            {
                let argument = self.primary()?;
                children.push(self.postfix(argument)?);
            }
            _ => {}
        }
        let test = Node::new(Kind::Test, name, children)?;
        if negated { Node::new(Kind::Unary, "not", vec![test]) } else { Ok(test) }
    }
}
