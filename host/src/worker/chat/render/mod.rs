//! Chat templates, rendered: a conversation to the text that a model continues.
//!
//! A template is a program of the model's author. Invariants: it runs only here, in a worker that
//! has no model, no file and no network, under limits on steps, time, memory and output; it sees
//! the conversation and nothing else, so that the same messages always give the same text. As
//! Hugging Face renders them: blocks trimmed, methods of Python's texts and lists,
//! `raise_exception`. Deliberately absent: a clock (`strftime_now` is not defined, and templates
//! that ask for it first fall back to a date of their own), other templates, tools.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::domain::budget;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// What a template is rendered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    pub template: String,
    pub messages: Vec<Message>,
    /// Texts of the tokens that begin and end a sequence; empty where there is none.
    pub bos: String,
    pub eos: String,
}

/// The text of a conversation up to where the model is to answer.
///
/// # Errors
/// Why its template made none: words of its author, what is wrong with it, or a limit.
pub fn rendered(conversation: &Conversation) -> Result<String, String> {
    let mut text = Bounded(Vec::new());
    let words = |error: Error| match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes more than {} steps", budget::CHAT_FUEL),
        ErrorKind::WriteFailure => format!("its text is longer than {} bytes", budget::CHAT_TEXT_BYTES),
        _ => error.to_string(),
    };
    let environment = environment().map_err(words)?;
    let template = environment.template_from_named_str("chat_template", &conversation.template);
    let message = |message: &Message| {
        Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
    };
    let values = context! {
        messages => conversation.messages.iter().map(message).collect::<Value>(),
        bos_token => conversation.bos.as_str(),
        eos_token => conversation.eos.as_str(),
        add_generation_prompt => true,
        tools => (),
        documents => (),
    };
    template
        .and_then(|template| template.render_captured_to(values, &mut text).map(|_| ()))
        .map_err(words)?;
    String::from_utf8(text.0).map_err(|error| error.to_string())
}

/// What a template finds around itself.
fn environment<'source>() -> Result<Environment<'source>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(budget::CHAT_FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    Ok(environment)
}

/// As Python writes JSON, which is what models were trained on: a space behind each comma and
/// colon, and nothing escaped for pages.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut text = Vec::new();
    let written = match options.get::<Option<usize>>("indent")?.map(|indent| " ".repeat(indent.min(16))) {
        Some(indent) => {
            let pretty = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut text, pretty))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, Spaced)),
    };
    written.map_err(|error| failed(&error))?;
    String::from_utf8(text).map_err(|error| failed(&error))
}

/// `{"a": [1, 2]}`.
struct Spaced;

impl Spaced {
    fn comma<W: ?Sized + Write>(out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        Self::comma(out, first)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        Self::comma(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// A text that does not grow beyond its limit.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > budget::CHAT_TEXT_BYTES {
            return Err(io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
