//! A report format, called and checked.

use std::sync::Arc;

use super::engine::{Exports, Usage};
use super::fault::{FaultClass, PluginFault};
use super::scorer::{refused, wrong_kind};
use super::set::Ready;
use crate::domain::budget::{REPORT_BYTES, REPORT_FILES, REPORT_LIMITS};

/// One file of a rendered report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// `[a-z0-9._-]{1,64}`, does not begin with a dot, holds no path.
    pub file_name: String,
    pub media_type: String,
    pub body: Vec<u8>,
}

/// A report format of a [`super::PluginSet`].
#[derive(Debug, Clone)]
pub struct Report(pub(super) Arc<Ready>);

impl Report {
    /// What the calls through this handle took: fuel in all, most memory, the last log.
    pub fn used(&self) -> Usage {
        self.0.used()
    }

    /// Renders the report document, JSON of schema `assayd.report/1`.
    ///
    /// # Errors
    /// Every way in which the plugin gave no sound answer.
    pub fn render(&self, report_json: &str, params: &str) -> Result<Vec<Rendered>, PluginFault> {
        let (report, params) = (report_json.to_owned(), params.to_owned());
        let answer = self.0.call("render", REPORT_LIMITS, move |store, instance, exports| {
            let Exports::Report(indices) = exports else { return Ok(Err(wrong_kind())) };
            let guest = indices.load(&mut *store, instance)?;
            Ok(match guest.call_render(store, &report, &params)? {
                Ok(files) => {
                    let plain = files.into_iter().map(|file| Rendered {
                        file_name: file.file_name,
                        media_type: file.media_type,
                        body: file.body,
                    });
                    check(plain.collect())
                }
                Err(error) => Err(refused(error)),
            })
        });
        answer.map(|(files, _)| files)
    }
}

fn check(files: Vec<Rendered>) -> Result<Vec<Rendered>, FaultClass> {
    if files.is_empty() {
        return Err(FaultClass::BadOutput("no file at all".into()));
    }
    let total = files.iter().fold(0_usize, |sum, file| sum.saturating_add(file.body.len()));
    if files.len() > REPORT_FILES || total > REPORT_BYTES {
        return Err(FaultClass::OutputTooLarge(format!(
            "{} files of {total} bytes, at most {REPORT_FILES} of {REPORT_BYTES}",
            files.len()
        )));
    }
    let mut names = Vec::new();
    for file in &files {
        let name = file.file_name.as_str();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if !(1..=64).contains(&name.len()) || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(FaultClass::BadOutput(format!("the file name {name:?}")));
        }
        let media = file.media_type.as_str();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"/.+-;= ".contains(&byte);
        if !(3..=128).contains(&media.len()) || !media.contains('/') || !media.bytes().all(token) {
            return Err(FaultClass::BadOutput(format!("the media type {media:?}")));
        }
        if names.contains(&name) {
            return Err(FaultClass::BadOutput(format!("two files called {name}")));
        }
        names.push(name);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_files_pass() {
        let file = |name: &str, media: &str, bytes: usize| Rendered {
            file_name: name.into(),
            media_type: media.into(),
            body: vec![b'x'; bytes],
        };
        assert!(check(vec![file("a.md", "text/markdown; charset=utf-8", 3), file("b", "a/b", 0)]).is_ok());
        for bad in [
            vec![],
            vec![file("../a", "text/html", 1)],
            vec![file(".bashrc", "text/html", 1)],
            vec![file("A.md", "text/html", 1)],
            vec![file("", "text/html", 1)],
            vec![file("a", "html", 1)],
            vec![file("a", "text/html\r\nx: y", 1)],
            vec![file("a", "a/b", 1), file("a", "a/b", 1)],
            vec![file("a", "a/b", REPORT_BYTES + 1)],
            (0..=REPORT_FILES).map(|i| file(&format!("f{i}"), "a/b", 1)).collect(),
        ] {
            assert!(check(bad).is_err());
        }
    }
}
