//! What a template would do, from its tree.
//!
//! Values are followed by where they come from: the text of messages, the date, and
//! decisions that hang on either. Names have no scope here: what any assignment gives a
//! variable, it has everywhere. Words in brackets, names of parts of a message and the switches
//! of some models are control words, which honest templates do look for: what they add says
//! whether they are, so a single text of several words or one that does something is enough.

use std::collections::{BTreeMap, BTreeSet};

use super::Found;
use super::names::{MUTATING, among};
use super::origin::{Origin, Trigger, Weight, Word, first_of};
use super::payload::{is_disguised, is_payload, is_trusted_role};
use super::text::{PROSE_WORDS, dotted, own_texts, repeats, shown, start_of, words_added, words_of};
use super::tree::{Kind, Node};
use crate::domain::budget;
use crate::model::finding::Code;

/// Passes over the tree, so that what is set late in a loop counts early in it.
const PASSES: usize = 3;
/// Words that a single text may not have, if a plain word decides about it.
const TEXT_WORDS: usize = 3;
/// Bytes of a text that are looked at as fast as a name.
const TEXT_BYTES: usize = 8;
/// Texts that a variable is known to hold.
const KNOWN_WORDS: usize = 64;

/// Everything found, each thing once.
pub(super) fn look(tree: &Node) -> Found {
    let mut look = Look::default();
    tree.each(&mut |node| {
        if node.kind == Kind::Macro {
            look.macros.insert(node.text.split(',').next().unwrap_or_default(), node);
        }
        if matches!(node.kind, Kind::Text | Kind::Str) {
            if is_payload(&node.text) {
                look.payloads.insert(&node.text);
            } else if is_disguised(&node.text) {
                look.disguised.insert(&node.text);
            }
        }
    });
    for _ in 0..PASSES {
        look.found.clear();
        look.visit(tree, &Around::default());
    }
    if look.looked_at > budget::TEMPLATE_STEPS {
        look.push(Code::TemplateUnread, "is too entangled to be followed to its end");
    }
    look.own_text(tree);
    look.found
}

/// What a statement stands in.
#[derive(Clone, Default)]
struct Around<'a> {
    trigger: Option<Trigger>,
    /// The macro that it is a part of.
    called: Option<&'a str>,
}

#[derive(Default)]
pub(super) struct Look<'a> {
    pub(super) variables: BTreeMap<String, Origin>,
    /// Words that a variable may hold.
    pub(super) words: BTreeMap<String, Vec<Word>>,
    macros: BTreeMap<&'a str, &'a Node>,
    /// Texts of the template that do something, or that are more than they look like.
    payloads: BTreeSet<&'a str>,
    disguised: BTreeSet<&'a str>,
    /// What hangs on a trigger in what a macro gives.
    pub(super) given_back: BTreeMap<&'a str, Origin>,
    /// Steps of the search for texts that hang on a trigger.
    looked_at: usize,
    found: Found,
}

impl<'a> Look<'a> {
    fn push(&mut self, code: Code, what: impl Into<String>) {
        self.found.insert((code, what.into()));
    }

    /// Statements: assignments, conditions, loops.
    fn visit(&mut self, node: &'a Node, around: &Around<'a>) {
        match node.kind {
            Kind::Set => {
                let mut origin =
                    node.children.iter().fold(Origin::default(), |sum, value| sum.join(self.origin(value)));
                self.chosen(origin.decides().as_ref(), node);
                origin.trigger = origin.trigger.or_else(|| around.trigger.clone());
                for name in node.text.split(',') {
                    self.assign(name, origin.clone());
                }
                let words: Vec<Word> = node.children.iter().flat_map(|value| self.strings(value)).collect();
                node.text.split(',').for_each(|name| self.learn(name, words.clone()));
                self.expressions(node, around);
            }
            Kind::If => {
                let origin = self.condition(node);
                self.triggered(origin.decides().or_else(|| origin.counts()).as_ref(), node);
                let trigger = origin.decides().or_else(|| around.trigger.clone());
                let inside = Around { trigger, ..around.clone() };
                node.children.iter().for_each(|branch| self.visit(branch, &inside));
            }
            Kind::For => self.repeat(node, around),
            Kind::Macro => {
                let inside = Around { trigger: None, called: node.text.split(',').next() };
                node.children.iter().for_each(|child| self.visit(child, &inside));
            }
            Kind::Body => self.statements(node, around),
            Kind::Branch | Kind::Block | Kind::CallBlock => {
                if let (Kind::CallBlock, [called, body, ..]) = (node.kind, node.children.as_slice()) {
                    self.chosen(self.origin(called).decides().as_ref(), body);
                }
                node.children.iter().for_each(|child| self.visit(child, around));
            }
            Kind::Text | Kind::Output => {
                let origin =
                    node.children.iter().fold(Origin::default(), |sum, value| sum.join(self.origin(value)));
                self.chosen(origin.decides().as_ref(), node);
                let trigger = origin.decides().or_else(|| around.trigger.clone());
                let trigger = trigger.filter(|trigger| !trigger.is_control());
                if let (Some(called), Some(_)) = (around.called, &trigger) {
                    let known = self.given_back.remove(called).unwrap_or_default();
                    self.given_back.insert(called, known.join(Origin { trigger, ..Origin::default() }));
                }
                self.expressions(node, around);
            }
            _ => self.expressions(node, around),
        }
    }

