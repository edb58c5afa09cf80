//! Start and stop.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::config::Config;
use super::inspector::Inspector;
use super::parts::Parts;
use super::serving;
use super::supervisor::{News, Supervisor};
use super::turn::Turn;
use crate::api::{self, Api, Live, Metrics};
use crate::domain::{Problem, budget};
use crate::store::Store;
use crate::watch::{WatchOptions, Watcher};

/// Messages from threads that wait for the supervisor; a full queue makes them wait.
const NEWS: usize = 256;
/// Time that blocked threads get when the daemon ends.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// The daemon answers; what was found on record.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The real address: port 0 has become a free one.
    pub address: SocketAddr,
    pub folders: Vec<PathBuf>,
    pub state: PathBuf,
    /// Artifacts on record from before.
    pub artifacts: usize,
    /// Assays that wait or were interrupted, and go on now.
    pub unfinished: usize,
}

/// Runs the daemon on this thread until `stop` resolves, then ends gracefully. `ready` is
/// called once it answers. A second resolution of `stop` ends it at once.
pub fn run<S, F>(config: Config, parts: Parts, ready: impl FnOnce(Ready), mut stop: S) -> Result<(), Problem>
where
    S: FnMut() -> F,
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("assayd")
        .enable_all()
        .build()
        .map_err(|error| Problem::machine(format!("cannot start threads: {error}")))?;
    let (stopper, stopping) = watch::channel(false);
    let result = runtime.block_on(async {
        // A signal during the start counts, too.
        let mut first = Box::pin(stop());
        let mut daemon = Box::pin(daemon(config, parts, ready, stopping));
        tokio::select! {
            ended = &mut daemon => return ended,
            () = &mut first => {}
        }
        stopper.send_replace(true);
        tracing::info!("stopping; once more ends at once");
        tokio::select! {
            ended = daemon => ended,
            () = stop() => Ok(()),
        }
    });
    runtime.shutdown_timeout(LAST_MOMENT);
    result
}

/// A daemon on a thread of its own.
#[derive(Debug)]
pub struct Running {
    pub ready: Ready,
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<(), Problem>>,
}

/// Starts a daemon beside the caller; returns when it answers.
pub fn spawn(config: Config, parts: Parts) -> Result<Running, Problem> {
    let (stop, stopping) = watch::channel(false);
    let (say, said) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("daemon".to_owned())
        .spawn(move || {
            let ready = move |ready| {
                let _ = say.send(ready);
            };
            // Only the first stop can be asked for; there is no second, harder one.
            let mut first = Some(stopping);
            run(config, parts, ready, move || {
                let stopping = first.take();
                async move {
                    match stopping {
                        // An owner that went away without a word wants no daemon either.
                        Some(mut stopping) => drop(stopping.wait_for(|stopping| *stopping).await),
                        None => std::future::pending().await,
                    }
                }
            })
        })
        .map_err(|error| Problem::machine(format!("cannot start a thread: {error}")))?;
    match said.recv() {
        Ok(ready) => Ok(Running { ready, stop, thread }),
        // It ended before it answered: the reason is its result.
        Err(_) => match thread.join() {
            Ok(Err(problem)) => Err(problem),
            _ => Err(Problem::internal("the daemon ended before it answered")),
        },
    }
}

impl Running {
    /// Ends it gracefully and waits.
    pub fn stop(self) -> Result<(), Problem> {
        self.stop.send_replace(true);
        self.thread.join().unwrap_or_else(|_| Err(Problem::internal("the daemon broke off")))
    }
}

async fn daemon(
    config: Config,
    parts: Parts,
    ready: impl FnOnce(Ready),
    stopping: watch::Receiver<bool>,
) -> Result<(), Problem> {
    // The lock first: whoever holds the folder is the better explanation for a taken port.
    let store = Store::open(&config.state).await?;
    let listener = api::listen(config.listen).await?;
    let (news, heard) = mpsc::channel(NEWS);
    let (commands, asked) = mpsc::channel(budget::COMMANDS);
    let writable = Arc::new(AtomicBool::new(true));
    let turn = Arc::new(Turn::default());
    let api = Api {
        reader: store.reader.clone(),
        commands,
        live: Arc::new(Live::default()),
        metrics: Arc::new(Metrics::default()),
        render: parts.render.clone(),
        list_plugins: parts.list_plugins.clone(),
        key: config.api_key.as_ref().map(|key| key.reveal().into()),
        address: listener.address,
        folders: config.models.as_slice().into(),
        bundles: config.bundle_folder().into(),
        started: Instant::now(),
        writable: writable.clone(),
        stopping: stopping.clone(),
        streams: Arc::new(Semaphore::new(budget::HTTP_EVENT_STREAMS)),
        orders: serving::start(&config, Arc::clone(&turn))?,
    };
    let inspector = Inspector::start(parts.inspect.clone(), api.live.clone(), news.clone())?;
    let ready_now = Ready {
        address: listener.address,
        folders: config.models.clone(),
        state: config.state.clone(),
        artifacts: 0,
        unfinished: 0,
    };
    let options =
        WatchOptions { folders: config.models.clone(), settle: config.settle, rescan: config.rescan };
    let discover = parts.discover.clone();
    let mut supervisor = Supervisor::new(config, parts, store, &api, inspector, news.clone(), turn);
    let (artifacts, unfinished) = supervisor.resume().await?;
    let watcher = Watcher::start(
        options,
        move |folder| discover(folder),
        move |event| news.blocking_send(News::Watch(event)).is_ok(),
    )?;
    let server = tokio::spawn(listener.serve(api::router(api), stopping.clone()));
    ready(Ready { artifacts, unfinished, ..ready_now });
    let lock = supervisor.work(heard, asked, stopping).await;
    // The thread may be in the middle of a long look; nobody listens to it any more.
    let (gone, end) = oneshot::channel();
    std::thread::spawn(move || {
        drop(watcher);
        let _ = gone.send(());
    });
    let _ = tokio::time::timeout(LAST_MOMENT, end).await;
    let _ = server.await;
    // Last of all: the next daemon may come when everything of this one is done.
    drop(lock);
    Ok(())
}
