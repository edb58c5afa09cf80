//! Whether a template ends, and how much it can make.
//!
//! The tree is run with sizes in place of values: statements in order, every branch of a
//! condition, and some rounds of a loop, from which the others follow. What the conversation
//! gives counts as a text of some size and a list of some length: all that is asked is whether
//! something doubles from line to line or from round to round, and what huge numbers do.

use std::collections::BTreeMap;

use super::Found;
use super::macros::{Answer, without_end};
use super::size::{Object, Size};
use super::text::start_of;
use super::tree::{Kind, Node};
use crate::domain::budget;
use crate::model::finding::Code;

/// What grows like this from the last but one round to the last goes on doing so; a sum, and a
/// sum of sums, does not by then.
pub(super) const DOUBLING: f64 = 1.5;
/// Rounds over a conversation that anybody may have.
pub(super) const LONG: f64 = 64.0;
/// Rounds over a conversation where they are multiplied with those of other loops.
const A_FEW: f64 = 3.0;
/// Rounds over what comes from the conversation, letter by letter at most.
const GIVEN: f64 = budget::TEMPLATE_GIVEN_BYTES as f64;

/// Where something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key<'a> {
    /// A variable of the template (0), or of a macro by how many run around it.
    Variable(usize, &'a str),
    /// An attribute of a namespace.
    Attribute(Object, &'a str),
    /// A list with what was added to it.
    Added(Object),
}

pub(super) fn look(tree: &Node) -> Found {
    let mut growth = Growth { rounds: 1.0, ..Growth::default() };
    tree.each(&mut |node| {
        if node.kind == Kind::Macro {
            growth.macros.insert(node.text.split(',').next().unwrap_or_default(), node);
        }
    });
    if let Some(name) = without_end(&growth.macros) {
        let what = format!("has a macro {} that calls itself without end", start_of(name));
        growth.stop(Code::TemplateEndless, what);
    }
    let printed = growth.run(tree);
    growth.measure(printed, tree);
    growth.found
}

#[derive(Default)]
pub(super) struct Growth<'a> {
    pub(super) macros: BTreeMap<&'a str, &'a Node>,
    known: BTreeMap<Key<'a>, Size>,
    /// What was known before, for branches and scopes that end.
    pub(super) log: Vec<(Key<'a>, Option<Size>)>,
    /// Which object each may be the same as, and what may be in it.
    objects: Vec<(usize, Option<Object>)>,
    /// Macros that run, and how often each calls itself with nothing smaller.
    pub(super) running: Vec<(&'a str, usize)>,
    /// Whose variables are seen: as many macros as ran when it began.
    pub(super) frame: usize,
    /// The call block around a macro, and whose variables it sees.
    pub(super) caller: Option<(&'a Node, usize)>,
    /// What loops go through.
    looping: Vec<Option<Object>>,
    /// Rounds of the loops around, as far as they are numbers.
    pub(super) rounds: f64,
    /// What each macro gave last.
    pub(super) answers: BTreeMap<&'a str, Answer>,
    /// Changes that a macro could see.
    pub(super) changes: usize,
    steps: usize,
    depth: usize,
    found: Found,
}

impl<'a> Growth<'a> {
    pub(super) fn stop(&mut self, code: Code, what: String) {
        self.found.insert((code, what));
    }

    /// Begins with a node, unless there is nothing more to learn.
    pub(super) fn enter(&mut self) -> bool {
        self.steps += 1;
        if self.steps > budget::TEMPLATE_STEPS || self.depth >= budget::TEMPLATE_DEPTH {
            self.stop(Code::TemplateUnread, "is too entangled to be followed to its end".to_owned());
        }
        self.depth += 1;
        self.found.is_empty() || {
            self.depth -= 1;
            false
        }
    }

    /// Is it too much that was made there?
    pub(super) fn measure(&mut self, bytes: f64, at: &Node) {
        if bytes > budget::TEMPLATE_MADE_BYTES as f64 && self.found.is_empty() {
            let with = match at.kind {
                Kind::Filter => at.text.as_str(),
                Kind::Call => at.child(0).map_or("", |called| called.text.as_str()),
                Kind::Binary if at.text == "*" || at.text == "**" => "multiplication",
                Kind::For => "a loop",
                _ => "",
            };
            let with = if with.is_empty() { String::new() } else { format!(" with {}", start_of(with)) };
            self.stop(Code::TemplateEndless, format!("makes something enormous{with}"));
        }
    }

    pub(super) fn leave(&mut self, bytes: f64, at: &Node) {
        self.depth -= 1;
        self.measure(bytes, at);
    }

    pub(super) fn is_macro(&self, name: &str) -> bool {
        self.macros.contains_key(name)
    }

    /// How often the loop goes round that is run.
    pub(super) fn round(&self) -> f64 {
        self.rounds.max(budget::TEMPLATE_ROUNDS as f64)
    }

    /// A new list, mapping or namespace.
    pub(super) fn object(&mut self, inside: Option<Object>) -> Object {
        self.objects.push((self.objects.len(), inside));
        (self.objects.len() - 1, 0)
    }

    /// The one object that stands for all that may be the same.
    pub(super) fn root(&self, (mut object, mut depth): Object) -> Object {
        while let Some((same, inside)) = self.objects.get(object) {
            match inside {
                _ if *same != object => object = *same,
                Some((inside, 0)) if depth > 0 => (object, depth) = (*inside, depth - 1),
                _ => break,
            }
        }
        (object, depth)
    }

    /// One of two values: what happens to one object may happen to the other.
    pub(super) fn join(&mut self, a: Size, b: Size) -> Size {
        if let (Some(a), Some(b)) = (a.object, b.object) {
            // The older one stands for both, so that it is the same one from round to round.
            let (a, b) = (self.root(a), self.root(b));
            let (a, b) = (a.min(b), a.max(b));
            if a.0 != b.0
                && let Some((same, _)) = self.objects.get_mut(b.0)
            {
                *same = a.0;
                let moved = |key: Key<'a>| match key {
                    Key::Attribute(object, name) if object.0 == b.0 => {
                        Some(Key::Attribute((a.0, object.1), name))
                    }
                    Key::Added(object) if object.0 == b.0 => Some(Key::Added((a.0, object.1))),
                    _ => None,
                };
                let attributes =
                    self.known.range(Key::Attribute((b.0, 0), "")..Key::Attribute((b.0 + 1, 0), ""));
                let added = self.known.range(Key::Added((b.0, 0))..Key::Added((b.0 + 1, 0)));
                let all = attributes.chain(added).filter_map(|(key, size)| Some((moved(*key)?, *size)));
                for (key, size) in all.collect::<Vec<_>>() {
                    let size = self.known.get(&key).map_or(size, |known| known.or(size));
                    self.set(key, size);
                }
            }
        }
        a.or(b)
    }

    /// What is kept there, with what was added to it.
    pub(super) fn known(&self, key: Key<'a>) -> Option<Size> {
        let size = *self.known.get(&key)?;
        let added = size.object.and_then(|object| self.known.get(&Key::Added(self.root(object))));
        Some(added.map_or(size, |added| size.or(*added)))
    }

    pub(super) fn variable(&mut self, name: &'a str) -> Size {
        let own = self.known(Key::Variable(self.frame, name)).or_else(|| self.known(Key::Variable(0, name)));
        own.unwrap_or_else(|| {
            let size = if self.is_macro(name) { Size::NOTHING } else { Size::given(Some(self.object(None))) };
            self.known.insert(Key::Variable(0, name), size);
            size
        })
    }

    pub(super) fn set(&mut self, key: Key<'a>, size: Size) {
        // Every value is one that may be changed under another name.
        let object = size.object.or_else(|| Some(self.object(None)));
        self.log.push((key, self.known.insert(key, Size { object, ..size })));
        if !matches!(key, Key::Variable(1.., _)) {
            self.changes += 1;
        }
    }

    /// Sets what an assignment names.
    fn assign(&mut self, target: &'a str, size: Size) {
        match target.rsplit_once('.') {
            None => self.set(Key::Variable(self.frame, target), size),
            Some((namespace, name)) => {
                let of = self.variable(namespace);
                self.set_attribute(of, name, size);
            }
        }
    }

    /// The attribute of a value, if it was set.
    pub(super) fn attribute(&self, of: Size, name: &'a str) -> Option<Size> {
        self.known(Key::Attribute(self.root(of.object?), name))
    }

    /// Sets an attribute. What it was it may still be, as an object may be one of several.
    pub(super) fn set_attribute(&mut self, of: Size, name: &'a str, size: Size) {
        let Some(object) = of.object else { return };
        let key = Key::Attribute(self.root(object), name);
        let size = self.known.get(&key).copied().map_or(size, |known| self.join(known, size));
        self.set(key, size);
    }

    /// Is it the list that the innermost loop goes through?
    pub(super) fn goes_through(&self, list: Option<Object>) -> bool {
        let through = self.looping.last().copied().flatten().map(|through| self.root(through));
        through.is_some() && through == list.map(|list| self.root(list))
    }

    /// Adds to a list.
    pub(super) fn add(&mut self, to: Size, added: Size) {
        let Some(object) = to.object.map(|object| self.root(object)) else { return };
        if self.looping.iter().flatten().any(|through| self.root(*through) == object) {
            self.stop(Code::TemplateEndless, "adds to a list while it goes through it".to_owned());
        }
        self.set(Key::Added(object), Size { object: Some(object), ..to.and(added) });
    }

    /// Forgets what was set since, all of it or only variables.
    pub(super) fn forget(&mut self, since: usize, all: bool) {
        let mut kept = Vec::new();
        for (key, old) in self.log.split_off(since.min(self.log.len())).into_iter().rev() {
            if !all && !matches!(key, Key::Variable(..)) {
                kept.push((key, old));
            } else if let Some(old) = old {
                self.known.insert(key, old);
            } else {
                self.known.remove(&key);
            }
        }
        self.log.extend(kept.into_iter().rev());
    }

    /// What was set since and is still known.
    fn changed(&self, since: usize) -> BTreeMap<Key<'a>, Size> {
        let keys = self.log.iter().skip(since).map(|(key, _)| *key);
        keys.filter_map(|key| Some((key, *self.known.get(&key)?))).collect()
    }

    /// Runs a statement; how much it prints.
    pub(super) fn run(&mut self, node: &'a Node) -> f64 {
        if !self.enter() {
            return 0.0;
        }
        let printed = match (node.kind, node.children.as_slice()) {
            (Kind::Text, _) => node.text.len() as f64,
            (Kind::Set, [value]) => {
                let size = self.value(value);
                node.text.split(',').for_each(|name| self.assign(name, size));
                0.0
            }
            (Kind::If, branches) => self.branches(branches),
            (Kind::For, [over, condition, bodies @ ..]) => self.repeat(node, (over, condition), bodies),
            (Kind::Macro, _) => 0.0,
            (Kind::CallBlock, [called, _]) => {
                let around = self.caller.replace((node, self.frame));
                let size = self.value(called);
                self.caller = around;
                size.bytes
            }
            (Kind::Body, statements) => statements.iter().map(|statement| self.run(statement)).sum(),
            (Kind::Block, parts) => parts
                .iter()
                .map(|part| match part.kind {
                    Kind::Set | Kind::Body => self.run(part),
                    _ => self.value(part).bytes,
                })
                .sum(),
            (Kind::Output, [value]) => self.value(value).bytes,
            _ => 0.0,
        };
        self.leave(printed, node);
        printed
    }

    /// Every branch as if it were the one; then any of them may have been.
    fn branches(&mut self, branches: &'a [Node]) -> f64 {
        let mut printed = 0f64;
        let mut outcomes: BTreeMap<Key<'a>, Size> = BTreeMap::new();
        for branch in branches {
            let since = self.log.len();
            for part in &branch.children {
                match part.kind {
                    Kind::Body => printed = printed.max(self.run(part)),
                    _ => {
                        self.value(part);
                    }
                }
            }
            for (key, size) in self.changed(since) {
                let size = outcomes.get(&key).copied().map_or(size, |other| self.join(other, size));
                outcomes.insert(key, size);
            }
            self.forget(since, true);
        }
        for (key, size) in outcomes {
            let size = self.known.get(&key).copied().map_or(size, |before| self.join(before, size));
            self.set(key, size);
        }
        printed
    }

    fn repeat(&mut self, node: &'a Node, (over, condition): (&'a Node, &'a Node), bodies: &'a [Node]) -> f64 {
        let size = self.value(over);
        if !self.found.is_empty() {
            return 0.0;
        }
        let some = budget::TEMPLATE_ROUNDS as f64;
        let rounds = self.rounds;
        // However long a conversation is, loops over it are honest: only many of them, one in the
        // other, are not.
        let counted = if size.given { (size.count / GIVEN).max(A_FEW) } else { size.count.max(1.0) };
        self.rounds *= counted;
        if self.rounds > budget::TEMPLATE_LOOPS as f64 {
            self.stop(Code::TemplateEndless, format!("goes round a loop {:.0} times", self.rounds));
        }
        self.looping.push(size.object);
        let (mut printed, mut last, mut growth) = (0.0, BTreeMap::new(), BTreeMap::<Key, f64>::new());
        let tried = size.count.clamp(1.0, some);
        for round in 1..=tried as usize {
            let begun = self.log.len();
            let element = Size { bytes: size.bytes / size.count.max(1.0), ..size.part() };
            node.text.split(',').for_each(|name| self.assign(name, element));
            self.value(condition);
            let once = bodies.first().map_or(0.0, |body| self.run(body));
            self.forget(begun, false);
            printed += once;
            let now = self.changed(begun);
            growth = now.iter().map(|(key, size)| (*key, size.growth_since(last.get(key)))).collect();
            last = now;
            let rest = size.count - round as f64;
            let settled = round > 1 && growth.values().all(|growth| *growth == 1.0);
            if settled || round as f64 + 1.0 > tried {
                printed += once * rest.max(0.0);
                break;
            }
        }
        self.looping.pop();
        if size.given {
            printed *= counted.min(size.count) / size.count.max(1.0);
        }
        let doubling = growth.values().any(|growth| *growth >= DOUBLING);
        let rest = if doubling && size.given { LONG } else { size.count - tried };
        for (key, size) in last {
            let growth = growth.get(&key).copied().unwrap_or(1.0);
            // Of sums, the power is what the last round tells.
            let power = growth.ln() / (tried / (tried - 1.0)).ln();
            let more = match rest > 0.0 && growth > 1.0 {
                true if growth >= DOUBLING => growth.powf(rest),
                true => (1.0 + rest / tried).powf(power),
                false => continue,
            };
            let size = size.times(more);
            self.set(key, size);
            self.measure(size.bytes.max(size.count), node);
        }
        // What it does with numbers that doubled shows once more.
        if let Some(body) = bodies.first().filter(|_| doubling) {
            let begun = self.log.len();
            self.run(body);
            self.forget(begun, false);
        }
        if let Some(otherwise) = bodies.get(1) {
            printed += self.run(otherwise);
        }
        self.rounds = rounds;
        printed
    }
}