    /// What the conditions of all branches hang on.
    fn condition(&self, node: &Node) -> Origin {
        let conditions = node.children.iter().filter(|branch| branch.children.len() > 1);
        let conditions = conditions.filter_map(|branch| branch.child(0));
        conditions.fold(Origin::default(), |sum, condition| sum.join(self.origin(condition)))
    }

    /// Statements in order. What comes after a conditional jump hangs on its condition.
    fn statements(&mut self, body: &'a Node, around: &Around<'a>) {
        let mut around = around.clone();
        let mut jumped = None;
        for statement in &body.children {
            self.triggered(jumped.as_ref(), statement);
            self.visit(statement, &around);
            if statement.kind == Kind::If && jumps(statement) {
                let trigger = self.condition(statement).decides();
                jumped = jumped.or(trigger.filter(|trigger| !trigger.is_control()));
                around.trigger = jumped.clone().or(around.trigger);
            }
        }
    }

    /// Notes what a variable may hold; a few dozen texts will do.
    fn learn(&mut self, name: &str, words: Vec<Word>) {
        if self.looked_at > budget::TEMPLATE_STEPS {
            return;
        }
        let known = self.words.entry(name.to_owned()).or_default();
        for word in words {
            if known.len() < KNOWN_WORDS && !known.contains(&word) {
                known.push(word);
                self.looked_at += 1;
            }
        }
    }

    fn assign(&mut self, name: &str, origin: Origin) {
        let mut origin = match self.variables.remove(name) {
            Some(known) => known.join(origin),
            None => origin,
        };
        // What is kept of a message after a control word was found in it hangs on that for ever.
        if let Some(trigger) = origin.trigger.as_mut().filter(|trigger| trigger.is_control())
            && (origin.content || origin.messages)
        {
            trigger.weight = Weight::Known;
        }
        self.variables.insert(name.to_owned(), origin);
    }

    fn repeat(&mut self, node: &'a Node, around: &Around<'a>) {
        let [over, condition, rest @ ..] = node.children.as_slice() else { return };
        let origin = self.origin(over).join(self.origin(condition).only_trigger());
        self.triggered(origin.decides().or_else(|| self.rounds(over)).as_ref(), node);
        let words = self.strings(over);
        // Names of fields are no words of a message.
        let fields = names_fields(over) && node.text.contains(',');
        for (place, name) in node.text.split(',').enumerate() {
            let content = origin.content && !(fields && place == 0);
            let part = matches!(over.kind, Kind::Attr | Kind::Item) && content;
            self.assign(name, Origin { trigger: None, content, part, ..origin.clone() });
            self.learn(name, words.clone());
        }
        self.expressions(over, around);
        self.expressions(condition, around);
        let trigger = origin.decides().or_else(|| around.trigger.clone());
        let inside = Around { trigger, ..around.clone() };
        rest.iter().for_each(|body| self.visit(body, &inside));
    }

    /// What hangs the number of rounds over a range on more than how long the conversation is.
    fn rounds(&self, over: &Node) -> Option<Trigger> {
        let mut found = None;
        over.each(&mut |node| {
            if node.kind == Kind::Call && node.child(0).is_some_and(|called| called.is(Kind::Name, "range")) {
                found = found.take().or_else(|| self.origin(node).chooses());
            }
        });
        found
    }

