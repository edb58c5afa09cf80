//! What the values of a template may be: given by the conversation, written in the template, put
//! together by it, or objects of the interpreter.
//!
//! Names have no scope here: what any assignment gives a variable, it has everywhere.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{CHOOSING, CUTTING, FUNCTIONS, KEEPING, METHODS, MUTATING, NUMBERS, OUTSIDE, among};
use super::tree::{Kind, Node};
use crate::domain::budget;

/// What a value may be, as bits; none for numbers.
pub(super) type Nature = u8;
/// What the conversation or the caller brings.
pub(super) const GIVEN: Nature = 1;
/// A text that stands in the template, where it is looked at.
pub(super) const TEXT: Nature = 2;
/// A text that the template puts together.
pub(super) const MADE: Nature = 4;
/// A macro of the template.
pub(super) const MACRO: Nature = 8;
/// An object of the interpreter: a function, a loop, a namespace.
pub(super) const OBJECT: Nature = 16;

/// Where something can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Variable,
    /// An attribute of a namespace, whichever.
    Attribute,
    /// A list or a mapping that is an attribute of anything, and is added to.
    Added,
    /// Parameters of macros and call blocks, where it is not known which one.
    Parameter,
    /// Variables of loops that call themselves.
    Again,
}

type Key<'a> = (Place, &'a str);
const PARAMETERS: Key<'static> = (Place::Parameter, "");
const AGAIN: Key<'static> = (Place::Again, "");

/// What every variable of a template may be.
#[derive(Debug, Default)]
pub(super) struct Natures<'a> {
    /// Parameters of every macro.
    macros: BTreeMap<&'a str, Vec<&'a str>>,
    /// Variables that get what is passed to a macro, or to a loop.
    passed: BTreeSet<Key<'a>>,
    known: BTreeMap<Key<'a>, Nature>,
}

/// Is it a name that can be read in the template?
pub(super) fn is_literal(node: &Node) -> bool {
    node.kind == Kind::Str && !node.text.contains('\u{fffd}')
}

/// The nature of what is put together from something.
fn made(nature: Nature) -> Nature {
    if nature & (TEXT | MADE) == 0 { nature } else { nature | MADE }
}

/// Where an assignment leaves its value.
fn target(name: &str) -> Key<'_> {
    match name.rsplit_once('.') {
        Some((_, attribute)) => (Place::Attribute, attribute),
        None => (Place::Variable, name),
    }
}

impl<'a> Natures<'a> {
    pub fn of(tree: &'a Node) -> Self {
        let mut out = Self::default();
        tree.each(&mut |node| {
            let mut names = node.text.split(',');
            match node.kind {
                Kind::Macro => {
                    let name = names.next().unwrap_or_default();
                    let all = names.clone().chain(["varargs", "kwargs"]);
                    out.passed.extend(all.map(|name| (Place::Parameter, name)));
                    out.macros.insert(name, names.collect());
                }
                Kind::CallBlock => out.passed.extend(names.map(|name| (Place::Parameter, name))),
                Kind::For => out.passed.extend(names.map(|name| (Place::Again, name))),
                _ => {}
            }
        });
        let mut flows = Vec::new();
        tree.each(&mut |node| out.flow(node, &mut flows));
        out.settle(&flows);
        out
    }

    /// Is it a name that the template gives a meaning?
    pub fn is_own(&self, name: &str) -> bool {
        self.macros.contains_key(name)
            || self.passed.contains(&(Place::Parameter, name))
            || self.known.contains_key(&(Place::Variable, name))
    }

    /// What is set as this attribute of a namespace, if a value of that nature may be one.
    pub fn set_in(&self, of: Nature, name: &str) -> Option<Nature> {
        self.known.get(&(Place::Attribute, name)).copied().filter(|_| of & OBJECT != 0)
    }

    /// Which values go where.
    fn flow(&self, node: &'a Node, flows: &mut Vec<(Key<'a>, &'a Node)>) {
        match (node.kind, node.children.as_slice()) {
            (Kind::Set | Kind::For, [value, ..]) => {
                flows.extend(node.text.split(',').map(|name| (target(name), value)));
            }
            (Kind::Macro, [defaults @ .., _]) => {
                let names = node.text.split(',').skip(1);
                flows.extend(names.flat_map(|name| defaults.iter().map(move |value| (target(name), value))));
            }
            (Kind::Call, [called, arguments @ ..]) => {
                let places = arguments.iter().enumerate();
                flows.extend(places.filter_map(|(at, value)| Some((self.taker(called, at, value)?, value))));
            }
            _ => {}
        }
    }

