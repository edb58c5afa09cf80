//! What a template would do, from its tree.
//!
//! Values are followed by where they come from: the text of messages, the date, and
//! decisions that hang on either. Names have no scope here: what any assignment gives a
//! variable, it has everywhere. Words in angle or square brackets and those that begin with
//! a slash are control words, which honest templates do look for.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Kind, Node};
use crate::model::finding::Code;

/// Passes over the tree, so that what is set late in a loop counts early in it.
const PASSES: usize = 3;
/// Words of prose that a condition on content may not decide about.
const PROSE_WORDS: usize = 4;
/// Rounds of a loop, numbers in a template, and what nested loops may multiply to.
const ROUNDS: u128 = 100_000;

/// What looks for words in a text.
const MATCHERS: [&str; 14] = [
    "startswith",
    "endswith",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "split",
    "rsplit",
    "partition",
    "rpartition",
    "replace",
    "removeprefix",
    "removesuffix",
];
/// Tests that compare.
const COMPARING: [&str; 12] = [
    "eq",
    "equalto",
    "==",
    "ne",
    "!=",
    "in",
    "sameas",
    "startingwith",
    "endingwith",
    "containing",
    "contains",
    "match",
];
/// Where the words of a message are.
const CONTENT: [&str; 6] = ["content", "text", "reasoning_content", "thinking", "arguments", "parts"];
/// What a message or a part of one carries besides words.
const STRUCTURE: [&str; 8] =
    ["type", "role", "name", "id", "tool_call_id", "tool_calls", "function", "mime_type"];
/// What runtimes offer.
const FUNCTIONS: [&str; 11] = [
    "range",
    "namespace",
    "dict",
    "raise_exception",
    "strftime_now",
    "cycler",
    "joiner",
    "caller",
    "loop",
    "super",
    "tojson",
];
const FILTERS: [&str; 62] = [
    "abs",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
    "fromjson",
    "from_json",
    "to_json",
    "split",
    "keys",
    "values",
    "strip",
    "startswith",
    "endswith",
];
/// Names that lead out of the language wherever they are offered.
const OUTSIDE: [&str; 24] = [
    "eval",
    "exec",
    "open",
    "getattr",
    "setattr",
    "delattr",
    "compile",
    "globals",
    "locals",
    "vars",
    "os",
    "sys",
    "subprocess",
    "importlib",
    "builtins",
    "lipsum",
    "url_for",
    "get_flashed_messages",
    "popen",
    "system",
    "input",
    "breakpoint",
    "help",
    "self",
];
/// Attributes by which a value leads to the interpreter's own.
const INNER: [&str; 16] = [
    "mro",
    "func_globals",
    "func_code",
    "gi_frame",
    "gi_code",
    "cr_frame",
    "ag_frame",
    "f_globals",
    "f_builtins",
    "f_locals",
    "f_back",
    "tb_frame",
    "im_func",
    "im_self",
    "format_map",
    "subclasses",
];

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
    tree.each(&mut |node| look.reach(node));
    look.endless_macros();
    look.own_text(tree);
    look.found
}

/// Where a value comes from.
#[derive(Debug, Clone, Default)]
struct Origin {
    /// The list of messages, or a message.
    messages: bool,
    /// The words of a message.
    content: bool,
    date: bool,
    /// A word that the content was cut at or searched for.
    word: Option<String>,
    trigger: Option<Trigger>,
}

/// A decision that hangs on the words of a message, or on the date.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trigger {
    /// What is looked for; of a date, how.
    what: String,
    control: bool,
}

impl Trigger {
    fn word(word: &str) -> Self {
        let markup = word.contains(['<', '>', '[', ']', '{', '}', '|']) || word.starts_with('/');
        Self {
            what: format!("messages hold {word:?}"),
            control: markup || !word.chars().any(char::is_alphabetic),
        }
    }
}

