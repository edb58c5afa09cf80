//! Ways out of the template language.
//!
//! Nothing is worked out and nothing guessed. A name by which a part of a value is taken is
//! written out in the template, or is a number, or comes from the conversation; what is called
//! is a function of the language, a macro, or a method of texts, lists and mappings. Whatever
//! else is taken or called is a way out, however its name was put together.

use std::collections::BTreeSet;

use super::Found;
use super::names::{FILTERS, FUNCTIONS, HIDDEN, METHODS, OUTSIDE, among, attribute_place};
use super::nature::{GIVEN, MACRO, MADE, Natures, OBJECT, TEXT, is_literal};
use super::text::{dotted, is_inner, start_of};
use super::tree::{Kind, Node};
use crate::model::finding::Code;

pub(super) fn look(tree: &Node) -> Found {
    let mut reach = Reach { natures: Natures::of(tree), found: BTreeSet::new() };
    tree.each(&mut |node| reach.check(node));
    reach.found
}

struct Reach<'a> {
    natures: Natures<'a>,
    found: Found,
}

/// A name that leads into the interpreter, or to what its author meant for nobody else.
fn is_private(name: &str) -> bool {
    name.starts_with('_') || is_inner(name) || among(HIDDEN, name)
}

/// Does a text that is filled in name its values only, none of their attributes?
fn has_plain_fields(text: &str) -> bool {
    text.split('{').skip(1).all(|field| {
        let name = field.split(['}', ':', '!']).next().unwrap_or_default();
        !name.contains(['.', '['])
    })
}

/// A place in a list, counted from its beginning or its end.
fn is_place(index: &Node) -> bool {
    match index.kind {
        Kind::Int => true,
        Kind::Unary => index.child(0).is_some_and(is_place),
        _ => false,
    }
}

/// What a message calls a value.
fn shown(node: &Node) -> String {
    dotted(node).map_or_else(|| "a value".to_owned(), |name| start_of(&name))
}

impl Reach<'_> {
    fn push(&mut self, code: Code, what: impl Into<String>) {
        self.found.insert((code, what.into()));
    }

    fn out(&mut self, what: impl Into<String>) {
        self.push(Code::TemplateReach, what);
    }

    fn check(&mut self, node: &Node) {
        let text = node.text.as_str();
        match (node.kind, node.children.as_slice()) {
            (Kind::Load, _) => self.out(format!("loads another template with {text}")),
            (Kind::Str | Kind::Named, _) if is_inner(text) || among(HIDDEN, text) => {
                self.out(format!("names {:?}", start_of(text)));
            }
            (Kind::Name, _) if is_inner(text) => self.out(format!("names {:?}", start_of(text))),
            (Kind::Attr, [of]) => {
                self.attribute(text);
                self.outside(of);
            }
            (Kind::Item, [of, parts @ ..]) => {
                if let ([index], "") = (parts, text) {
                    self.index(of, index);
                }
                self.outside(of);
            }
            (Kind::Filter, [_, arguments @ ..]) => self.filter(text, arguments),
            (Kind::Call, [called, ..]) => self.call(called),
            _ => {}
        }
    }

    fn attribute(&mut self, name: &str) {
        if name.split('.').any(is_private) {
            self.out(format!("walks to the attribute {}", start_of(name)));
        }
    }

    /// A name that leads out wherever it is offered.
    fn outside(&mut self, of: &Node) {
        if of.kind == Kind::Name && among(OUTSIDE, &of.text) && !self.natures.is_own(&of.text) {
            self.out(format!("uses {}, which leads out of the template", of.text));
        }
    }

    fn index(&mut self, of: &Node, index: &Node) {
        if is_literal(index) {
            return self.attribute(&index.text);
        }
        let (base, name) = (self.natures.of_value(of), self.natures.of_value(index));
        if name & (MADE | MACRO | OBJECT) != 0 {
            self.out(format!("takes a part of {} by a name that it puts together", shown(of)));
        } else if base & OBJECT != 0 && !is_place(index)
            || (base & MACRO != 0 || of.kind == Kind::Str) && name & (GIVEN | TEXT) != 0
        {
            self.out(format!("takes a part of {} by a name that is not written out", shown(of)));
        }
    }

    fn filter(&mut self, name: &str, arguments: &[Node]) {
        if name == "attr" {
            self.out("takes attributes by computed names (the filter attr)");
        } else if !among(FILTERS, name) {
            let what = format!("uses the filter {}, which is not known", start_of(name));
            self.push(Code::TemplateUnknownName, what);
        }
        let place = attribute_place(name);
        for (at, argument) in arguments.iter().enumerate() {
            let value = match argument.kind {
                Kind::Many => argument,
                Kind::Named if argument.text == "attribute" => argument.child(0).unwrap_or(argument),
                _ if Some(at) == place => argument,
                _ => continue,
            };
            if is_literal(value) {
                self.attribute(&value.text);
            } else if value.kind != Kind::Int {
                self.out(format!("gives the filter {} a name that is not written out", start_of(name)));
            }
        }
        // `map` has another filter's name, and what that one is given.
        if let ("map", [other, arguments @ ..]) = (name, arguments)
            && is_literal(other)
        {
            self.filter(&other.text, arguments);
        }
    }

    fn call(&mut self, called: &Node) {
        self.outside(called);
        let name = called.text.as_str();
        let nature = self.natures.of_value(called);
        match (called.kind, called.children.as_slice()) {
            (Kind::Name, _) if !self.natures.is_own(name) => {
                if !among(FUNCTIONS, name) && !among(OUTSIDE, name) {
                    let what = format!("calls {}, which is not known", start_of(name));
                    self.push(Code::TemplateUnknownName, what);
                }
            }
            (Kind::Attr, [of]) if name == "format" => {
                if !is_literal(of) || !has_plain_fields(&of.text) {
                    self.out("fills in a text (format) in a way that may walk to attributes");
                }
            }
            (Kind::Attr, [of]) if self.natures.set_in(self.natures.of_value(of), name).is_none() => {
                if !among(METHODS, name) {
                    let what = format!("calls {}, no method of texts, lists or mappings", start_of(name));
                    self.out(what);
                }
            }
            // A macro by the name of a method may be given what nobody follows.
            _ if nature == MACRO && !(called.kind == Kind::Attr && among(METHODS, name)) => {}
            _ => self.out(format!("calls {}, which may be anything", shown(called))),
        }
    }
}
