//! What HTTP asks of a model in memory: orders to the thread that holds it, and its answers.
//!
//! Invariants: an order that nobody waits for any more is dropped, and its worker ended; a full
//! queue is said at once. Deliberately absent: the model itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use axum::http::StatusCode;
use tokio::sync::mpsc;

use super::Api;
use super::models::{Served, served};
use super::reply::ApiError;
use crate::domain::{Problem, ProblemKind};
use crate::measure::complete::{Ask, Choice};
use crate::worker::Message;

/// Seconds after which a client may try again when the models are in use.
pub const BUSY_SECONDS: u32 = 5;

/// What is to be done with a model.
#[derive(Debug)]
pub enum Task {
    Complete(Ask),
    /// Answer a conversation; `ask` is the rest, and its prompts and length are not looked at.
    Chat {
        messages: Vec<Message>,
        ask: Ask,
        /// What the context leaves, up to [`crate::domain::budget::CHAT_NEW_TOKENS`], if `None`.
        new_tokens: Option<u32>,
    },
    Tokenize {
        text: String,
        add_special: bool,
    },
    Detokenize(Vec<u32>),
    /// Tell of its tokenizer.
    Describe,
}

/// An answer, or a part of one.
#[derive(Debug)]
pub enum Told {
    /// The next part of the answer to one of the prompts.
    Piece {
        prompt: usize,
        text: String,
    },
    Choices(Vec<Choice>),
    /// Token ids, and the context of the model.
    Tokens {
        tokens: Vec<u32>,
        context: u32,
    },
    Text(String),
    /// Texts of the tokens that begin and end a sequence.
    Tokenizer {
        bos: Option<String>,
        eos: Option<String>,
        adds_bos: bool,
        context: u32,
    },
    Failed(ApiError),
}

/// One request.
#[derive(Debug)]
pub struct Order {
    pub model: Served,
    pub task: Task,
    /// Nobody waits for the answer any more.
    pub cancel: Arc<AtomicBool>,
    /// As many answers as an order may have are bounded by its tokens.
    pub tell: mpsc::UnboundedSender<Told>,
}

/// Where orders go.
pub type Orders = SyncSender<Order>;

/// An order that was taken; dropping it ends the work.
#[derive(Debug)]
pub struct Pending {
    answers: mpsc::UnboundedReceiver<Told>,
    cancel: Arc<AtomicBool>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

impl Pending {
    /// The next part of the answer.
    ///
    /// # Errors
    /// The order failed.
    pub async fn next(&mut self) -> Result<Told, ApiError> {
        match self.answers.recv().await {
            Some(Told::Failed(error)) => Err(error),
            Some(told) => Ok(told),
            None => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping")),
        }
    }
}

/// Hands an order to the thread that holds the model.
///
/// # Errors
/// No such model, or too many orders wait.
pub async fn order(api: &Api, model: Option<&str>, task: Task) -> Result<(String, Pending), ApiError> {
    let model = choose(served(&api.reader.artifacts().await?), model)?;
    let (tell, answers) = mpsc::unbounded_channel();
    let cancel = Arc::new(AtomicBool::new(false));
    let id = model.id.clone();
    let taken = api.orders.try_send(Order { model, task, cancel: Arc::clone(&cancel), tell });
    match taken {
        Ok(()) => Ok((id, Pending { answers, cancel })),
        Err(TrySendError::Full(_)) => {
            let why = "too many requests wait for a model already";
            Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, why).retry_after(BUSY_SECONDS))
        }
        Err(TrySendError::Disconnected(_)) => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"))
        }
    }
}

/// The model that a request names; the only one there is if it names none.
fn choose(mut models: Vec<Served>, name: Option<&str>) -> Result<Served, ApiError> {
    let found = match name {
        Some(name) => models.iter().position(|model| model.id == name),
        None if models.len() == 1 => Some(0),
        None => {
            let why = format!("{} models are served, so the request must name one", models.len());
            return Err(ApiError::bad(Some("model"), why));
        }
    };
    match found {
        Some(at) => Ok(models.swap_remove(at)),
        None => {
            let why =
                format!("there is no model `{}`; GET /v1/models lists what there is", name.unwrap_or(""));
            Err(ApiError { param: Some("model".to_owned()), ..ApiError::new(StatusCode::NOT_FOUND, why) })
        }
    }
}

/// An answer of another kind than the order's.
pub fn unexpected() -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the model gave an answer that was not asked for")
}

/// The models are in use by somebody else.
pub fn busy(why: &str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(BUSY_SECONDS)
}

/// A problem with a model, as its client is told.
pub fn told(problem: Problem) -> ApiError {
    let machine = problem.kind == ProblemKind::Machine;
    let error = ApiError::from(problem);
    if machine { error.retry_after(BUSY_SECONDS) } else { error }
}
