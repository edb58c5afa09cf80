//! Chat templates, rendered in a worker of their own: a template is a program of the model's author.

mod render;

use super::ending::WorkerEnd;
use super::limits::WorkerLimits;
use super::parent::Worker;
use crate::domain::budget;
pub(super) use render::rendered;
pub use render::{Conversation, Message};

/// The text of a conversation up to where the model is to answer, or why its template made none.
///
/// # Errors
/// The template did not come to an end within its limits, or broke its worker.
pub fn render(
    conversation: &Conversation,
    limits: &WorkerLimits,
) -> Result<Result<String, String>, WorkerEnd> {
    let limits = WorkerLimits {
        memory_bytes: Some(budget::CHAT_BYTES),
        stall: budget::CHAT_STALL,
        stamps: Vec::new(),
        ..limits.clone()
    };
    Worker::render(conversation, &limits)
}
