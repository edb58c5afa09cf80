//! `assayd serve`: the daemon.

use std::fmt::{self, Write as _};
use std::future::Future;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::screen;
use crate::app::config::{self, Config, Overrides};
use crate::app::{self, Parts, Ready};
use crate::domain::Problem;

/// Watches folders, judges what is dropped into them, and answers on HTTP.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  assayd serve
      watches ./models, or $XDG_DATA_HOME/assayd/models if there is no such folder
  assayd serve --models ~/models --models /srv/models --state /var/lib/assayd
  assayd serve --config assayd.toml --listen 127.0.0.1:0
      takes a free port and prints it

What a model is compared with is said by a rule in the configuration,

  [[rule]]
  match = \"qwen2*.gguf\"
  reference = \"/srv/trusted/qwen2-f16.gguf\"

or by a file NAME.assay.toml beside the model NAME, with a line `reference = \"...\"`.
Ctrl-C or SIGTERM stops gracefully; a second one at once.")]
pub struct Args {
    /// Configuration file (TOML) [default: $XDG_CONFIG_HOME/assayd/config.toml if it exists]
    #[arg(long, value_name = "F")]
    pub config: Option<PathBuf>,
    /// Folder to watch; may be given several times
    #[arg(long = "models", value_name = "DIR")]
    pub models: Vec<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:7478]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Folder for results [default: $XDG_STATE_HOME/assayd]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// Runs until it is told to stop.
pub fn run(args: &Args) -> Result<u8, Problem> {
    log_to_stderr();
    let overrides = Overrides {
        config: args.config.clone(),
        models: args.models.clone(),
        listen: args.listen.clone(),
        state: args.state.clone(),
    };
    let config = config::load(&overrides, &|name| std::env::var(name).ok())?;
    let parts = Parts::real(&config)?;
    let rules = described(&config);
    // A daemon whose greeting nobody reads runs all the same.
    let greet = move |ready| drop(screen::print(&greeting(&ready, &rules)));
    app::run(config, parts, greet, stop())?;
    Ok(0)
}

/// Resolves once for each SIGTERM or Ctrl-C.
fn stop() -> impl FnMut() -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    // Made at the first use, inside the runtime, and kept: a signal between two uses counts.
    let signals = std::rc::Rc::new(tokio::sync::OnceCell::new());
    move || {
        let signals = signals.clone();
        Box::pin(async move {
            let both = signals.get_or_init(|| async { tokio::sync::Mutex::new(listen_for_signals()) }).await;
            match both.lock().await.as_mut() {
                Some((terminate, interrupt)) => {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                }
                // Without handlers the system's own way to end a process holds.
                None => std::future::pending().await,
            }
        })
    }
}

fn listen_for_signals() -> Option<(Signal, Signal)> {
    let both = signal(SignalKind::terminate()).and_then(|t| Ok((t, signal(SignalKind::interrupt())?)));
    both.inspect_err(|error| tracing::warn!(%error, "signals end the daemon without grace")).ok()
}

fn described(config: &Config) -> String {
    let file = match &config.file {
        Some(file) => format!("configuration {}", screen::shown_path(file)),
        None => "no configuration file".to_owned(),
    };
    match config.rules.len() {
        0 => format!("{file}; no rules, so models are inspected only unless a sidecar names a reference"),
        1 => format!("{file}; 1 rule"),
        n => format!("{file}; {n} rules"),
    }
}

fn greeting(ready: &Ready, rules: &str) -> String {
    let mut out = format!("assayd {} listens on http://{}\n", env!("CARGO_PKG_VERSION"), ready.address);
    for folder in &ready.folders {
        let _ = writeln!(out, "  watches {}", screen::shown_path(folder));
    }
    let _ = writeln!(out, "  state   {}\n  {rules}", screen::shown_path(&ready.state));
    if ready.artifacts > 0 || ready.unfinished > 0 {
        let (artifacts, unfinished) = (ready.artifacts, ready.unfinished);
        let _ = writeln!(out, "  on record: {artifacts} artifacts, {unfinished} unfinished assays go on");
    }
    out + "  Ctrl-C stops it\n"
}

/// What a log line says of a path or of a text from a file steers no terminal.
fn put_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = screen::shown(&format!("{value:?}"));
    if field.name() == "message" { writer.write_str(&value) } else { write!(writer, "{field}={value}") }
}

/// Log lines on `writer`.
fn logger<W>(writer: W, colours: bool) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = tracing_subscriber::EnvFilter::try_from_env("ASSAYD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours)
        .with_target(false)
        .fmt_fields(debug_fn(put_field).delimited(" "))
        .finish()
}

fn log_to_stderr() {
    // A second one (a caller that logs already) is left as it is.
    let _ = logger(std::io::stderr, std::io::stderr().is_terminal()).try_init();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_hostile_name_steers_no_log() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = Arc::new(path.reopen().unwrap());
        let hostile = "m\u{1b}]0;x\u{7}\u{9b}31m\u{202e}\nfugg.gguf";
        tracing::subscriber::with_default(logger(file, false), || {
            tracing::info!(path = %std::path::Path::new(hostile).display(), text = hostile, "read {hostile}");
        });
        let log = std::fs::read_to_string(path.path()).unwrap();
        assert_eq!(log.matches("fugg.gguf").count(), 3, "{log:?}");
        assert!(log.contains(" path=m\u{fffd}]0;x"), "{log:?}");
        assert_eq!(log.trim_end(), crate::domain::text::plain(log.trim_end()), "one line, all of it seen");
    }
}
