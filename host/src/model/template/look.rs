//! What a template would do, from its tree.
//!
//! Values are followed by where they come from: the text of messages, the date, and
//! decisions that hang on either. Names have no scope here: what any assignment gives a
//! variable, it has everywhere. Words in angle or square brackets and those that begin with
//! a slash are control words, which honest templates do look for.

use std::collections::{BTreeMap, BTreeSet};

use super::origin::{Origin, Trigger};
use super::text::{dotted, grows, own_texts, start_of, words_of};
use super::tree::{Kind, Node};
use crate::model::finding::Code;

/// Passes over the tree, so that what is set late in a loop counts early in it.
const PASSES: usize = 3;
/// Words of prose that a condition on content may not decide about.
const PROSE_WORDS: usize = 4;
/// Texts that a variable is known to hold.
const KNOWN_WORDS: usize = 64;
/// Rounds of a loop, numbers in a template, and what nested loops may multiply to.
const ROUNDS: u128 = 100_000;

/// Everything found, each thing once.
pub(super) fn look(tree: &Node) -> BTreeSet<(Code, String)> {
    let mut look = Look::default();
    tree.each(&mut |node| {
        if node.kind == Kind::Macro {
            let mut names = node.text.split(',').map(str::to_owned);
            let name = names.next().unwrap_or_default();
            look.macros.insert(name, names.collect());
        }
    });
    for _ in 0..PASSES {
        look.found.clear();
        look.visit(tree, &Around { trigger: None, rounds: 1, called: None });
    }
    look.endless_macros();
    look.own_text(tree);
    look.found
}

/// What a statement stands in.
#[derive(Clone)]
struct Around<'a> {
    trigger: Option<Trigger>,
    /// Rounds of the loops around it, as far as they are numbers.
    rounds: u128,
    /// The macro it is in, unless a condition is in between.
    called: Option<&'a str>,
}

#[derive(Default)]
pub(super) struct Look {
    pub(super) variables: BTreeMap<String, Origin>,
    /// Words that a variable may hold.
    pub(super) words: BTreeMap<String, Vec<String>>,
    numbers: BTreeMap<String, u128>,
    /// Parameters of every macro.
    macros: BTreeMap<String, Vec<String>>,
    /// Which macros every call of a macro calls.
    calls: BTreeSet<(String, String)>,
    found: BTreeSet<(Code, String)>,
}

impl Look {
    fn push(&mut self, code: Code, what: impl Into<String>) {
        self.found.insert((code, what.into()));
    }

    /// Statements: assignments, conditions, loops.
    fn visit(&mut self, node: &Node, around: &Around<'_>) {
        match node.kind {
            Kind::Set => {
                let mut origin =
                    node.children.iter().fold(Origin::default(), |sum, value| sum.join(self.origin(value)));
                origin.trigger = origin.trigger.or_else(|| around.trigger.clone());
                for name in node.text.split(',') {
                    self.assign(name, origin.clone());
                }
                let words: Vec<String> = node.children.iter().flat_map(|value| self.strings(value)).collect();
                self.learn(&node.text, words);
                if let Some(number) = node.child(0).and_then(|value| self.number(value)) {
                    let known = self.numbers.entry(node.text.clone()).or_default();
                    *known = number.max(*known);
                }
                if around.rounds > 1 && node.child(0).is_some_and(|value| grows(value, &node.text)) {
                    self.push(
                        Code::TemplateEndless,
                        format!("doubles {} in every round of a loop", node.text),
                    );
                }
                self.expressions(node, around);
            }
            Kind::If => {
                let conditions = node.children.iter().filter(|branch| branch.children.len() > 1);
                let origin = conditions
                    .filter_map(|branch| branch.child(0))
                    .fold(Origin::default(), |sum, condition| sum.join(self.origin(condition)));
                self.triggered(origin.trigger.as_ref(), node);
                let trigger = origin.trigger.or_else(|| around.trigger.clone());
                let inside = Around { trigger, called: None, ..around.clone() };
                node.children.iter().for_each(|branch| self.visit(branch, &inside));
            }
            Kind::For => self.repeat(node, around),
            Kind::Macro => {
                let name = node.text.split(',').next().unwrap_or_default();
                let inside = Around { trigger: None, rounds: 1, called: Some(name) };
                node.children.iter().for_each(|child| self.visit(child, &inside));
            }
            Kind::Body | Kind::Branch | Kind::Block | Kind::CallBlock => {
                node.children.iter().for_each(|child| self.visit(child, around));
            }
            _ => self.expressions(node, around),
        }
    }

