//! How large the value of an expression can be, from above.

use super::growth::{DOUBLING, Growth, LONG};
use super::names::{COUNTERS, FUNCTIONS, METHODS, MUTATING, NUMBERS, among};
use super::tree::{Kind, Node};
use crate::domain::budget;

/// Digits of a number, or bytes of a date.
const SHORT: f64 = 40.0;
/// What is no number any more; far beyond every limit, and its products with itself are finite.
const ENORMOUS: f64 = 1e100;
/// Bytes that no word is replaced by.
const LONG_TEXT: f64 = 1024.0;
/// What escaping can make of one byte.
const ESCAPED: f64 = 6.0;

/// A list, a mapping, a namespace: which, and how deep inside of it. What is in one object is
/// not told apart.
pub(super) type Object = (usize, u8);

/// How large a value can be. Whatever its kind, all of it is an upper bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Size {
    /// Of its text, or of everything in it.
    pub bytes: f64,
    /// Rounds of a loop over it, or over something in it.
    pub count: f64,
    /// Its value as a number; of a text, what its digits can spell.
    pub number: f64,
    /// May it be more than a number?
    pub text: bool,
    /// Does its size hang on the conversation?
    pub given: bool,
    /// The object that it is, for what is done to it under another name.
    pub object: Option<Object>,
}

impl Size {
    pub const NOTHING: Self =
        Self { bytes: 0.0, count: 0.0, number: 0.0, text: false, given: false, object: None };

    pub fn text(bytes: f64) -> Self {
        let bytes = bytes.min(ENORMOUS);
        Self { bytes, count: bytes, number: 1.0, text: true, ..Self::NOTHING }
    }

    /// A text that may have any digits.
    pub fn printed(bytes: f64) -> Self {
        Self { number: 10f64.powf(bytes).min(ENORMOUS), ..Self::text(bytes) }
    }

    fn number(number: f64) -> Self {
        Self { bytes: SHORT, number: number.min(ENORMOUS), ..Self::NOTHING }
    }

    pub fn given(object: Option<Object>) -> Self {
        let count = budget::TEMPLATE_ROUNDS as f64;
        Self { count, number: count, given: true, object, ..Self::text(budget::TEMPLATE_GIVEN_BYTES as f64) }
    }

    fn list(bytes: f64, count: f64) -> Self {
        Self { count: count.min(ENORMOUS), ..Self::text(bytes) }
    }

    /// The larger of the two in every respect.
    pub fn or(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            count: self.count.max(other.count),
            number: self.number.max(other.number),
            text: self.text || other.text,
            given: self.given || other.given,
            object: self.object.or(other.object),
        }
    }

    /// One after the other.
    pub fn and(self, other: Self) -> Self {
        Self {
            bytes: (self.bytes + other.bytes).min(ENORMOUS),
            count: (self.count + other.count).min(ENORMOUS),
            number: (self.number * other.number.max(1.0)).min(ENORMOUS),
            object: None,
            ..self.or(other)
        }
    }

    /// By what factor it is larger than before; what was not there is new in every round.
    pub fn growth_since(self, before: Option<&Self>) -> f64 {
        let factor = |now: f64, before: f64| if now > before { now / before.max(1.0) } else { 1.0 };
        before.map_or(1.0, |before| {
            let growth = factor(self.bytes, before.bytes).max(factor(self.count, before.count));
            // What the digits of a text can spell grows with every letter, and counters count.
            let number = factor(self.number, before.number);
            if self.text || number < DOUBLING { growth } else { growth.max(number) }
        })
    }

    /// So many times over.
    pub fn times(self, times: f64) -> Self {
        let times = times.min(ENORMOUS);
        if !self.text {
            return Self { number: (self.number * times).min(ENORMOUS), object: None, ..self };
        }
        let number = self.number.powf(times).min(ENORMOUS);
        Self { number, object: None, ..Self::list(self.bytes * times, self.count * times) }.with(self)
    }

    fn with(self, from: Self) -> Self {
        Self { given: from.given, ..self }
    }

    /// A part of it.
    pub fn part(self) -> Self {
        Self { object: self.object.map(|(object, depth)| (object, depth.saturating_add(1))), ..self }
    }
}

