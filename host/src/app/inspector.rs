//! The thread that reads artifacts, one after the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::parts::Inspect;
use super::supervisor::News;
use crate::api::{Live, Progress};
use crate::domain::Problem;
use crate::domain::inspection::Inspection;
use crate::store::Stamp;

/// An artifact to read.
#[derive(Debug)]
pub struct Order {
    pub artifact: Uuid,
    pub path: PathBuf,
    /// The files as they were when it settled; they come back with the result, so that the
    /// result is not taken for that of later bytes.
    pub stamps: Vec<Stamp>,
}

/// What was read.
#[derive(Debug)]
pub struct Inspected {
    pub order: Order,
    pub result: Result<Inspection, Problem>,
    pub took: Duration,
}

/// Sends orders to the thread. It ends with this handle.
#[derive(Debug)]
pub struct Inspector {
    // At most one order per artifact waits, so the queue is bounded by their number.
    orders: Sender<Order>,
}

impl Inspector {
    pub fn start(inspect: Arc<Inspect>, live: Arc<Live>, news: mpsc::Sender<News>) -> Result<Self, Problem> {
        let (orders, ordered) = channel::<Order>();
        std::thread::Builder::new()
            .name("inspect".to_owned())
            .spawn(move || {
                for order in ordered {
                    let began = Instant::now();
                    let mut progress = |done, total| {
                        live.set(
                            order.artifact,
                            Progress { stage: "reading".to_owned(), done, total, message: None },
                        );
                    };
                    let reading = std::panic::AssertUnwindSafe(|| inspect(&order.path, &mut progress));
                    let result = std::panic::catch_unwind(reading)
                        .unwrap_or_else(|_| Err(Problem::internal("the inspection broke off")));
                    live.clear(order.artifact);
                    let inspected = Inspected { order, result, took: began.elapsed() };
                    if news.blocking_send(News::Inspected(Box::new(inspected))).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| Problem::machine(format!("cannot start the inspecting thread: {error}")))?;
        Ok(Self { orders })
    }

    pub fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::error!("the inspecting thread is gone");
        }
    }
}
