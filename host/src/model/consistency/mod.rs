//! Does what the metadata declares fit what the tensors are? Works on headers alone.
//!
//! The rules for all architectures are few; the full inventory and the shapes are checked
//! for the architectures in `tensors::LLAMA_LIKE`, whose tensors are known for certain.
//! An architecture that is not known is never a reason to reject.

mod metadata;
mod tensors;
mod vocabulary;

use super::finding::{Code, Findings};
use super::gguf::{Header, Metadata, Tensor};
use super::template;
use crate::domain::inspection::Finding;

/// A model as its headers tell it: one file, or the parts of a split set.
#[derive(Debug)]
pub struct Model<'a> {
    /// Metadata of the only or the first part.
    pub metadata: &'a Metadata,
    pub parts: Vec<Part<'a>>,
}

/// The tensors of one file.
#[derive(Debug)]
pub struct Part<'a> {
    /// File name, for split sets.
    pub name: Option<&'a str>,
    pub tensors: &'a [Tensor],
}

impl<'a> Model<'a> {
    /// A model in one file.
    pub fn single(header: &'a Header) -> Self {
        Self { metadata: &header.metadata, parts: vec![Part { name: None, tensors: &header.tensors }] }
    }

    pub fn tensors(&self) -> impl Iterator<Item = &'a Tensor> {
        self.parts.iter().flat_map(|part| part.tensors)
    }

    /// Tensors with the name of the part they are in.
    fn placed(&self) -> impl Iterator<Item = (&'a Tensor, Option<&'a str>)> {
        self.parts.iter().flat_map(|part| part.tensors.iter().map(|tensor| (tensor, part.name)))
    }

    pub fn tensor(&self, name: &str) -> Option<&'a Tensor> {
        self.tensors().find(|tensor| tensor.name == name)
    }

    /// What the file holds, by `general.type` and what a language model cannot lack.
    pub fn is_language_model(&self) -> bool {
        let kind = self.metadata.str("general.type").unwrap_or("model");
        kind == "model" && self.metadata.architecture() != Some("clip")
    }
}

/// Adds every contradiction between metadata and tensors to `findings`.
pub fn check(model: &Model<'_>, findings: &mut Findings) {
    metadata::check_types(model.metadata, findings);
    for (name, text) in template::of_metadata(model.metadata) {
        template::check(&name, text, findings);
    }
    if !model.is_language_model() {
        let kind = model.metadata.str("general.type").unwrap_or("projector");
        if kind != "adapter" {
            let message = format!("the file holds no language model; it is of the kind {kind}");
            findings.push(Code::NotALanguageModel.finding(message));
        }
        return;
    }
    if model.tensors().next().is_none() {
        findings.push(Code::NotALanguageModel.finding("the file holds no tensors, only metadata"));
        return;
    }
    metadata::check_values(model.metadata, findings);
    vocabulary::check(model, findings);
    tensors::check(model, findings);
}

/// A finding about a tensor, with the part it is in.
fn about(tensor: &str, part: Option<&str>, finding: Finding) -> Finding {
    Finding { tensor: Some(tensor.to_owned()), part: part.map(str::to_owned), ..finding }
}

#[cfg(test)]
mod tests;