/// Blanks to fill in a text, and how wide its numbers may make them.
fn blanks(node: &Node, size: Size) -> (f64, f64) {
    if node.kind != Kind::Str {
        return (size.bytes, size.number);
    }
    let numbers =
        node.text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<f64>().ok());
    (node.text.matches(['%', '{']).count() as f64, numbers.sum())
}

impl<'a> Growth<'a> {
    /// How large the value of an expression can be.
    pub(super) fn value(&mut self, node: &'a Node) -> Size {
        if !self.enter() {
            return Size::NOTHING;
        }
        let size = self.sized(node);
        self.leave(size.bytes.max(size.count), node);
        size
    }

    fn sized(&mut self, node: &'a Node) -> Size {
        let name = node.text.as_str();
        match (node.kind, node.children.as_slice()) {
            (Kind::Str, _) => {
                let digits = name.bytes().filter(u8::is_ascii_digit).count() as f64;
                Size { number: 10f64.powf(digits).min(ENORMOUS), ..Size::text(name.len() as f64) }
            }
            (Kind::Int | Kind::Const, _) => Size::number(name.parse().unwrap_or(1.0)),
            (Kind::Name, _) => self.variable(name),
            (Kind::Attr, [of]) if of.is(Kind::Name, "loop") => {
                let round = Size { given: true, ..Size::number(self.round()) };
                if among(COUNTERS, name) { round } else { round.or(Size::given(None)) }
            }
            (Kind::Attr, [of]) => {
                let of = self.value(of);
                self.attribute(of, name).unwrap_or_else(|| of.part())
            }
            (Kind::Item, [of, parts @ ..]) => {
                let of = self.value(of);
                for part in parts {
                    self.value(part);
                }
                if name == ":" { Size { object: None, ..of } } else { of.part() }
            }
            (Kind::Call, [called, arguments @ ..]) => self.called(called, arguments),
            (Kind::Filter, [of, arguments @ ..]) => {
                let size = self.value(of);
                self.filtered(name, (of, size), arguments)
            }
            (Kind::Unary, [of]) => Size { object: None, ..self.value(of) },
            (Kind::Binary, [left, right]) => {
                let (a, b) = (self.value(left), self.value(right));
                self.combined(name, (left, a), b)
            }
            (Kind::Choice, [condition, values @ ..]) => {
                self.value(condition);
                self.either(values)
            }
            (Kind::List | Kind::Dict, values) => {
                let mut sum = Size::NOTHING;
                for value in values {
                    let size = self.value(value);
                    sum = Size { bytes: sum.bytes + size.bytes + 1.0, ..self.join(sum, size) };
                }
                let object = sum.object.map(|object| self.root(object));
                let object = Some(self.object(object));
                Size { count: sum.count.max(values.len() as f64), text: true, object, ..sum }
            }
            (Kind::Named | Kind::Many, [of]) => self.value(of),
            (Kind::Test, values) => {
                for value in values {
                    self.value(value);
                }
                Size::number(1.0)
            }
            (Kind::Body, _) => Size::printed(self.run(node)),
            _ => Size::NOTHING,
        }
    }

    /// One of several values.
    fn either(&mut self, values: &'a [Node]) -> Size {
        let sizes: Vec<Size> = values.iter().map(|value| self.value(value)).collect();
        sizes.into_iter().fold(Size::NOTHING, |sum, size| self.join(sum, size))
    }

    fn sum(&mut self, values: &'a [Node]) -> Size {
        let sizes: Vec<Size> = values.iter().map(|value| self.value(value)).collect();
        sizes.into_iter().fold(Size::NOTHING, Size::and)
    }

