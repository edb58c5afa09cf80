//! Calls of macros, and macros that call themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::growth::{Growth, Key};
use super::size::Size;
use super::text::start_of;
use super::tree::{Kind, Node};
use crate::model::finding::Code;

/// What a macro gave for arguments of some sizes, before anything else changed.
pub(super) struct Answer {
    sizes: Vec<Size>,
    changes: usize,
    gave: Size,
}

impl<'a> Growth<'a> {
    /// Runs a macro with arguments of these sizes.
    pub(super) fn call(&mut self, name: &'a str, arguments: &'a [Node], sizes: Vec<Size>) -> Size {
        let Some([defaults @ .., body]) = self.macros.get(name).map(|found| found.children.as_slice()) else {
            return Size::NOTHING;
        };
        if self.running.iter().any(|(running, _)| *running == name) {
            self.called_again(name, arguments);
            return Size::given(None);
        }
        let known =
            self.answers.get(name).filter(|known| known.changes == self.changes && known.sizes == sizes);
        if let Some(known) = known {
            return known.gave;
        }
        let changes = self.changes;
        self.running.push((name, 0));
        let (frame, since) = (std::mem::replace(&mut self.frame, self.running.len()), self.log.len());
        let parameters = self.macros.get(name).map_or("", |found| found.text.as_str()).split(',').skip(1);
        for (place, parameter) in parameters.enumerate() {
            let named = |argument: &Node| argument.is(Kind::Named, parameter);
            let given = arguments.iter().position(named).unwrap_or(place);
            let many = arguments.iter().position(|argument| argument.kind == Kind::Many);
            let size = sizes.get(given).or_else(|| sizes.get(many?)).copied();
            let size = size.unwrap_or_else(|| {
                defaults.iter().fold(Size::given(None), |sum, value| sum.or(self.value(value)))
            });
            self.set(Key::Variable(self.frame, parameter), size);
        }
        let gave = Size::printed(self.run(body));
        self.forget(since, false);
        self.frame = frame;
        self.running.pop();
        self.answers.insert(name, Answer { sizes, changes, gave });
        gave
    }

    /// A macro that calls itself goes into smaller and smaller parts of what it was given. If it
    /// does not and calls itself twice, it doubles whatever it does; and with the very same it
    /// comes to no end.
    fn called_again(&mut self, name: &str, arguments: &[Node]) {
        let Some(found) = self.macros.get(name) else { return };
        let mut changed = BTreeSet::new();
        found.each(&mut |node| {
            if matches!(node.kind, Kind::Set | Kind::For) {
                changed.extend(node.text.split(','));
            }
        });
        let parameters: Vec<&str> = found.text.split(',').skip(1).collect();
        let own = |name: &str| parameters.contains(&name) && !changed.contains(name);
        let same = |argument: &Node| argument.kind == Kind::Name && own(&argument.text);
        if !arguments.is_empty() && arguments.len() == parameters.len() && arguments.iter().all(same) {
            let what = format!("has a macro {} that calls itself with the very same", start_of(name));
            return self.stop(Code::TemplateEndless, what);
        }
        let mut smaller = false;
        for argument in arguments {
            argument.each(&mut |node| {
                smaller |= match node.kind {
                    Kind::Name => !own(&node.text),
                    kind => matches!(kind, Kind::Attr | Kind::Item | Kind::Filter | Kind::Call | Kind::Many),
                };
            });
        }
        let Some((_, again)) = self.running.iter_mut().find(|(running, _)| !smaller && *running == name)
        else {
            return;
        };
        *again += 1;
        if *again > 1 {
            let what = format!(
                "has a macro {} that calls itself more than once with nothing smaller",
                start_of(name)
            );
            self.stop(Code::TemplateEndless, what);
        }
    }

    /// A loop that calls itself with a list that it makes, or with the whole that it goes through.
    pub(super) fn loop_again(&mut self, arguments: &[Node], sizes: &[Size]) {
        let mut smaller = false;
        for argument in arguments {
            argument.each(&mut |node| smaller |= matches!(node.kind, Kind::Attr | Kind::Item | Kind::Call));
        }
        let made = !smaller && arguments.first().is_some_and(|list| list.kind != Kind::Name);
        let whole = self.goes_through(sizes.first().and_then(|list| list.object));
        if made || whole {
            self.stop(Code::TemplateEndless, "has a loop that calls itself without end".to_owned());
        }
    }

    /// Runs the call block around a macro.
    pub(super) fn block(&mut self, given: Size) -> Size {
        let Some((node, frame)) = self.caller.take() else { return Size::given(None) };
        let (inside, since) = (std::mem::replace(&mut self.frame, frame), self.log.len());
        node.text.split(',').for_each(|parameter| self.set(Key::Variable(frame, parameter), given));
        let gave = node.child(1).map_or(0.0, |body| self.run(body));
        self.forget(since, false);
        self.frame = inside;
        self.caller = Some((node, frame));
        Size::printed(gave)
    }
}

/// A macro that comes back to itself whatever happens: those that call nothing are taken away,
/// then those that call only what was taken away; what is left goes round.
pub(super) fn without_end<'a>(macros: &BTreeMap<&'a str, &'a Node>) -> Option<&'a str> {
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    let mut callers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, found) in macros {
        let mut called = BTreeSet::new();
        if let Some(body) = found.children.last() {
            always_called(body, macros, &mut called);
        }
        open.insert(name, called.len());
        called.into_iter().for_each(|called| callers.entry(called).or_default().push(name));
    }
    let mut done: Vec<&str> = open.iter().filter(|(_, calls)| **calls == 0).map(|(name, _)| *name).collect();
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
    open.keys().next().copied()
}

/// Macros that are called below a node whatever happens.
fn always_called<'a>(node: &'a Node, macros: &BTreeMap<&'a str, &'a Node>, out: &mut BTreeSet<&'a str>) {
    let sure = match node.kind {
        Kind::If | Kind::For | Kind::Macro | Kind::Choice => return,
        Kind::Binary if matches!(node.text.as_str(), "and" | "or") => node.children.get(..1),
        _ => node.children.get(..),
    };
    if let (Kind::Call, Some(called)) = (node.kind, node.child(0))
        && called.kind == Kind::Name
        && macros.contains_key(called.text.as_str())
    {
        out.insert(&called.text);
    }
    sure.into_iter().flatten().for_each(|child| always_called(child, macros, out));
}
