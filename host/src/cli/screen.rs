//! What commands share when they write to a person: standard output that may be closed,
//! progress bars that only a terminal gets, and units that people read.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::domain::{Problem, text};
use crate::model;

pub use crate::domain::text::{path as shown_path, plain, shown};

/// Writes text for people to standard output.
pub fn print(text: &str) -> Result<(), Problem> {
    write_out(&text::page(text))
}

/// Writes one JSON document to standard output, and nothing else. It is for programs: nothing is
/// replaced in it.
pub fn print_json(value: &impl Serialize) -> Result<(), Problem> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Problem::internal(format!("cannot write JSON: {error}")))?;
    print_document(&text)
}

/// As [`print_json`], of what is written already.
pub fn print_document(json: &str) -> Result<(), Problem> {
    write_out(&format!("{json}\n"))
}

/// A reader that went away (`| head`) is no error.
fn write_out(text: &str) -> Result<(), Problem> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Problem::machine(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A refusal and what to do about it, on standard error.
pub fn complain(what: &str, hint: &str) {
    tell("rejected", what, Some(hint));
}

/// Something that went wrong, and what to do about it, on standard error.
pub fn tell(word: &str, what: &str, hint: Option<&str>) {
    let mut stderr = std::io::stderr().lock();
    // Nothing is left to do if standard error is gone.
    let _ = writeln!(stderr, "{word}: {}", text::shown(what));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "hint: {}", text::shown(hint));
    }
}

/// A progress bar on standard error, from 0 to 1; silent where nobody watches.
#[derive(Debug)]
pub struct Bar(ProgressBar);

/// Steps of a bar that is told fractions.
const STEPS: u64 = 1000;

impl Bar {
    pub fn new(label: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(STEPS), target());
        if let Ok(style) = ProgressStyle::with_template("{msg:<28} {bar:32} {percent:>3}%  {elapsed}") {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_message(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// A new task on the same line.
    pub fn label(&self, label: &str) {
        self.0.set_message(shown(label));
        self.0.set_position(0);
        self.0.reset_elapsed();
    }

    /// As [`label`](Self::label), without starting again when the task is still the same.
    pub fn say(&self, label: &str) {
        if self.0.message() != shown(label) {
            self.label(label);
        }
    }

    pub fn set(&self, fraction: f64) {
        let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        self.0.set_position((fraction * STEPS as f64) as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

/// `$XDG_CACHE_HOME/assayd`, `~/.cache/assayd`, or a folder for temporary files.
pub fn cache_folder() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("assayd")
}

/// Where full passes are kept: below a folder that was named, or below the usual one. One that was
/// named and cannot be used is told of; the pass is made all the same.
pub fn passes_folder(named: Option<&Path>) -> PathBuf {
    let folder = named.map_or_else(cache_folder, Path::to_owned).join("passes");
    if named.is_some()
        && let Err(error) = model::cache_usable(&folder)
    {
        let what = format!("nothing is kept of this pass: {}: {error}", folder.display());
        tell("warning", &what, Some("name another folder with --cache"));
    }
    folder
}

/// Bytes in binary units, as people read them: `1.13 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut name = "B";
    for unit in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        name = unit;
    }
    format!("{value:.2} {name}")
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn byte_counts_read_well() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_185_568, "1.13 MiB"),
            (5 << 30, "5.00 GiB"),
            (u64::MAX, "16384.00 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
