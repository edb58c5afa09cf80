//! Where the value of an expression comes from: messages, their words, the date, and decisions
//! that hang on these.

use std::rc::Rc;

use super::look::Look;
use super::names::{COMPARING, CONTENT, MATCHERS, PARTS, SPEAKING, STRUCTURE, SWITCHES, among};
use super::text::{dotted, is_comparison};
use super::tree::{Kind, Node};

const DATE: &str = "the date is a certain one";
const CHANCE: &str = "chance has it so";
const COUNT: &str = "a conversation or a message has a certain length";
const FORM: &str = "a message is written in a certain way";
/// Honest templates tell the first messages from others, and the second from the third.
const FEW: u64 = 2;

/// A text that a template holds, under however many names.
pub(super) type Word = Rc<str>;

/// Where a value comes from.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    /// The list of messages, or a message.
    pub messages: bool,
    /// The words of a message.
    pub content: bool,
    /// What it hangs on outside of the conversation: the date, or chance.
    pub hangs: Option<&'static str>,
    /// How many messages there are, or which of them it is, or how long one is.
    pub count: bool,
    /// Is there a number in it that is more than a few?
    pub large: bool,
    /// Is it a number that was worked out from the date, from chance or from a length?
    pub reckoned: bool,
    /// Is it one part of a message, whatever value it had?
    pub part: bool,
    /// A word that the content was cut at or searched for.
    pub word: Option<String>,
    /// Was it cut or searched, rather than written otherwise?
    pub cut: bool,
    pub trigger: Option<Trigger>,
}

/// A decision that hangs on the words of a message, on the date, or on how far the conversation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trigger {
    /// What is looked for; of a date, how.
    pub what: String,
    /// The word that is looked for.
    pub word: String,
    pub weight: Weight,
}

/// Which texts may not hang on a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Several words, in however many pieces and wherever the template has them.
    Word,
    /// One text of several words, wherever the template has it.
    Reckoned,
    /// One text of several words on the spot: what honest templates look for, too.
    Control,
    /// The same, but it is only worth a note.
    Known,
}

impl Trigger {
    fn plain(what: &str) -> Self {
        Self { what: what.to_owned(), word: String::new(), weight: Weight::Word }
    }

    pub fn word(word: &str) -> Self {
        let markup = word.contains(['<', '>', '[', ']', '{', '}']);
        // Parts of a message have names, and of what kind one is says what is in it.
        let control = markup || among(PARTS, word) || !word.chars().any(char::is_alphabetic);
        Self {
            what: format!("messages hold {word:?}"),
            word: word.to_owned(),
            weight: match control {
                _ if among(SWITCHES, word.trim()) => Weight::Known,
                true => Weight::Control,
                false => Weight::Word,
            },
        }
    }

    /// How long a text is.
    pub fn length() -> Self {
        Self { weight: Weight::Reckoned, ..Self::plain(COUNT) }
    }

    pub fn is_control(&self) -> bool {
        matches!(self.weight, Weight::Control | Weight::Known)
    }
}

impl Origin {
    pub fn join(mut self, other: Self) -> Self {
        self.messages |= other.messages;
        self.content |= other.content;
        self.hangs = self.hangs.or(other.hangs);
        self.count |= other.count;
        self.large |= other.large;
        self.reckoned |= other.reckoned;
        self.part &= other.part;
        self.cut |= other.cut;
        self.word = self.word.or(other.word);
        // A plain word weighs more than a control word.
        self.trigger = match (self.trigger, other.trigger) {
            (Some(a), Some(b)) => Some(if a.is_control() { b } else { a }),
            (a, b) => a.or(b),
        };
        self
    }

    /// What a condition on it hangs on. A message that was cut at a control word is a message
    /// like any other.
    pub fn decides(&self) -> Option<Trigger> {
        let cut = || {
            self.word
                .as_deref()
                .filter(|_| self.cut)
                .map(Trigger::word)
                .filter(|trigger| !trigger.is_control())
        };
        self.trigger.clone().or_else(cut)
    }

    /// What a choice by it hangs on: of several texts, of a part of one, of how often it comes.
    pub fn chooses(&self) -> Option<Trigger> {
        let hangs = self.hangs.or((self.count && self.reckoned).then_some(COUNT))?;
        Some(Trigger { weight: Weight::Reckoned, ..Trigger::plain(hangs) })
    }

    /// What its being zero or not hangs on.
    pub fn counts(&self) -> Option<Trigger> {
        self.chooses().filter(|_| self.reckoned)
    }

    pub fn only_trigger(self) -> Self {
        Self { trigger: self.trigger, ..Self::default() }
    }
}