    /// Expressions within a statement: choices on triggers, calls of macros, tables.
    fn expressions(&mut self, node: &'a Node, around: &Around<'a>) {
        match (node.kind, node.children.as_slice()) {
            (Kind::Choice, [condition, ..]) => {
                let origin = self.origin(condition);
                self.triggered(origin.decides().or_else(|| origin.counts()).as_ref(), node);
            }
            (Kind::Binary, [left, _]) if matches!(node.text.as_str(), "and" | "or") => {
                let counts = || self.origin(left).counts();
                let trigger = self.origin(node).decides().or_else(counts);
                self.triggered(trigger.as_ref(), node);
            }
            (Kind::Binary, [_, by]) if node.text == "*" && by.kind != Kind::Int => {
                let chooses = self.origin(node).chooses();
                self.triggered(chooses.as_ref(), node);
            }
            (Kind::Item, [table, indices @ ..]) => {
                indices.iter().for_each(|index| self.lookup(table, index));
            }
            (Kind::Filter, [list, ..]) if node.text == "random" => {
                let chooses = self.origin(node).chooses();
                self.triggered(chooses.as_ref(), list);
            }
            (Kind::Filter, [of, ends @ ..]) if node.text == "truncate" && self.origin(of).content => {
                let trigger = Trigger::length();
                ends.iter().for_each(|end| self.triggered(Some(&trigger), end));
            }
            (Kind::Filter, [of, word, by, ..]) if node.text == "replace" => self.replaced(of, word, by),
            (Kind::Call, [called, arguments @ ..]) => self.call(called, arguments, around),
            _ => {}
        }
        node.children.iter().for_each(|child| match child.kind {
            Kind::Body => self.visit(child, around),
            _ => self.expressions(child, around),
        });
    }

    fn call(&mut self, called: &'a Node, arguments: &'a [Node], around: &Around<'a>) {
        let name = called.text.as_str();
        match (called.kind, called.children.as_slice(), arguments) {
            (Kind::Name, ..) => {
                let Some(found) = self.macros.get(name).copied() else { return };
                for (argument, parameter) in arguments.iter().zip(found.text.split(',').skip(1)) {
                    let origin = self.origin(argument);
                    let parameter = if argument.kind == Kind::Named { &argument.text } else { parameter };
                    self.assign(parameter, origin);
                    let words = self.strings(argument);
                    self.learn(parameter, words);
                }
            }
            (Kind::Attr, [table], [key, ..]) if name == "get" => self.lookup(table, key),
            (Kind::Attr, [of], [word, by, ..]) if name == "replace" => self.replaced(of, word, by),
            (Kind::Attr, [of], _) if among(MUTATING, name) => {
                let Some(list) = dotted(of) else { return };
                let origin =
                    arguments.iter().fold(Origin::default(), |sum, value| sum.join(self.origin(value)));
                let trigger = origin.trigger.clone().or_else(|| around.trigger.clone());
                self.assign(&list, Origin { trigger, ..origin });
                let words = arguments.iter().flat_map(|value| self.strings(value)).collect();
                self.learn(&list, words);
            }
            _ => {}
        }
    }

    /// A table of texts, looked up by the words of a message or by a decision on them.
    fn lookup(&mut self, table: &'a Node, index: &Node) {
        let origin = self.origin(index);
        if origin.content && (table.kind == Kind::Dict || !self.origin(table).messages) {
            let key = first_of(self.strings(table).into_iter()).unwrap_or_default();
            let trigger =
                Some(Trigger::word(&key)).filter(|trigger| !trigger.is_control() || table.kind == Kind::Dict);
            self.triggered(trigger.as_ref(), table);
        }
        self.chosen(origin.trigger.as_ref(), table);
        let chooses = origin.chooses().filter(|_| !self.origin(table).messages);
        self.triggered(chooses.as_ref(), table);
    }

    /// A word of a message that another text takes the place of.
    fn replaced(&mut self, of: &Node, word: &Node, by: &'a Node) {
        let word = first_of(self.strings(word).into_iter()).filter(|_| self.origin(of).content);
        self.triggered(word.map(|word| Trigger::word(&word)).as_ref(), by);
    }

    /// Text that hangs on a trigger, in an expression. Control words are left to conditions: what
    /// is kept of a message after one was found in it hangs on that for ever.
    fn chosen(&mut self, trigger: Option<&Trigger>, node: &'a Node) {
        self.triggered(trigger.filter(|trigger| !trigger.is_control()), node);
    }

