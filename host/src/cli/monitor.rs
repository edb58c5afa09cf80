//! `assayd monitor`: memory of the machine and of every worker, live.
//!
//! It only watches: workers are ended by the watchdog of whoever started them.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use super::screen;
use crate::domain::size::ByteSize;
use crate::domain::{Problem, schema_of};
use crate::governor::levels::{Alert, Alerts, Gauge, Levels, Subject};
use crate::governor::snapshot::{Scope, Snapshot};

/// Shows memory, swap, pressure and all workers until Ctrl-C, then prints what it saw as one
/// JSON document. It ends nothing: a worker is ended by whoever started it.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  assayd monitor
  assayd monitor --warning 60 --critical 80 --kill 90
  assayd monitor --seconds 30 > seen.json

Exit codes: 0 watched to the end, 2 the percentages do not rise.")]
pub struct Args {
    /// Percent of memory in use from which there is a warning
    #[arg(long, value_name = "PERCENT", default_value_t = 75)]
    warning: u8,
    /// Percent from which it is critical
    #[arg(long, value_name = "PERCENT", default_value_t = 85)]
    critical: u8,
    /// Percent at which watchdogs end their workers
    #[arg(long, value_name = "PERCENT", default_value_t = 92)]
    kill: u8,
    /// Seconds between two looks
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    interval: f64,
    /// Stop after so many seconds [default: at Ctrl-C]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Accepted for scripts: the document at the end is always JSON
    #[arg(long)]
    json: bool,
}

/// The JSON document.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "assayd monitor")]
struct Output {
    levels: Levels,
    seconds: f64,
    samples: u64,
    /// Most that was in use.
    peak_used_percent: Option<u8>,
    peak_worker_bytes: u64,
    /// The last look.
    now: Snapshot,
    alerts: Vec<Alert>,
    /// Alerts that the list had no room for.
    alerts_dropped: u64,
}

/// The published JSON schema of the document.
pub fn schema() -> String {
    schema_of::<Output>()
}

pub fn run(args: &Args) -> Result<u8, Problem> {
    let levels = Levels::new(args.warning, args.critical, args.kill)?;
    let within = |name: &str, value: f64, range: std::ops::RangeInclusive<f64>| {
        if range.contains(&value) {
            return Ok(Duration::from_secs_f64(value));
        }
        Err(Problem::usage(format!(
            "--{name} {value} is outside {} to {} seconds",
            range.start(),
            range.end()
        )))
    };
    let interval = within("interval", args.interval, 0.05..=3600.0)?;
    let duration = args.seconds.map(|seconds| within("seconds", seconds, 0.0..=31_536_000.0)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::machine(format!("cannot wait for signals: {error}")))?;
    let output = runtime.block_on(watch(levels, interval, duration))?;
    screen::print_json(&output)?;
    Ok(0)
}

async fn watch(levels: Levels, interval: Duration, duration: Option<Duration>) -> Result<Output, Problem> {
    let failed = |error: std::io::Error| Problem::machine(format!("cannot wait for signals: {error}"));
    let mut terminated =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(failed)?;
    let mut interrupted =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).map_err(failed)?;
    let started = Instant::now();
    let mut seen = Seen::new(levels);
    let mut screen = Screen::new();
    loop {
        let now = Snapshot::with(Scope::Machine, levels);
        seen.take(&now, started.elapsed());
        screen.show(&now, &seen.alerts);
        let left = duration.map(|duration| duration.saturating_sub(started.elapsed()));
        let pause = left.map_or(interval, |left| left.min(interval));
        if left == Some(Duration::ZERO) {
            return Ok(seen.output(now, started.elapsed()));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = terminated.recv() => return Ok(seen.output(now, started.elapsed())),
            _ = interrupted.recv() => return Ok(seen.output(now, started.elapsed())),
        }
    }
}

/// What was seen so far.
struct Seen {
    levels: Levels,
    gauge: Gauge,
    alerts: Alerts,
    samples: u64,
    peak: Option<u8>,
    peak_worker: u64,
}

impl Seen {
    fn new(levels: Levels) -> Self {
        let gauge = Gauge::new(levels);
        Self { levels, gauge, alerts: Alerts::default(), samples: 0, peak: None, peak_worker: 0 }
    }

