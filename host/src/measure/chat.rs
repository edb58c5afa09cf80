//! A conversation to the tokens that a model continues, by the model's own chat template.
//!
//! Invariants: the template is rendered in a worker of its own, never beside the model and never
//! in the daemon; the token that begins a sequence stands there once, whether the template prints
//! it, the tokenizer adds it, or both. Deliberately absent: a template for a model that has none.

use super::complete::Failure;
use crate::domain::budget;
use crate::worker::{Conversation, Message, Worker, WorkerEnd, WorkerLimits, render};

/// The prompt of a conversation. `limits` are those of the worker that renders it.
///
/// # Errors
/// The template declines the conversation or does not come to an end, or the model's worker ended.
pub fn prompt(
    worker: &mut Worker,
    template: Option<&str>,
    messages: &[Message],
    limits: &WorkerLimits,
) -> Result<Vec<u32>, Failure> {
    let Some(template) = template else {
        let why =
            "the model has no chat template; POST /v1/completions continues a text that you lay out yourself";
        return Err(Failure::Ask { param: "model", why: why.to_owned() });
    };
    if template.len() > budget::TEMPLATE_BYTES {
        let (bytes, most) = (template.len(), budget::TEMPLATE_BYTES);
        let why = format!("the model's chat template has {bytes} bytes, and at most {most} are rendered");
        return Err(Failure::Ask { param: "model", why });
    }
    let [bos, eos] = ends(worker)?;
    let conversation = Conversation {
        template: template.to_owned(),
        messages: messages.to_vec(),
        bos: bos.unwrap_or_default(),
        eos: eos.unwrap_or_default(),
    };
    let text = match render(&conversation, limits) {
        Ok(Ok(text)) => text,
        Ok(Err(why)) => {
            let why = format!("the model's chat template makes no text of these messages: {why}");
            return Err(Failure::Ask { param: "messages", why });
        }
        Err(WorkerEnd { ending, detail, .. }) => {
            let ending = ending.as_str();
            return Err(Failure::Model(format!("the model's chat template was ended ({ending}: {detail})")));
        }
    };
    let tokens = worker.tokenize_marked(&text)?;
    Ok(begun_once(tokens, worker.info().bos, worker.info().adds_bos))
}

/// Texts of the tokens that begin and end a sequence.
///
/// # Errors
/// The worker ended.
pub fn ends(worker: &mut Worker) -> Result<[Option<String>; 2], WorkerEnd> {
    let ids = [worker.info().bos, worker.info().eos];
    let sequences: Vec<Vec<u32>> = ids.iter().flatten().map(|id| vec![*id]).collect();
    let mut texts = worker.detokenize(&sequences)?.into_iter();
    Ok(ids.map(|id| id.and_then(|_| texts.next())))
}

/// `tokens` with the token that begins a sequence: as the template printed it, but never twice,
/// and where it did not, as the tokenizer would add it.
fn begun_once(mut tokens: Vec<u32>, bos: Option<u32>, adds_bos: bool) -> Vec<u32> {
    let Some(bos) = bos else { return tokens };
    let printed = tokens.iter().take_while(|token| **token == bos).count();
    if printed > 0 {
        tokens.drain(1..printed);
    } else if adds_bos {
        tokens.insert(0, bos);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_begins_once_whoever_begins_it() {
        for (tokens, bos, adds, expected) in [
            (vec![5, 6], Some(1), true, vec![1, 5, 6]),
            (vec![1, 5, 1], Some(1), true, vec![1, 5, 1]),
            (vec![1, 1, 1, 5], Some(1), true, vec![1, 5]),
            (vec![1, 1, 5], Some(1), false, vec![1, 5]),
            (vec![5], Some(1), false, vec![5]),
            (vec![5], None, true, vec![5]),
            (vec![], Some(1), true, vec![1]),
        ] {
            assert_eq!(begun_once(tokens.clone(), bos, adds), expected, "{tokens:?} {bos:?} {adds}");
        }
    }
}