impl Look<'_> {
    /// Where the value of an expression comes from.
    pub(super) fn origin(&self, node: &Node) -> Origin {
        let all = |from: usize| {
            node.children.iter().skip(from).fold(Origin::default(), |sum, child| sum.join(self.origin(child)))
        };
        match node.kind {
            Kind::Name => {
                let mut origin = self.variables.get(&node.text).cloned().unwrap_or_default();
                origin.messages |= node.text == "messages";
                // What runtimes give to templates that do not ask for the date themselves.
                origin.hangs = origin.hangs.or((node.text == "date_string").then_some(DATE));
                origin
            }
            Kind::Attr => {
                if let Some(known) = dotted(node).and_then(|name| self.variables.get(&name)) {
                    return known.clone();
                }
                if node.child(0).is_some_and(|of| of.is(Kind::Name, "loop")) {
                    let count = matches!(
                        node.text.as_str(),
                        "index" | "index0" | "revindex" | "revindex0" | "length"
                    );
                    return Origin { count, ..Origin::default() };
                }
                part_of(all(0), &node.text)
            }
            Kind::Item => {
                let origin = node.child(0).map(|base| self.origin(base)).unwrap_or_default();
                let name =
                    node.child(1).filter(|index| index.kind == Kind::Str).map_or("", |index| &index.text);
                let mut part = part_of(origin.clone(), name).join(all(1).only_trigger());
                let known_as = node.child(1).filter(|index| index.kind == Kind::Name);
                let known_as = known_as.map(|name| self.strings(name)).unwrap_or_default();
                part.content |= origin.messages && known_as.iter().any(|name| among(CONTENT, name));
                part
            }
            Kind::Call => self.called(node),
            Kind::Filter => {
                let mut origin = all(0);
                let name = node.text.as_str();
                if name == "random" {
                    origin.hangs = Some(CHANCE);
                }
                origin.reckoned |= matches!(name, "int" | "float") && origin.hangs.is_some();
                if matches!(name, "length" | "count" | "wordcount") {
                    origin.count |= origin.messages || origin.content;
                    return origin;
                }
                origin.content |= origin.messages && among(SPEAKING, name);
                if name == "map" {
                    origin = self.mapped(node, origin);
                }
                if name == "groupby" && node.child(1).is_some_and(|by| among(CONTENT, &by.text)) {
                    origin.content |= origin.messages;
                }
                if matches!(name, "selectattr" | "rejectattr" | "select" | "reject")
                    && (origin.messages || origin.content)
                {
                    let by_attribute = name.ends_with("attr");
                    let about = if by_attribute {
                        node.child(1).is_some_and(|about| among(CONTENT, &about.text))
                    } else {
                        origin.content && node.child(1).is_some_and(|test| among(COMPARING, &test.text))
                    };
                    let word = self.word_in(node, if by_attribute { 3 } else { 2 });
                    if let (true, Some(word)) = (about, word) {
                        origin.trigger = Some(Trigger::word(&word));
                    }
                }
                if matches!(name, "replace" | "split") && origin.content {
                    origin.word = origin.word.or_else(|| self.word_in(node, 1));
                    origin.cut |= name == "split";
                }
                origin
            }
            Kind::Test => {
                let origin = all(0);
                match node.text.as_str() {
                    test if among(COMPARING, test) => self.compared(node, origin),
                    "upper" | "lower" if origin.content => {
                        Origin { trigger: Some(Trigger::plain(FORM)), ..Origin::default() }
                    }
                    "odd" | "even" | "divisibleby" if origin.hangs.is_some() => {
                        Origin { trigger: origin.hangs.map(Trigger::plain), ..Origin::default() }
                    }
                    _ => Origin { trigger: origin.decides(), ..Origin::default() },
                }
            }
            Kind::Int => Origin {
                large: node.text.parse::<u64>().is_ok_and(|number| number > FEW),
                ..Origin::default()
            },
            Kind::Binary if is_comparison(&node.text) => self.compared(node, all(0)),
            Kind::Binary if matches!(node.text.as_str(), "+" | "-" | "*" | "/" | "//" | "**") => {
                let mut origin = all(0);
                let hangs = origin.hangs.is_some() && node.text != "+";
                origin.reckoned |= hangs || origin.count && origin.large;
                origin
            }
            // Put together with a text, a message is its words.
            Kind::Binary if matches!(node.text.as_str(), "~" | "%") => {
                let mut origin = all(0);
                origin.content |= origin.messages;
                origin.reckoned |= node.text == "%" && origin.count && origin.large;
                origin
            }
            _ => all(0),
        }
    }

    /// Some of every message, by a name that may be written out.
    fn mapped(&self, node: &Node, mut origin: Origin) -> Origin {
        match node.child(1) {
            Some(by) if by.is(Kind::Named, "attribute") => {
                let name =
                    by.child(0).filter(|name| name.kind == Kind::Str).map_or("content", |name| &name.text);
                origin.content |= origin.messages;
                part_of(origin, name)
            }
            by => {
                origin.content |= origin.messages;
                origin.count |=
                    origin.content && by.is_some_and(|by| among("length count wordcount", &by.text));
                origin
            }
        }
    }

    fn called(&self, node: &Node) -> Origin {
        let mut origin =
            node.children.iter().fold(Origin::default(), |sum, child| sum.join(self.origin(child)));
        let Some(called) = node.child(0) else { return origin };
        if called.is(Kind::Name, "strftime_now") {
            return Origin { hangs: Some(DATE), ..origin };
        }
        if called.kind == Kind::Name
            && let Some(given) = self.given_back.get(called.text.as_str())
        {
            origin = origin.join(given.clone());
        }
        if called.kind == Kind::Attr {
            if let ("get" | "pop", Some(name)) = (called.text.as_str(), node.child(1))
                && name.kind == Kind::Str
            {
                return part_of(origin, &name.text);
            }
            origin.content |= origin.messages && among(SPEAKING, &called.text);
            if called.text.starts_with("is") && origin.content {
                return Origin { trigger: Some(Trigger::plain(FORM)), ..Origin::default() };
            }
        }
        if called.kind == Kind::Attr
            && among(MATCHERS, &called.text)
            && (origin.content || origin.hangs.is_some())
        {
            let Some(word) = self.word_in(node, 1) else { return origin };
            if called.text.ends_with("with") {
                let outside = origin.hangs.filter(|_| !origin.content).map(Trigger::plain);
                let trigger = outside.or_else(|| Some(Trigger::word(&word)));
                return Origin { trigger, ..Origin::default() };
            }
            return Origin { word: Some(word), cut: origin.cut || called.text != "replace", ..origin };
        }
        origin
    }

    /// The first word among the arguments from `from` on.
    fn word_in(&self, node: &Node, from: usize) -> Option<String> {
        first_of(node.children.iter().skip(from).flat_map(|argument| self.strings(argument)))
    }

    /// A comparison of what `origin` describes.
    fn compared(&self, node: &Node, origin: Origin) -> Origin {
        if let Some(hangs) = origin.hangs {
            return Origin { trigger: Some(Trigger::plain(hangs)), ..Origin::default() };
        }
        if origin.count && has_large_number(node) {
            return Origin { trigger: Some(Trigger::plain(COUNT)), ..Origin::default() };
        }
        // What is compared is not what it is compared with.
        let with = node.children.iter().filter(|side| !self.origin(side).content);
        let word = first_of(with.flat_map(|side| self.strings(side)));
        let word = word.or_else(|| origin.word.clone()).filter(|_| origin.content);
        let mut trigger = word.map(|word| Trigger::word(&word));
        let in_part = node.children.iter().any(|side| self.origin(side).part);
        if let Some(trigger) = trigger.as_mut().filter(|trigger| in_part && among(PARTS, &trigger.word)) {
            trigger.weight = Weight::Known;
        }
        let own = Origin { trigger, ..Origin::default() };
        own.join(Origin { trigger: origin.decides(), ..Origin::default() })
    }

    /// Texts that an expression may be, or that are its elements or parts.
    pub(super) fn strings(&self, node: &Node) -> Vec<Word> {
        let of = |nodes: &[Node]| -> Vec<Word> {
            nodes.iter().flat_map(|node| self.strings(node)).take(64).collect()
        };
        match (node.kind, node.children.as_slice()) {
            (Kind::Str | Kind::Text, _) => vec![node.text.as_str().into()],
            (Kind::Name, _) => self.words.get(&node.text).cloned().unwrap_or_default(),
            (Kind::Attr, [of]) => {
                let words = dotted(node).and_then(|name| self.words.get(&name).cloned());
                words.unwrap_or_else(|| self.strings(of))
            }
            // Nothing is in a part that is not in the whole.
            (Kind::Item, [whole, ..]) => self.strings(whole),
            (Kind::Filter, children) if matches!(node.text.as_str(), "default" | "d") => of(children),
            (Kind::Call, [called, arguments @ ..]) if called.is(Kind::Name, "namespace") => of(arguments),
            // What is made of a text may be made of the other texts, too.
            (Kind::Filter | Kind::Call, [from, by @ ..]) => {
                let mut texts = self.strings(from);
                if !texts.is_empty() {
                    texts.extend(of(by));
                }
                texts
            }
            (Kind::Test, _) => Vec::new(),
            (_, children) => of(children),
        }
    }
}

/// The first of several words that is more than a space, and of that the beginning.
pub(super) fn first_of(mut words: impl Iterator<Item = Word>) -> Option<String> {
    const LONGEST: usize = 128;
    let word = words.find(|word| !word.trim().is_empty())?;
    Some(word.chars().take(LONGEST).collect())
}

/// Is there a number that says more than which message is the first, the second, the last?
fn has_large_number(node: &Node) -> bool {
    let mut large = false;
    node.each(&mut |node| {
        large |= node.kind == Kind::Int && node.text.parse::<u64>().is_ok_and(|number| number > FEW)
    });
    large
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