    /// Notes what a variable may hold; a few dozen texts will do.
    fn learn(&mut self, name: &str, words: Vec<String>) {
        let known = self.words.entry(name.to_owned()).or_default();
        let new: Vec<String> = words.into_iter().filter(|word| !known.contains(word)).collect();
        known.extend(new.into_iter().take(KNOWN_WORDS.saturating_sub(known.len())));
    }

    fn assign(&mut self, name: &str, origin: Origin) {
        let known = self.variables.remove(name).unwrap_or_default();
        self.variables.insert(name.to_owned(), known.join(origin));
    }

    fn repeat(&mut self, node: &Node, around: &Around<'_>) {
        let [over, condition, rest @ ..] = node.children.as_slice() else { return };
        let origin = self.origin(over).join(self.origin(condition).only_trigger());
        self.triggered(origin.trigger.as_ref(), node);
        let words = self.strings(over);
        for name in node.text.split(',') {
            self.assign(name, Origin { trigger: None, ..origin.clone() });
            self.learn(name, words.clone());
        }
        let rounds = self.rounds(over);
        let total = around.rounds.saturating_mul(rounds.unwrap_or(1));
        if total > ROUNDS {
            self.push(Code::TemplateEndless, format!("goes round a loop {total} times"));
        }
        self.expressions(over, around);
        self.expressions(condition, around);
        // Over messages: more than once, however often.
        let rounds = if rounds.is_none() { total.max(2) } else { total };
        let trigger = origin.trigger.or_else(|| around.trigger.clone());
        let inside = Around { trigger, rounds, called: None };
        rest.iter().for_each(|body| self.visit(body, &inside));
    }

    /// How often a loop over a range or a list goes round; `None` if that depends.
    fn rounds(&self, over: &Node) -> Option<u128> {
        match over.kind {
            Kind::List => Some(over.children.len() as u128),
            Kind::Call if over.child(0).is_some_and(|called| called.is(Kind::Name, "range")) => {
                let numbers: Vec<u128> =
                    over.children.iter().skip(1).map(|node| self.number(node)).collect::<Option<_>>()?;
                Some(match numbers.as_slice() {
                    [end] => *end,
                    [start, end] => end.saturating_sub(*start),
                    [start, end, step, ..] => end.saturating_sub(*start) / (*step).max(1),
                    [] => 0,
                })
            }
            Kind::Filter => self.rounds(over.child(0)?),
            _ => None,
        }
    }

    /// The value of a number, as far as it can be worked out; huge ones saturate.
    fn number(&self, node: &Node) -> Option<u128> {
        let of = |place: usize| self.number(node.child(place)?);
        match (node.kind, node.text.as_str()) {
            (Kind::Int, digits) => Some(digits.parse().unwrap_or(u128::MAX)),
            (Kind::Name, name) => self.numbers.get(name).copied(),
            (Kind::Attr, _) => self.numbers.get(&dotted(node)?).copied(),
            (Kind::Binary, "+") => Some(of(0)?.saturating_add(of(1)?)),
            (Kind::Binary, "*") => Some(of(0)?.saturating_mul(of(1)?)),
            (Kind::Binary, "**") => Some(of(0)?.saturating_pow(u32::try_from(of(1)?).unwrap_or(u32::MAX))),
            (Kind::Filter, "int") => node
                .child(0)
                .filter(|text| text.kind == Kind::Str)
                .and_then(|text| text.text.trim().parse().ok()),
            _ => None,
        }
    }