    fn take(&mut self, now: &Snapshot, after: Duration) {
        self.samples += 1;
        self.peak = self.peak.max(now.used_percent);
        let largest = now.workers.first().map_or(0, |worker| worker.rss_anon_bytes);
        self.peak_worker = self.peak_worker.max(largest);
        let Some(percent) = now.used_percent else { return };
        for level in self.gauge.rise(percent) {
            self.alerts.add(Alert {
                subject: Subject::Machine,
                level,
                percent,
                used_bytes: now.memory.total_bytes.saturating_sub(now.memory.available_bytes),
                after_milliseconds: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            });
        }
    }

    fn output(self, now: Snapshot, after: Duration) -> Output {
        Output {
            levels: self.levels,
            seconds: after.as_secs_f64(),
            samples: self.samples,
            peak_used_percent: self.peak,
            peak_worker_bytes: self.peak_worker,
            now,
            alerts: self.alerts.list,
            alerts_dropped: self.alerts.dropped,
        }
    }
}

/// A block of lines on standard error that is drawn over itself; silent where nobody watches.
struct Screen {
    terminal: bool,
    lines: usize,
}

/// Workers shown.
const SHOWN_WORKERS: usize = 10;
/// Alerts shown, the last ones.
const SHOWN_ALERTS: usize = 5;
const BAR: usize = 40;

impl Screen {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), lines: 0 }
    }

    fn show(&mut self, now: &Snapshot, alerts: &Alerts) {
        if !self.terminal {
            return;
        }
        let text = draw(now, alerts);
        let mut stderr = std::io::stderr().lock();
        if self.lines > 0 {
            let _ = write!(stderr, "\x1b[{}A\x1b[J", self.lines);
        }
        let _ = stderr.write_all(text.as_bytes());
        let _ = stderr.flush();
        self.lines = text.lines().count();
    }
}

/// One look as lines.
fn draw(now: &Snapshot, alerts: &Alerts) -> String {
    let mut text = String::new();
    let memory = &now.memory;
    let used = memory.total_bytes.saturating_sub(memory.available_bytes);
    let percent = now.used_percent.unwrap_or(0);
    let full = usize::from(percent) * BAR / 100;
    let bar: String = (0..BAR).map(|at| if at < full { '━' } else { '─' }).collect();
    let level = now.level.map_or("n/a", crate::governor::levels::Level::as_str);
    let _ = writeln!(text, "memory   {bar} {percent:>3} %  {level}");
    let _ = writeln!(
        text,
        "         {} of {} in use, {} available; a job could get {} (limit: {})",
        ByteSize(used),
        ByteSize(memory.total_bytes),
        ByteSize(memory.available_bytes),
        ByteSize(now.budget.bytes),
        now.budget.limiting.as_str(),
    );
    let swapped = memory.swap_total_bytes.saturating_sub(memory.swap_free_bytes);
    let _ = writeln!(text, "swap     {} of {} in use", ByteSize(swapped), ByteSize(memory.swap_total_bytes));
    let _ = match now.pressure {
        Some(pressure) => writeln!(
            text,
            "pressure some {:.1} %, all {:.1} % of the last ten seconds",
            pressure.some_avg10, pressure.full_avg10
        ),
        None => writeln!(text, "pressure n/a: the kernel keeps no averages"),
    };
    if now.workers.is_empty() {
        let _ = writeln!(text, "workers  none");
    }
    for worker in now.workers.iter().take(SHOWN_WORKERS) {
        let _ = writeln!(
            text,
            "worker   {:>8}  {} held, {} of files",
            worker.pid,
            ByteSize(worker.rss_anon_bytes.saturating_add(worker.rss_shmem_bytes)),
            ByteSize(worker.rss_file_bytes)
        );
    }
    let first = alerts.list.len().saturating_sub(SHOWN_ALERTS);
    for alert in alerts.list.iter().skip(first) {
        let seconds = alert.after_milliseconds as f64 / 1000.0;
        let _ = writeln!(
            text,
            "alert    after {seconds:.1} s: {} at {} %: {}",
            alert.subject.as_str(),
            alert.percent,
            alert.level.as_str()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_drawn_and_alerts_come_once() {
        let mut seen = Seen::new(Levels::new(1, 2, 100).unwrap());
        let mut now = Snapshot::with(Scope::Ours, seen.levels);
        now.used_percent = Some(50);
        (0..3).for_each(|_| seen.take(&now, Duration::from_millis(1500)));
        assert_eq!(seen.alerts.list.len(), 2, "warning and critical, once");
        let text = draw(&now, &seen.alerts);
        for part in ["memory   ━━", "swap     ", "workers  none", "after 1.5 s: machine at 50 %: critical"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let output = seen.output(now, Duration::from_secs(2));
        assert_eq!((output.samples, output.peak_used_percent), (3, Some(50)));
    }
}
