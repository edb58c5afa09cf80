//! Lines of `sha256sum` and of `llama-gguf-hash`.

use super::place::name;
use super::{Manifest, Subject, own};
use crate::digest::HashKind;
use crate::domain::budget;

impl Manifest {
    /// Reads a list; the error says which line is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut manifest = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let entry = match own::line(line.trim_end()) {
                own::Line::Entry(entry) => Some(entry),
                own::Line::Comment => continue,
                own::Line::Bad => None,
                own::Line::Other if line.len() > budget::LISTED_LINE_BYTES => None,
                own::Line::Other => tagged(line).or_else(|| summed(line)).or_else(|| hashed(line)),
            };
            match entry {
                Some(entry) => manifest.entries.push(entry),
                None => {
                    return Err(format!(
                        "line {number} is of none of sha256sum, llama-gguf-hash and assayd hash"
                    ));
                }
            }
        }
        if manifest.entries.is_empty() {
            return Err("it lists nothing".to_owned());
        }
        Ok(manifest)
    }
}

fn sha256(digest: &str) -> Option<String> {
    let digest = digest.to_ascii_lowercase();
    HashKind::Sha256.fits(&digest).then_some(digest)
}

/// `SHA256 (name) = digest`
fn tagged(line: &str) -> Option<(Subject, String)> {
    let (escaped, line) = unescaped(line);
    let (name, digest) = line.strip_prefix("SHA256 (")?.rsplit_once(") = ")?;
    file(name, escaped, digest.trim_end())
}

/// A digest, a space, a space or a star, and the name.
fn summed(line: &str) -> Option<(Subject, String)> {
    let (escaped, line) = unescaped(line);
    let (digest, rest) = line.split_once(' ')?;
    let name = rest.strip_prefix('*').or_else(|| rest.strip_prefix(' '))?;
    file(name, escaped, digest)
}

fn file(text: &str, escaped: bool, digest: &str) -> Option<(Subject, String)> {
    let name = name(&plain(text, escaped)?, escaped);
    (!name.is_empty()).then_some((Subject::File(name), sha256(digest)?))
}

/// Kind, blanks, digest, blanks, file and perhaps a colon and a tensor.
fn hashed(line: &str) -> Option<(Subject, String)> {
    let (kind, rest) = line.split_once(' ')?;
    let kind = HashKind::from_name(kind)?;
    let (digest, name) = rest.trim_start().split_once(' ')?;
    let (digest, name) = (digest.to_ascii_lowercase(), name.trim_start());
    if name.is_empty() || !kind.fits(&digest) {
        return None;
    }
    Some((Subject::Kind(kind, name.to_owned()), digest))
}

/// A leading backslash says that the name is escaped.
fn unescaped(line: &str) -> (bool, &str) {
    line.strip_prefix('\\').map_or((false, line), |rest| (true, rest))
}

fn plain(name: &str, escaped: bool) -> Option<String> {
    if !escaped {
        return Some(name.to_owned());
    }
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            c => c,
        });
    }
    Some(out)
}