impl Origin {
    fn join(mut self, other: Self) -> Self {
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

    fn only_trigger(self) -> Self {
        Self { trigger: self.trigger, ..Self::default() }
    }
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
struct Look {
    variables: BTreeMap<String, Origin>,
    /// Words that a variable may hold.
    words: BTreeMap<String, Vec<String>>,
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
                self.words.entry(node.text.clone()).or_default().extend(words.into_iter().take(32));
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
            Kind::Body | Kind::Branch | Kind::Block => {
                node.children.iter().for_each(|child| self.visit(child, around));
            }
            _ => self.expressions(node, around),
        }
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
            self.words.entry(name.to_owned()).or_default().extend(words.iter().take(32).cloned());
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
            Kind::Filter
                if matches!(node.text.as_str(), "center" | "indent" | "wordwrap" | "batch" | "slice") =>
            {
                if node
                    .children
                    .iter()
                    .skip(1)
                    .any(|node| self.number(node).is_some_and(|number| number > ROUNDS))
                {
                    self.push(Code::TemplateEndless, format!("makes something enormous with {}", node.text));
                }
            }
            _ => {}
        }
        node.children.iter().for_each(|child| match child.kind {
            Kind::Body => self.visit(child, around),
            _ => self.expressions(child, around),
        });
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