    fn combined(&mut self, operator: &str, (left, a): (&Node, Size), b: Size) -> Size {
        match operator {
            "and" | "or" => self.join(a, b),
            "+" if a.text || b.text => a.and(b),
            "+" | "-" => Size::number(a.number + b.number),
            "~" => Size { count: a.bytes + b.bytes, text: true, ..a.and(b) },
            "*" if a.text => a.times(b.number),
            "*" if b.text => b.times(a.number),
            "*" => Size::number(a.number * b.number),
            // Runtimes differ in which of two powers they work out first: none is honest that has
            // hundreds of digits either way.
            "**" => {
                let number = a.number.powf(b.number);
                let bytes = if number < ENORMOUS { SHORT } else { ENORMOUS };
                Size { bytes, ..Size::number(number) }
            }
            "%" if a.text => filled(left, a, b),
            "/" | "//" if b.number > 0.0 => Size::number(a.number / b.number.min(1.0)),
            "/" | "//" | "%" => Size::number(a.number),
            _ => Size::number(1.0),
        }
    }

    fn called(&mut self, called: &'a Node, arguments: &'a [Node]) -> Size {
        let name = called.text.as_str();
        match (called.kind, called.children.as_slice()) {
            (Kind::Name, _) if self.is_macro(name) => {
                let sizes = arguments.iter().map(|argument| self.value(argument)).collect();
                self.call(name, arguments, sizes)
            }
            (Kind::Name, _) => {
                let sizes: Vec<Size> = arguments.iter().map(|argument| self.value(argument)).collect();
                if name == "loop" {
                    self.loop_again(arguments, &sizes);
                }
                match (name, sizes.as_slice()) {
                    ("range", [end]) => numbers(end.number, *end),
                    ("range", [start, end]) => numbers(start.number + end.number, start.or(*end)),
                    ("range", [start, end, step, ..]) => {
                        numbers((start.number + end.number) / step.number.max(1.0), start.or(*end))
                    }
                    ("caller", _) => self.block(sizes.into_iter().fold(Size::NOTHING, Size::or)),
                    ("raise_exception", _) => Size::NOTHING,
                    ("strftime_now", _) => {
                        let widths =
                            arguments.iter().zip(&sizes).map(|(format, size)| blanks(format, *size).1);
                        let widest = Size::text(SHORT + widths.sum::<f64>());
                        sizes.iter().copied().fold(widest, Size::and)
                    }
                    ("namespace", _) => {
                        let sum = sizes.iter().copied().fold(Size::NOTHING, Size::and);
                        let namespace = Size { object: Some(self.object(None)), ..sum };
                        for (argument, size) in arguments.iter().zip(sizes) {
                            if argument.kind == Kind::Named {
                                self.set_attribute(namespace, &argument.text, size);
                            }
                        }
                        namespace
                    }
                    (name, _) if among(FUNCTIONS, name) => sizes.into_iter().fold(Size::NOTHING, Size::and),
                    _ => sizes.into_iter().fold(Size::given(None), Size::and),
                }
            }
            (Kind::Attr, [of]) => {
                let size = self.value(of);
                if among(MUTATING, name) || name == "setdefault" {
                    let added = self.sum(arguments);
                    self.add(
                        size,
                        if name == "extend" || name == "update" {
                            added
                        } else {
                            Size { count: 1.0, ..added }
                        },
                    );
                    return added;
                }
                match (name, arguments) {
                    ("join", [list]) => {
                        let list = self.value(list);
                        joined(list, size)
                    }
                    (name, _) if among(METHODS, name) => self.filtered(name, (of, size), arguments),
                    _ => self.sum(arguments).and(size),
                }
            }
            _ => {
                let sum = self.sum(arguments);
                self.value(called).and(sum)
            }
        }
    }

