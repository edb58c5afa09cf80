//! From tokens to the tree of an expression, as Jinja2 reads it: precedence of operators, tests
//! and filters that bind more tightly than operators.

use super::lex::Token;
use super::tree::{Kind, Node};

/// Brackets and blocks within each other.
pub(super) const NESTING: usize = 60;

/// The tokens of one expression or statement.
pub(super) struct Words {
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
    pub fn new(tokens: Vec<Token>) -> Self {
        Self { tokens: tokens.into_iter().peekable(), nesting: 0 }
    }

    pub fn at_end(&mut self) -> bool {
        self.tokens.peek().is_none()
    }

    pub fn done(&mut self) -> Result<(), String> {
        match self.tokens.peek() {
            None => Ok(()),
            Some(token) => Err(format!("{token:?} is not expected there")),
        }
    }

    pub fn name(&mut self) -> Option<String> {
        match self.tokens.next_if(|token| matches!(token, Token::Name(_))) {
            Some(Token::Name(name)) => Some(name),
            _ => None,
        }
    }

    pub fn word(&mut self, word: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Name(name) if name == word)).is_some()
    }

    pub fn sign(&mut self, sign: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Sign(other) if *other == sign)).is_some()
    }

    pub fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.sign(sign) { Ok(()) } else { Err(format!("{sign} is missing")) }
    }

    /// A name, several with commas, or `name.attribute`.
    pub fn target(&mut self) -> Result<String, String> {
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
    pub fn tuple(&mut self) -> Result<Node, String> {
        let first = self.expression()?;
        self.more(first)
    }

    pub fn tuple_without_choice(&mut self) -> Result<Node, String> {
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

    pub fn expression(&mut self) -> Result<Node, String> {
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
                let text = self.slice(&mut children)?;
                value = Node::new(Kind::Item, text, children)?;
            } else if matches!(self.tokens.peek(), Some(Token::Sign("("))) {
                let mut children = vec![value];
                children.extend(self.arguments()?);
                value = Node::new(Kind::Call, "", children)?;
            } else {
                return Ok(value);
            }
        }
    }

    /// An index, or the parts of a slice; `:` for a slice.
    fn slice(&mut self, parts: &mut Vec<Node>) -> Result<&'static str, String> {
        let mut text = "";
        while !self.sign("]") {
            if self.sign(":") || self.sign(",") {
                text = ":";
                continue;
            }
            parts.push(self.expression()?);
        }
        Ok(text)
    }

    /// Arguments in brackets, if there are brackets.
    fn arguments(&mut self) -> Result<Vec<Node>, String> {
        let mut out = Vec::new();
        if !self.sign("(") {
            return Ok(out);
        }
        while !self.sign(")") {
            let many = ["*", "**"].into_iter().find(|sign| self.sign(sign));
            let value = self.expression()?;
            out.push(match many {
                Some(sign) => Node::new(Kind::Many, sign, vec![value])?,
                None if value.kind == Kind::Name && self.sign("=") => {
                    Node::new(Kind::Named, value.text, vec![self.expression()?])?
                }
                None => value,
            });
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
                value = self.filters(value)?;
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

    /// A filter of a value, and those that follow it.
    pub fn filters(&mut self, mut value: Node) -> Result<Node, String> {
        loop {
            let name = self.name().ok_or("a filter without a name")?;
            let mut children = vec![value];
            children.extend(self.arguments()?);
            value = Node::new(Kind::Filter, name, children)?;
            if !self.sign("|") {
                return Ok(value);
            }
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
