//! Does what the metadata declares fit what the tensors are? Works on headers alone.
//!
//! The rules for all architectures are few; what must be there is known for those in
//! `inventory.txt`, and all shapes for those in `shapes::LLAMA_LIKE`. An architecture that is not
//! known is never a reason to reject.

mod adapter;
mod inventory;
mod keys;
mod layers;
mod metadata;
mod shapes;
mod tensors;
mod vocabulary;

use self::inventory::Inventory;
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

/// One file.
#[derive(Debug)]
pub struct Part<'a> {
    /// File name, for split sets.
    pub name: Option<&'a str>,
    pub metadata: &'a Metadata,
    pub tensors: &'a [Tensor],
}

impl<'a> Model<'a> {
    /// A model in one file.
    pub fn single(header: &'a Header) -> Self {
        Self::one_part(&header.metadata, &header.tensors)
    }

    pub fn one_part(metadata: &'a Metadata, tensors: &'a [Tensor]) -> Self {
        Self { metadata, parts: vec![Part { name: None, metadata, tensors }] }
    }

    pub fn tensors(&self) -> impl Iterator<Item = &'a Tensor> {
        self.parts.iter().flat_map(|part| part.tensors)
    }

    /// Tensors with the name of the part they are in.
    fn placed(&self) -> impl Iterator<Item = (&'a Tensor, Option<&'a str>)> {
        self.parts.iter().flat_map(|part| part.tensors.iter().map(|tensor| (tensor, part.name)))
    }

    /// The name of the part that the metadata are of.
    fn home(&self) -> Option<&'a str> {
        self.parts.iter().find(|part| std::ptr::eq(part.metadata, self.metadata))?.name
    }

    /// What the file holds instead of a language model, by `general.type`, and by having neither
    /// entries nor tensors of one.
    fn other(&self) -> Option<&'a str> {
        let architecture = self.metadata.architecture();
        match (self.metadata.str("general.type"), architecture) {
            (Some("imatrix"), _) => return Some("an importance matrix"),
            (Some("mmproj"), _) | (_, Some("clip")) => return Some("a projector"),
            _ => {}
        }
        let of_a_model = |name: &str| name == "token_embd.weight" || tensors::place_of(name).is_some();
        let entries = ["block_count", "context_length", "embedding_length"];
        let model = self.metadata.get("tokenizer.ggml.model").is_some()
            || entries.iter().any(|key| self.metadata.hparam(key).is_some())
            || self.tensors().any(|tensor| of_a_model(&tensor.name));
        (!model).then(|| architecture.unwrap_or("something without a name"))
    }
}

/// Adds every contradiction between metadata and tensors to `findings`.
pub fn check(model: &Model<'_>, findings: &mut Findings) {
    let known = model.metadata.architecture().and_then(Inventory::of);
    for part in &model.parts {
        findings.part = part.name.map(str::to_owned);
        keys::check(part.metadata, known.as_ref(), findings);
    }
    findings.part = model.home().map(str::to_owned);
    for (name, text) in template::of_metadata(model.metadata) {
        template::check(&name, text, findings);
    }
    if model.metadata.str("general.type") == Some("adapter") {
        adapter::check(model, findings);
    } else if let Some(what) = model.other() {
        findings
            .push(Code::NotALanguageModel.finding(format!("the file holds {what}, not a language model")));
    } else if model.tensors().next().is_none() {
        findings.push(Code::NotALanguageModel.finding("the file holds no tensors, only metadata"));
    } else {
        metadata::check(model.metadata, known.as_ref(), findings);
        vocabulary::check(model, findings);
        findings.part = None;
        tensors::check(model, known.as_ref(), findings);
    }
    findings.part = None;
}

/// A finding about a tensor, with the part it is in.
fn about(tensor: &str, part: Option<&str>, finding: Finding) -> Finding {
    Finding { tensor: Some(tensor.to_owned()), part: part.map(str::to_owned), ..finding }
}

#[cfg(test)]
mod tests;
