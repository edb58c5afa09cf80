//! TOML text to a typed value, with errors that name the line and the remedy.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::domain::{Problem, budget};

/// Reads the file `path` as a `T`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Problem> {
    use std::io::Read as _;
    let file = std::fs::File::open(path)
        .map_err(|error| as_usage(Problem::io("read the configuration", path, &error)))?;
    let mut text = String::new();
    file.take(budget::SETTINGS_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| as_usage(Problem::io("read the configuration", path, &error)))?;
    if text.len() as u64 > budget::SETTINGS_BYTES {
        return Err(Problem::usage(format!(
            "{} is larger than {} bytes",
            path.display(),
            budget::SETTINGS_BYTES
        )));
    }
    parse(path, &text)
}

fn as_usage(problem: Problem) -> Problem {
    Problem { kind: crate::domain::ProblemKind::Usage, ..problem }
}

/// Parses `text`, which came from `path`.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Problem> {
    toml::from_str(text).map_err(|error| {
        let place = match error.span() {
            Some(span) => {
                let before = text.get(..span.start).unwrap_or(text);
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
                format!("{}:{line}:{column}", path.display())
            }
            None => path.display().to_string(),
        };
        let message = error.message();
        let Some((unknown, known)) = unknown_key(message) else {
            return Problem::usage(format!("{place}: {message}"));
        };
        let problem = Problem::usage(format!("{place}: unknown key `{unknown}`"));
        let list = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        match nearest(unknown, &known) {
            Some(key) => problem.hint(format!("did you mean `{key}`? Known keys here: {list}")),
            None => problem.hint(format!("known keys here: {list}")),
        }
    })
}

/// Takes serde's sentence apart: "unknown field `x`, expected one of `a`, `b`".
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (unknown, expected) = rest.split_once("`, ")?;
    // Text between backticks: every second piece.
    Some((unknown, expected.split('`').skip(1).step_by(2).collect()))
}

/// The known key that is fewest edits away, if it is near enough to be meant.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let (edits, key) = known.iter().map(|key| (edits(word, key), *key)).min()?;
    (edits <= 1 + word.chars().count() / 3).then_some(key)
}

/// Edits that turn one word into the other: a character put in, taken out or replaced, or
/// two neighbours swapped (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut last = None;
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        let mut left = i + 1;
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let mut cell = (at(&row, j) + usize::from(x != *y)).min(at(&row, j + 1) + 1).min(left + 1);
            let swapped = j > 0 && last == Some(*y) && b.get(j - 1) == Some(&x);
            if swapped {
                cell = cell.min(at(&before, j - 1) + 1);
            }
            left = cell;
            next.push(cell);
        }
        last = Some(x);
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}