    /// Expressions within a statement: choices on triggers, calls of macros, huge numbers.
    fn expressions(&mut self, node: &Node, around: &Around<'_>) {
        match node.kind {
            Kind::Choice => {
                let origin = node.child(0).map(|condition| self.origin(condition)).unwrap_or_default();
                self.triggered(origin.trigger.as_ref(), node);
                let inside = Around { called: None, ..around.clone() };
                node.children.iter().for_each(|child| self.expressions(child, &inside));
                return;
            }
            Kind::Binary if matches!(node.text.as_str(), "and" | "or") => {
                let origin = self.origin(node);
                self.triggered(origin.trigger.as_ref(), node);
            }
            Kind::Item => {
                if let [table, index, ..] = node.children.as_slice()
                    && table.kind == Kind::Dict
                    && self.origin(index).content
                {
                    self.lookup(table);
                }
            }
            Kind::Call => {
                if let Some(called) = node.child(0).filter(|called| called.kind == Kind::Name) {
                    let arguments = node.children.iter().skip(1);
                    if let Some(parameters) = self.macros.get(&called.text).cloned() {
                        for (argument, name) in arguments.zip(parameters) {
                            let origin = self.origin(argument);
                            self.assign(&name, origin);
                        }
                        if let Some(caller) = around.called {
                            self.calls.insert((caller.to_owned(), called.text.clone()));
                        }
                    }
                }
                if let [called, key, ..] = node.children.as_slice()
                    && called.kind == Kind::Attr
                    && called.text == "get"
                    && let Some(table) = called.child(0).filter(|table| table.kind == Kind::Dict)
                    && self.origin(key).content
                {
                    self.lookup(table);
                }
            }
            Kind::Binary if node.text == "*" || node.text == "**" => {
                let huge = |node: &Node| self.number(node).is_some_and(|number| number > ROUNDS);
                if huge(node) || node.children.iter().any(huge) {
                    self.push(Code::TemplateEndless, "makes something enormous by multiplication");
                }
            }
            Kind::Filter if self.pads(node) => {
                self.push(Code::TemplateEndless, format!("makes something enormous with {}", node.text));
            }
            _ => {}
        }
        node.children.iter().for_each(|child| match child.kind {
            Kind::Body => self.visit(child, around),
            _ => self.expressions(child, around),
        });
    }

    /// Is it a filter that makes its text as long as a huge number says?
    fn pads(&self, node: &Node) -> bool {
        matches!(node.text.as_str(), "center" | "indent" | "wordwrap" | "batch" | "slice")
            && node
                .children
                .iter()
                .skip(1)
                .any(|node| self.number(node).is_some_and(|number| number > ROUNDS))
    }

    /// A table of texts, looked up by the words of a message.
    fn lookup(&mut self, table: &Node) {
        let key = table.child(0).map(|key| key.text.clone()).unwrap_or_default();
        self.triggered(Some(&Trigger::word(&key)), table);
    }

    /// Text that hangs on a trigger.
    fn triggered(&mut self, trigger: Option<&Trigger>, node: &Node) {
        let Some(trigger) = trigger else { return };
        let mut texts = Vec::new();
        own_texts(node, &mut texts);
        let Some(text) = texts.iter().find(|text| words_of(text) >= PROSE_WORDS) else { return };
        let code = if trigger.control { Code::TemplateControlWord } else { Code::TemplateTrigger };
        self.push(code, format!("adds text when {}: {:?}", trigger.what, start_of(text)));
    }

    /// Macros that come back to themselves whatever happens: those that call nothing are taken
    /// away, then those that call only what was taken away; what is left goes round.
    fn endless_macros(&mut self) {
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        let mut callers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (caller, called) in &self.calls {
            *open.entry(caller).or_default() += 1;
            open.entry(called).or_default();
            callers.entry(called).or_default().push(caller);
        }
        let mut done: Vec<&str> =
            open.iter().filter(|(_, calls)| **calls == 0).map(|(name, _)| *name).collect();
        while let Some(name) = done.pop() {
            open.remove(name);
            for caller in callers.get(name).into_iter().flatten() {
                if let Some(calls) = open.get_mut(caller) {
                    *calls -= 1;
                    if *calls == 0 {
                        done.push(caller);
                    }
                }
            }
        }
        if let Some(name) = open.keys().next().map(|name| start_of(name)) {
            self.push(Code::TemplateEndless, format!("has a macro {name} that calls itself without end"));
        }
    }

    /// Prose at the top level behind the messages: honest templates end with a marker.
    fn own_text(&mut self, tree: &Node) {
        let loops = tree.children.iter().rposition(|node| node.kind == Kind::For);
        let Some(last) = loops else { return };
        for node in
            tree.children.iter().skip(last + 1).filter(|node| matches!(node.kind, Kind::Text | Kind::Output))
        {
            let mut texts = Vec::new();
            own_texts(node, &mut texts);
            if let Some(text) = texts.iter().find(|text| words_of(text) >= 3) {
                self.push(
                    Code::TemplateOwnText,
                    format!("adds text of its own behind the messages: {:?}", start_of(text)),
                );
            }
        }
    }
}