    /// Where the value of an expression comes from.
    fn origin(&self, node: &Node) -> Origin {
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
                    let about = node.child(1).is_some_and(|about| CONTENT.contains(&about.text.as_str()));
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
                if COMPARING.contains(&node.text.as_str()) {
                    self.compared(node, origin)
                } else {
                    origin.only_trigger()
                }
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
        if called.kind == Kind::Attr
            && MATCHERS.contains(&called.text.as_str())
            && (origin.content || origin.date)
        {
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
    fn strings(&self, node: &Node) -> Vec<String> {
        match node.kind {
            Kind::Str => vec![node.text.clone()],
            Kind::Name => self.words.get(&node.text).cloned().unwrap_or_default(),
            Kind::List | Kind::Binary | Kind::Filter | Kind::Unary | Kind::Choice | Kind::Named => {
                node.children.iter().flat_map(|child| self.strings(child)).take(64).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Ways out of the template language.
    fn reach(&mut self, node: &Node) {
        match node.kind {
            Kind::Load => {
                self.push(Code::TemplateReach, format!("loads another template with {}", node.text))
            }
            Kind::Str if is_inner(&node.text) => {
                self.push(Code::TemplateReach, format!("names {:?}", start_of(&node.text)));
            }
            Kind::Attr if is_inner(&node.text) || INNER.contains(&node.text.as_str()) => {
                self.push(Code::TemplateReach, format!("walks to the attribute {}", start_of(&node.text)));
            }
            Kind::Filter if node.text == "attr" => {
                self.push(Code::TemplateReach, "takes attributes by computed names (the filter attr)");
            }
            Kind::Filter if !FILTERS.contains(&node.text.as_str()) => {
                self.push(
                    Code::TemplateUnknownName,
                    format!("uses the filter {}, which is not known", start_of(&node.text)),
                );
            }
            Kind::Item => {
                // A name put together from pieces hides it from every search.
                let built = node
                    .child(1)
                    .filter(|index| matches!(index.text.as_str(), "+" | "~" | "%" | "join" | "format"));
                let folded = built.map(|index| self.folded(index)).unwrap_or_default();
                if is_inner(&folded) {
                    self.push(Code::TemplateReach, format!("puts together the name {:?}", start_of(&folded)));
                }
            }
            Kind::Binary if node.text == "+" || node.text == "~" => {
                let folded = self.folded(node);
                if is_inner(&folded) {
                    self.push(Code::TemplateReach, format!("puts together the name {:?}", start_of(&folded)));
                }
            }
            _ => {}
        }
        let base = node.child(0).filter(|_| matches!(node.kind, Kind::Call | Kind::Attr | Kind::Item));
        let Some(base) = base.filter(|base| base.kind == Kind::Name) else { return };
        let name = base.text.as_str();
        let own = self.macros.contains_key(name) || self.variables.contains_key(name);
        if OUTSIDE.contains(&name) && !own {
            self.push(Code::TemplateReach, format!("uses {name}, which leads out of the template"));
        } else if node.kind == Kind::Call && !own && !FUNCTIONS.contains(&name) {
            self.push(Code::TemplateUnknownName, format!("calls {}, which is not known", start_of(name)));
        }
    }

    /// The text that constant pieces are together.
    fn folded(&self, node: &Node) -> String {
        match node.kind {
            Kind::Str => node.text.clone(),
            Kind::Name => {
                self.words.get(&node.text).and_then(|words| words.first()).cloned().unwrap_or_default()
            }
            Kind::Binary | Kind::List | Kind::Filter | Kind::Unary => {
                node.children.iter().map(|child| self.folded(child)).collect()
            }
            _ => String::new(),
        }
    }

    /// Macros that call themselves whatever happens.
    fn endless_macros(&mut self) {
        let mut reached = self.calls.clone();
        for _ in 0..self.macros.len().min(64) {
            let further: Vec<(String, String)> = reached
                .iter()
                .flat_map(|(a, b)| {
                    let next = self.calls.iter().filter(move |(c, _)| c == b);
                    next.map(move |(_, d)| (a.clone(), d.clone()))
                })
                .collect();
            let before = reached.len();
            reached.extend(further);
            if reached.len() == before {
                break;
            }
        }
        for (a, b) in reached {
            if a == b {
                self.push(
                    Code::TemplateEndless,
                    format!("has a macro {} that calls itself without end", start_of(&a)),
                );
            }
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

/// The part of a message or of its content that has this name.
fn part_of(mut origin: Origin, name: &str) -> Origin {
    if CONTENT.contains(&name) {
        origin.content |= origin.messages;
    } else if STRUCTURE.contains(&name) {
        origin.content = false;
    }
    origin
}

/// `a.b.c` of names alone.
fn dotted(node: &Node) -> Option<String> {
    match node.kind {
        Kind::Name => Some(node.text.clone()),
        Kind::Attr => Some(format!("{}.{}", dotted(node.child(0)?)?, node.text)),
        _ => None,
    }
}

/// Does the expression hold the variable more than once, put together?
fn grows(node: &Node, name: &str) -> bool {
    fn count(node: &Node, name: &str) -> usize {
        match node.kind {
            Kind::Name | Kind::Attr if dotted(node).as_deref() == Some(name) => 1,
            Kind::Binary if matches!(node.text.as_str(), "+" | "~") => {
                node.children.iter().map(|child| count(child, name)).sum()
            }
            Kind::Binary if node.text == "*" => {
                let held = node.children.iter().map(|child| count(child, name)).max().unwrap_or(0);
                let number = node
                    .children
                    .iter()
                    .filter(|child| child.kind == Kind::Int)
                    .filter_map(|n| n.text.parse::<usize>().ok())
                    .max();
                held.saturating_mul(number.unwrap_or(2))
            }
            Kind::List => node.children.iter().map(|child| count(child, name)).sum(),
            Kind::Filter => node.child(0).map_or(0, |child| count(child, name)),
            _ => 0,
        }
    }
    // A number is no text: adding it to itself a hundred times is no danger.
    count(node, name) > 1
}

/// A name with two underscores before and behind it.
fn is_inner(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find("__") {
        let after = rest.get(at + 2..).unwrap_or_default();
        let word =
            after.find(|c: char| !c.is_ascii_lowercase() && c != '_' || c == '_').unwrap_or(after.len());
        if word >= 2 && after.get(word..).is_some_and(|rest| rest.starts_with("__")) {
            return true;
        }
        rest = after;
    }
    false
}

/// Literal texts below a node that a reader of the prompt would see, exceptions left out.
fn own_texts(node: &Node, out: &mut Vec<String>) {
    match node.kind {
        Kind::Text | Kind::Str => out.push(node.text.clone()),
        Kind::Call if node.child(0).is_some_and(|called| called.is(Kind::Name, "raise_exception")) => {}
        _ => node.children.iter().for_each(|child| own_texts(child, out)),
    }
}

/// Words of prose: what stands in brackets of markup does not count.
fn words_of(text: &str) -> usize {
    let mut depth = 0usize;
    let prose: String = text
        .chars()
        .map(|c| {
            match c {
                '<' | '[' | '{' => depth += 1,
                '>' | ']' | '}' => depth = depth.saturating_sub(1),
                c if depth == 0 => return c,
                _ => {}
            }
            ' '
        })
        .collect();
    prose.split_whitespace().filter(|word| word.chars().filter(|c| c.is_alphabetic()).count() >= 2).count()
}

/// The beginning of a text, for a message.
fn start_of(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut out: String = text.trim().chars().take(SHOWN).collect();
    if text.trim().chars().count() > SHOWN {
        out.push('…');
    }
    out
}