    /// What takes an argument of a call.
    fn taker(&self, called: &'a Node, at: usize, argument: &'a Node) -> Option<Key<'a>> {
        let (name, named) = (called.text.as_str(), argument.kind == Kind::Named);
        match called.kind {
            Kind::Name if self.macros.contains_key(name) => {
                let parameters = self.macros.get(name)?;
                let own = match argument.kind {
                    Kind::Named => parameters.iter().find(|parameter| **parameter == argument.text),
                    Kind::Many => None,
                    _ => parameters.get(at),
                };
                Some(own.map_or(PARAMETERS, |parameter| (Place::Variable, *parameter)))
            }
            Kind::Name if name == "loop" => Some(AGAIN),
            Kind::Name if name == "caller" => Some(PARAMETERS),
            Kind::Name if among(FUNCTIONS, name) => {
                named.then_some((Place::Attribute, argument.text.as_str()))
            }
            Kind::Attr if among(MUTATING, name) => {
                let mut changed = called.child(0)?;
                while !matches!(changed.kind, Kind::Name | Kind::Attr) {
                    changed = changed.child(0)?;
                }
                let place = if changed.kind == Kind::Name { Place::Variable } else { Place::Added };
                Some((place, changed.text.as_str()))
            }
            Kind::Attr if among(METHODS, name) => None,
            _ => Some(PARAMETERS),
        }
    }

    /// Follows values until nothing changes; where that takes too long, anything may be anywhere.
    fn settle(&mut self, flows: &[(Key<'a>, &'a Node)]) {
        self.known = flows.iter().map(|(key, _)| (*key, 0)).collect();
        for _ in 0..budget::TEMPLATE_PASSES {
            let mut changed = false;
            for (key, value) in flows {
                let new = self.of_value(value);
                if let Some(known) = self.known.get_mut(key).filter(|known| **known | new != **known) {
                    *known |= new;
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
        self.known.values_mut().for_each(|nature| *nature = Nature::MAX);
    }

    fn of_all<'n>(&self, nodes: impl IntoIterator<Item = &'n Node>) -> Nature {
        nodes.into_iter().fold(0, |sum, node| sum | self.of_value(node))
    }

    pub fn of_value(&self, node: &Node) -> Nature {
        let name = node.text.as_str();
        match (node.kind, node.children.as_slice()) {
            (Kind::Str, _) if is_literal(node) => TEXT,
            (Kind::Int | Kind::Const | Kind::Test | Kind::Unary, _) => 0,
            (Kind::Name, _) => self.of_name(name),
            (Kind::Attr, [of]) if of.is(Kind::Name, "loop") && !self.is_own("loop") => match name {
                "previtem" | "nextitem" => GIVEN | OBJECT,
                _ => 0,
            },
            (Kind::Attr, [of]) => self.of_part(of, name),
            (Kind::Item, [of, ..]) if name == ":" => made(self.of_value(of)),
            (Kind::Item, [of, part]) if part.kind == Kind::Str => self.of_part(of, &part.text),
            (Kind::Item, [of, ..]) => self.of_value(of),
            (Kind::Call, [called, arguments @ ..]) => self.of_call(called, arguments),
            (Kind::Filter, [of, arguments @ ..]) => self.of_filter(name, of, arguments),
            (Kind::Binary, sides) => match name {
                "and" | "or" => self.of_all(sides),
                "+" | "~" | "*" | "%" => made(self.of_all(sides)),
                _ => 0,
            },
            (Kind::Choice, [_, values @ ..]) => self.of_all(values),
            (Kind::List | Kind::Dict | Kind::Named | Kind::Many, values) => self.of_all(values),
            _ => MADE,
        }
    }

    fn of_name(&self, name: &str) -> Nature {
        let mut nature = match self.known.get(&(Place::Variable, name)) {
            Some(known) => *known,
            None if self.is_own(name) => 0,
            None if among(FUNCTIONS, name) || among(OUTSIDE, name) => OBJECT,
            None => GIVEN,
        };
        if self.macros.contains_key(name) {
            nature |= MACRO;
        }
        for way in [PARAMETERS, AGAIN] {
            if self.passed.contains(&(way.0, name)) {
                nature |= self.known.get(&way).unwrap_or(&0);
            }
        }
        // Tokens are texts of whoever made the model, too.
        if name.ends_with("_token") || name.ends_with("_tokens") {
            nature |= MADE;
        }
        nature
    }

    /// The nature of an attribute or an entry.
    fn of_part(&self, of: &Node, name: &str) -> Nature {
        let of = self.of_value(of);
        let set = self.set_in(of, name).map(|set| set | of & !(OBJECT | MACRO));
        set.unwrap_or(of) | self.known.get(&(Place::Added, name)).unwrap_or(&0)
    }

    fn of_call(&self, called: &Node, arguments: &[Node]) -> Nature {
        let name = called.text.as_str();
        match (called.kind, called.children.as_slice()) {
            (Kind::Name, _) if self.macros.contains_key(name) => MADE,
            (Kind::Name, _) if self.is_own(name) => MADE | OBJECT,
            (Kind::Name, _) => match name {
                "range" | "raise_exception" => 0,
                "dict" => self.of_all(arguments) | TEXT,
                // What has a name is followed by its name.
                "namespace" => {
                    self.of_all(arguments.iter().filter(|argument| argument.kind != Kind::Named)) | OBJECT
                }
                "cycler" | "joiner" => self.of_all(arguments) | OBJECT,
                name if among(FUNCTIONS, name) => MADE,
                _ => MADE | OBJECT,
            },
            (Kind::Attr, [of]) if self.set_in(self.of_value(of), name).is_none() => match name {
                "get" | "pop" | "setdefault" => self.of_value(of) | self.of_all(arguments.iter().skip(1)),
                name if among(NUMBERS, name) || among(MUTATING, name) => 0,
                name => self.of_filter(name, of, arguments),
            },
            _ => MADE | OBJECT,
        }
    }

    /// The nature of what a filter gives, or a method.
    fn of_filter(&self, name: &str, of: &Node, arguments: &[Node]) -> Nature {
        let value = self.of_value(of);
        match name {
            // A number, or what is given in place of one.
            name if among(NUMBERS, name) => self.of_all(arguments),
            "map" => match arguments {
                [attribute] if attribute.is(Kind::Named, "attribute") => value,
                arguments => made(value | self.of_all(arguments.iter().skip(1))),
            },
            name if among(CHOOSING, name) => value,
            name if among(KEEPING, name) => value | self.of_all(arguments),
            name if among(CUTTING, name) => made(value),
            _ => made(value | self.of_all(arguments)),
        }
    }
}