    /// What a filter gives, or a method.
    fn filtered(&mut self, name: &str, (node, of): (&'a Node, Size), arguments: &'a [Node]) -> Size {
        let sizes: Vec<Size> = arguments.iter().map(|argument| self.value(argument)).collect();
        let first = sizes.first().copied().unwrap_or(Size::NOTHING);
        let all = sizes.iter().copied().fold(Size::NOTHING, Size::and);
        let widest = sizes.iter().fold(0f64, |widest, size| widest.max(size.number));
        match name {
            "length" | "count" | "wordcount" => Size::number(of.count).with(of),
            "int" | "float" | "round" | "abs" => Size::number(of.number.max(all.number)).with(of),
            name if among(NUMBERS, name) => Size::number(of.count.max(1.0)).with(of),
            "join" => joined(of, first),
            "replace" => {
                let pattern = arguments.first().filter(|pattern| pattern.kind == Kind::Str);
                let pattern = pattern.map_or(1.0, |pattern| pattern.text.len() as f64);
                let by = sizes.get(1).copied().unwrap_or(Size::NOTHING);
                let factor = if pattern == 0.0 { by.bytes + 1.0 } else { (by.bytes / pattern).max(1.0) };
                // A message may be longer than what is counted for it; hardly any replacement is.
                let length = if of.given && factor > LONG_TEXT { LONG } else { 1.0 };
                let bytes = of.bytes * factor * length + by.bytes;
                let spelled = if by.number > 1.0 { Size::printed(bytes).number } else { of.number };
                Size { number: spelled, ..Size::text(bytes) }.with(of)
            }
            // Widths are numbers; what texts spell is filled in as it is.
            "format" => {
                let widths = sizes.iter().filter(|size| !size.text).map(|size| size.number);
                filled(node, of, Size { number: widths.fold(0.0, f64::max), ..all })
            }
            "center" | "ljust" | "rjust" | "zfill" => Size::text(of.bytes + widest),
            "batch" | "slice" => {
                Size::list(of.bytes + widest * (all.bytes + 1.0), of.count.max(widest)).with(of)
            }
            "indent" | "wordwrap" | "expandtabs" => {
                Size::text(of.bytes * (1.0 + all.bytes.max(1.0) * widest.max(1.0))).with(of)
            }
            // Every address becomes a link with all of its attributes.
            "urlize" => Size::text(of.bytes * (SHORT + all.bytes)).with(of),
            "tojson" | "to_json" | "escape" | "e" | "forceescape" | "urlencode" | "xmlattr" => {
                Size::text(of.bytes * (ESCAPED + widest)).with(of)
            }
            "map" => match arguments {
                [attribute] if attribute.kind == Kind::Named => Size { object: None, ..of },
                [other, arguments @ ..] => {
                    let each = self.filtered(&other.text, (node, of), arguments);
                    Size { count: of.count, ..each.times(of.count.max(1.0)) }
                }
                [] => of,
            },
            // The first is a name or a place.
            "get" | "pop" => sizes.into_iter().skip(1).fold(of, |sum, size| self.join(sum, size)),
            "default" | "d" => sizes.into_iter().fold(of, |sum, size| self.join(sum, size)),
            "list" | "items" | "dictsort" => Size { bytes: of.bytes + of.count, object: None, ..of },
            "first" | "last" | "min" | "max" | "random" => of.part(),
            "split" | "rsplit" | "splitlines" => Size { bytes: of.bytes * 2.0, object: None, ..of },
            _ => Size { object: None, text: true, ..of.and(all) },
        }
    }
}

/// The numbers of a range.
fn numbers(count: f64, from: Size) -> Size {
    Size { number: count.min(ENORMOUS), ..Size::list(count, count) }.with(from)
}

/// The texts of a list with something between them.
fn joined(list: Size, between: Size) -> Size {
    let bytes = list.bytes + list.count * between.bytes;
    let number = if between.number > 1.0 || list.number > 1.0 { Size::printed(bytes).number } else { 1.0 };
    Size { number, ..Size::text(bytes) }.with(list)
}

/// Is one field of a format within another, as widths may be?
fn has_inner_fields(format: &str) -> bool {
    let mut fields = format.split('{').skip(1).peekable();
    std::iter::from_fn(|| fields.next().map(|field| (field, fields.peek().is_some())))
        .any(|(field, another)| another && !field.is_empty() && !field.contains('}'))
}

/// A text with blanks that are filled in; widths may stand among the values.
fn filled(node: &Node, of: Size, values: Size) -> Size {
    let (blanks, width) = blanks(node, of);
    let given = node.kind != Kind::Str || node.text.contains('*') || has_inner_fields(&node.text);
    let given = if given { values.number } else { 0.0 };
    Size::text(of.bytes + width + (blanks + 1.0) * (values.bytes + given)).with(of)
}
