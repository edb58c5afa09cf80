//! Where the value of an expression comes from: messages, their words, the date, and decisions
//! that hang on these.

use super::look::Look;
use super::names::{COMPARING, CONTENT, MATCHERS, STRUCTURE, among};
use super::text::dotted;
use super::tree::{Kind, Node};

/// Where a value comes from.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    /// The list of messages, or a message.
    pub messages: bool,
    /// The words of a message.
    pub content: bool,
    pub date: bool,
    /// A word that the content was cut at or searched for.
    pub word: Option<String>,
    pub trigger: Option<Trigger>,
}

/// A decision that hangs on the words of a message, or on the date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trigger {
    /// What is looked for; of a date, how.
    pub what: String,
    pub control: bool,
}

impl Trigger {
    pub fn word(word: &str) -> Self {
        let markup = word.contains(['<', '>', '[', ']', '{', '}', '|']) || word.starts_with('/');
        Self {
            what: format!("messages hold {word:?}"),
            control: markup || !word.chars().any(char::is_alphabetic),
        }
    }
}

impl Origin {
    pub fn join(mut self, other: Self) -> Self {
        self.messages |= other.messages;
        self.content |= other.content;
        self.date |= other.date;
        self.word = self.word.or(other.word);
        // A plain word weighs more than a control word.
        self.trigger = match (self.trigger, other.trigger) {
            (Some(a), Some(b)) => Some(if a.control { b } else { a }),
            (a, b) => a.or(b),
        };
        self
    }

    pub fn only_trigger(self) -> Self {
        Self { trigger: self.trigger, ..Self::default() }
    }
}

impl Look {
    /// Where the value of an expression comes from.
    pub(super) fn origin(&self, node: &Node) -> Origin {
        let all = |from: usize| {
            node.children.iter().skip(from).fold(Origin::default(), |sum, child| sum.join(self.origin(child)))
        };
        match node.kind {
            Kind::Name => {
                let mut origin = self.variables.get(&node.text).cloned().unwrap_or_default();
                origin.messages |= node.text == "messages";
                origin
            }
            Kind::Attr => {
                if let Some(known) = dotted(node).and_then(|name| self.variables.get(&name)) {
                    return known.clone();
                }
                part_of(all(0), &node.text)
            }
            Kind::Item => {
                let origin = node.child(0).map(|base| self.origin(base)).unwrap_or_default();
                let name =
                    node.child(1).filter(|index| index.kind == Kind::Str).map_or("", |index| &index.text);
                part_of(origin, name).join(all(1).only_trigger())
            }
            Kind::Call => self.called(node),
            Kind::Filter => {
                let mut origin = all(0);
                let spoken =
                    ["string", "tojson", "map", "join", "pprint", "xmlattr", "urlencode", "list", "format"];
                origin.content |= origin.messages && spoken.contains(&node.text.as_str());
                if matches!(node.text.as_str(), "selectattr" | "rejectattr" | "select" | "reject")
                    && (origin.messages || origin.content)
                {
                    let about = node.child(1).is_some_and(|about| among(CONTENT, &about.text));
                    let words = node.children.iter().skip(3);
                    let word = words.flat_map(|word| self.strings(word)).find(|word| !word.trim().is_empty());
                    if let (true, Some(word)) = (about, word) {
                        origin.trigger = Some(Trigger::word(&word));
                    }
                }
                if matches!(node.text.as_str(), "replace" | "split") && origin.content {
                    origin.word = origin.word.or_else(|| self.word_in(node, 1));
                }
                origin
            }
            Kind::Test => {
                let origin = all(0);
                if among(COMPARING, &node.text) { self.compared(node, origin) } else { origin.only_trigger() }
            }
            Kind::Binary
                if matches!(node.text.as_str(), "==" | "!=" | "<" | ">" | "<=" | ">=" | "in" | "not in") =>
            {
                self.compared(node, all(0))
            }
            _ => all(0),
        }
    }

    fn called(&self, node: &Node) -> Origin {
        let origin = node.children.iter().fold(Origin::default(), |sum, child| sum.join(self.origin(child)));
        let Some(called) = node.child(0) else { return origin };
        if called.is(Kind::Name, "strftime_now") {
            return Origin { date: true, ..origin };
        }
        if called.kind == Kind::Attr && among(MATCHERS, &called.text) && (origin.content || origin.date) {
            let Some(word) = self.word_in(node, 1) else { return origin };
            if called.text.ends_with("with") {
                let what = Trigger { what: "the date is a certain one".to_owned(), control: false };
                let trigger = Some(if origin.content { Trigger::word(&word) } else { what });
                return Origin { trigger, ..Origin::default() };
            }
            return Origin { word: Some(word), ..origin };
        }
        origin
    }

    /// The first word among the arguments from `from` on.
    fn word_in(&self, node: &Node, from: usize) -> Option<String> {
        let arguments = node.children.iter().skip(from);
        arguments.flat_map(|argument| self.strings(argument)).find(|word| !word.trim().is_empty())
    }

    /// A comparison of what `origin` describes.
    fn compared(&self, node: &Node, origin: Origin) -> Origin {
        if origin.date {
            let what = "the date is a certain one".to_owned();
            return Origin { trigger: Some(Trigger { what, control: false }), ..Origin::default() };
        }
        let word = origin.word.clone().or_else(|| self.word_in(node, 0)).filter(|_| origin.content);
        let own = Origin { trigger: word.map(|word| Trigger::word(&word)), ..Origin::default() };
        own.join(origin.only_trigger())
    }

    /// Texts that an expression may be, or that are its elements.
    pub(super) fn strings(&self, node: &Node) -> Vec<String> {
        match node.kind {
            Kind::Str => vec![node.text.clone()],
            Kind::Name => self.words.get(&node.text).cloned().unwrap_or_default(),
            Kind::List | Kind::Binary | Kind::Filter | Kind::Unary | Kind::Choice | Kind::Named => {
                node.children.iter().flat_map(|child| self.strings(child)).take(64).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The part of a message or of its content that has this name.
fn part_of(mut origin: Origin, name: &str) -> Origin {
    if among(CONTENT, name) {
        origin.content |= origin.messages;
    } else if among(STRUCTURE, name) {
        origin.content = false;
    }
    origin
}