    /// Text that hangs on a trigger.
    fn triggered(&mut self, trigger: Option<&Trigger>, node: &'a Node) {
        let Some(trigger) = trigger.filter(|_| self.looked_at <= budget::TEMPLATE_STEPS) else { return };
        let own = || own_texts(node).into_iter();
        let text = match trigger.weight {
            Weight::Control | Weight::Known => {
                // What does something outweighs what is said.
                let prose = || own().find(|text| words_of(text) >= PROSE_WORDS);
                own().find(|text| self.payloads.contains(text)).or_else(prose).map(Word::from)
            }
            Weight::Reckoned => {
                let pieces = self.pieces(node);
                pieces.into_iter().find(|text| words_of(text) >= PROSE_WORDS || self.acts(text))
            }
            Weight::Word => {
                let role = || own().find(|text| is_trusted_role(text)).map(Word::from);
                self.prose(trigger, node).or_else(role)
            }
        };
        if let Some(text) = text {
            let note = trigger.weight == Weight::Known && !self.acts(&text);
            let code = if note { Code::TemplateControlWord } else { Code::TemplateTrigger };
            self.push(code, format!("adds text when {}: {:?}", trigger.what, start_of(&text)));
        }
    }

    /// Does a text of the template do something?
    fn acts(&self, text: &str) -> bool {
        self.payloads.contains(text)
    }

    /// What says or does something among the pieces that hang on a word, together or alone.
    fn prose(&mut self, trigger: &Trigger, node: &'a Node) -> Option<Word> {
        let mut pieces = self.pieces(node);
        // What the message says itself is nothing new.
        pieces.retain(|text| !repeats(&trigger.word, text));
        let together = pieces.concat();
        let prose = pieces.iter().any(|text| words_of(text) >= TEXT_WORDS)
            || pieces.iter().map(|text| words_added(text)).sum::<usize>() >= PROSE_WORDS
            || words_added(&together) >= PROSE_WORDS;
        let acts = pieces.iter().find(|text| self.acts(text) || self.disguised.contains(&***text)).cloned();
        let longest = || pieces.iter().max_by_key(|text| words_added(text)).filter(|_| prose).cloned();
        acts.or_else(longest).or_else(|| is_payload(&together).then(|| together.as_str().into()))
    }

    /// All texts that a node may print, also those that it has by a name or from a macro.
    fn pieces(&mut self, node: &'a Node) -> Vec<Word> {
        let (mut open, mut texts) = (vec![node], Vec::new());
        let mut known: BTreeSet<String> = BTreeSet::new();
        while let Some(node) = open.pop() {
            let mut all = Vec::new();
            shown(node, &mut all);
            self.looked_at += all.len();
            for node in all {
                if matches!(node.kind, Kind::Text | Kind::Str) {
                    texts.push(node.text.as_str().into());
                    continue;
                }
                let name = dotted(node).unwrap_or_default();
                let known_as = [name.as_str(), name.split('.').next().unwrap_or_default()];
                if !known.contains(&name) {
                    let words = BTreeSet::from(known_as).into_iter().filter_map(|name| self.words.get(name));
                    texts.extend(words.flatten().cloned());
                    open.extend(self.macros.get(name.as_str()).and_then(|found| found.children.last()));
                    known.insert(name);
                }
            }
        }
        self.looked_at += texts.iter().map(|text| 1 + text.len() / TEXT_BYTES).sum::<usize>();
        texts
    }

    /// Prose at the top level behind the messages: honest templates end with a marker.
    fn own_text(&mut self, tree: &Node) {
        let loops = tree.children.iter().rposition(|node| node.kind == Kind::For);
        let Some(last) = loops else { return };
        for node in
            tree.children.iter().skip(last + 1).filter(|node| matches!(node.kind, Kind::Text | Kind::Output))
        {
            if let Some(text) = own_texts(node).into_iter().find(|text| words_of(text) >= 3) {
                self.push(
                    Code::TemplateOwnText,
                    format!("adds text of its own behind the messages: {:?}", start_of(text)),
                );
            }
        }
    }
}

/// Does a condition decide whether what comes after it in the loop is run?
fn jumps(node: &Node) -> bool {
    node.kind == Kind::Jump || node.kind != Kind::For && node.children.iter().any(jumps)
}

/// Does it go through the fields of a mapping?
fn names_fields(over: &Node) -> bool {
    match over.kind {
        Kind::Filter => among("items dictsort", &over.text),
        Kind::Call => over.child(0).is_some_and(|called| called.is(Kind::Attr, "items")),
        _ => false,
    }
}
