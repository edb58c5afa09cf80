//! Chat templates, looked at and never rendered.
//!
//! A template is Jinja text that a runtime runs on every conversation. The tree is walked
//! for what no honest template does: reaching outside of the template language, slipping in
//! text when a message holds certain words or a date has come, loops that do not end. What
//! cannot be read is said to be unknown, never clean. Deliberately absent: rendering, and
//! any judgement of the wording itself.

mod expression;
mod growth;
mod lex;
mod look;
mod macros;
mod names;
mod nature;
mod origin;
mod parse;
mod payload;
mod reach;
mod size;
mod text;
mod tree;

use std::collections::BTreeSet;

use super::finding::{Code, Findings};
use super::gguf::{Metadata, Value};
use crate::domain::budget;

/// What is found in a template, each thing once.
type Found = BTreeSet<(Code, String)>;

/// Looks at one template; `name` says which of an artifact's templates it is.
pub fn check(name: &str, source: &str, findings: &mut Findings) {
    let mut push = |code: Code, what: &str| {
        findings.push(code.finding(format!("the chat template {name:?} {what}")));
    };
    if source.len() > budget::TEMPLATE_BYTES {
        push(Code::TemplateUnread, &format!("has {} bytes, more than are looked at", source.len()));
        return;
    }
    match parse::parse(source) {
        Ok(tree) => {
            let found = [reach::look(&tree), growth::look(&tree), look::look(&tree)].into_iter().flatten();
            found.collect::<Found>().iter().for_each(|(code, what)| push(*code, what));
        }
        Err(why) => push(Code::TemplateUnread, &format!("cannot be read: {why}")),
    }
}

/// The templates in GGUF metadata with their names: `default` is the one used when nobody
/// asks for another.
pub fn of_metadata(metadata: &Metadata) -> Vec<(String, &str)> {
    const KEY: &str = "tokenizer.chat_template";
    let template = |(key, value): (&str, &'_ Value)| {
        let rest = key.strip_prefix(KEY)?;
        let name = if rest.is_empty() { "default" } else { rest.strip_prefix('.')? };
        Some((name.to_owned(), key.to_owned(), value.kind()))
    };
    let names = metadata.iter().filter_map(template);
    names.filter_map(|(name, key, _)| Some((name, metadata.str(&key)?))).collect()
}

/// The name of the template that is a file of its own.
pub fn of_file(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    if file == "chat_template.jinja" { "default" } else { file.strip_suffix(".jinja").unwrap_or(file) }
}

/// The templates of a `tokenizer_config.json` or `chat_template.json`: one text, or a list of
/// names and texts.
pub fn of_config(config: &serde_json::Value) -> Vec<(String, String)> {
    match config.get("chat_template") {
        Some(serde_json::Value::String(text)) => vec![("default".to_owned(), text.clone())],
        Some(serde_json::Value::Array(list)) => {
            let text = |item: &serde_json::Value, key: &str| Some(item.get(key)?.as_str()?.to_owned());
            list.iter().filter_map(|item| Some((text(item, "name")?, text(item, "template")?))).collect()
        }
        Some(serde_json::Value::Object(map)) => {
            map.iter().filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
