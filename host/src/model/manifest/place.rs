//! Where the names of a list lead. A list does not say which folder its names are relative to,
//! and the files may have been moved since. So names are laid beside the artifact: one that ends as
//! a file of the artifact does says which folder of the list is the artifact's.
//!
//! Names and places are texts here, with a slash between their parts and none at either end; a
//! place is counted from the root of the file system.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::{Subject, absent_parts};
use crate::domain::budget;
use crate::domain::inspection::{FileRecord, Inspection};

/// A name without parts that mean nothing. Where a backslash is not escaped, Windows wrote it
/// between folders.
pub(super) fn name(text: &str, escaped: bool) -> String {
    let parts = text.split(|c| c == '/' || c == '\\' && !escaped);
    joined(parts.filter(|part| !part.is_empty() && *part != "."))
}

fn joined<T: AsRef<str>>(parts: impl Iterator<Item = T>) -> String {
    parts.fold(String::new(), |mut out, part| {
        if !out.is_empty() {
            out.push('/');
        }
        out.push_str(part.as_ref());
        out
    })
}

/// What `FILE[:TENSOR]` can mean: either may have colons, and a backslash may be part of a name.
pub(super) fn readings(text: &str) -> impl Iterator<Item = (String, Option<&str>)> {
    let split = |(at, _)| Some((text.get(..at)?, Some(text.get(at + 1..)?)));
    let colons = text.rmatch_indices(':').take(budget::LISTED_COLONS).filter_map(split);
    // The colon of `C:\` parts nothing.
    let drive = |file: &str, rest: Option<&str>| {
        file.len() == 1 && rest.is_some_and(|rest| rest.starts_with(['\\', '/']))
    };
    let parted = colons.filter(move |(file, rest)| !drive(file, *rest));
    std::iter::once((text, None)).chain(parted).flat_map(|(file, tensor)| {
        let exact = file.contains('\\').then(|| (name(file, true), tensor));
        std::iter::once((name(file, false), tensor)).chain(exact)
    })
}

/// The artifact's files and where they lie, as a list may name them.
pub(super) struct Places<'a> {
    folder: String,
    files: BTreeMap<String, Option<&'a FileRecord>>,
    /// The folder that was asked about, if it was one.
    whole: Option<String>,
    /// How names begin, and which folder that is.
    root: Option<(String, String)>,
}

impl<'a> Places<'a> {
    pub fn new(entries: &[(Subject, String)], list: &Path, inspection: &'a Inspection) -> Self {
        let folder = absolute(inspection.folder());
        let here = |file: &Path| {
            let within = file.strip_prefix(inspection.folder()).unwrap_or(file);
            below(&folder, &parts(within))
        };
        let present = inspection.files.iter().map(|file| (here(&file.path), Some(file)));
        let absent = absent_parts(inspection).into_iter().map(|path| (here(&path), None));
        let files = present.chain(absent).collect();
        let whole = inspection.path.is_dir().then(|| absolute(&inspection.path));
        let mut places = Self { folder, files, whole, root: None };
        let beside = absolute(list.parent().unwrap_or(list));
        // Of a folder without a model that was looked at, names are relative to the list.
        let relative = || inspection.files.is_empty().then(|| (String::new(), beside.clone()));
        places.root = places.find_root(entries, &beside).or_else(relative);
        places
    }

    /// Of all folders of the list that could be the artifact's: that which is where it is seen from
    /// the list, else that whose path ends most alike, else that whose digests are right.
    fn find_root(&self, entries: &[(Subject, String)], list: &str) -> Option<(String, String)> {
        let mut own: BTreeMap<&str, Vec<(&str, Option<String>)>> = BTreeMap::new();
        for (place, file) in &self.files {
            let within = after(place, &self.folder).unwrap_or(place);
            let digest = file.and_then(|file| file.sha256).map(|digest| digest.to_string());
            own.entry(last(within)).or_default().push((within, digest));
        }
        let mut folders: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut look = |name: &str, digest: Option<&String>| {
            for (within, own) in own.get(last(name)).into_iter().flatten() {
                if let Some(folder) = before(name, within) {
                    let (right, named) = folders.entry(folder.to_owned()).or_default();
                    *right += usize::from(digest.is_some() && own.as_ref() == digest);
                    *named += 1;
                }
            }
        };
        for (subject, digest) in entries {
            match subject {
                Subject::File(name) => look(name, Some(digest)),
                Subject::Kind(_, text) => readings(text).for_each(|(name, _)| look(&name, None)),
                Subject::Own(..) | Subject::Metadata(..) => {}
            }
        }
        let alike = |folder: &str| {
            let pairs = folder.rsplit('/').zip(self.folder.rsplit('/'));
            pairs.take_while(|(a, b)| a == b).count()
        };
        let (from, _) = folders.into_iter().min_by_key(|(folder, counts)| {
            Reverse((below(list, folder) == self.folder, alike(folder), *counts))
        })?;
        // Folders of one name: what lies beside them lies beside them, too.
        let (mut from, mut to) = (from.as_str(), self.folder.as_str());
        while !from.is_empty() && last(from) == last(to) {
            (from, to) = (parent(from), parent(to));
        }
        Some((from.to_owned(), to.to_owned()))
    }

    /// Where a name leads, if that is known.
    pub fn of(&self, name: &str) -> Option<String> {
        let (from, to) = self.root.as_ref()?;
        Some(below(to, after(name, from)?))
    }

    /// The file of the artifact whose place this is; none in its place where a part is missing.
    pub fn file(&self, place: &str) -> Option<Option<&'a FileRecord>> {
        self.files.get(place).copied()
    }

    /// Does the name lead to one of the artifact's files?
    pub fn is_own(&self, name: &str) -> bool {
        self.of(name).is_some_and(|place| self.files.contains_key(&place))
    }

    /// All files of the artifact that are there, and their places.
    pub fn present(&self) -> impl Iterator<Item = (&String, &'a FileRecord)> {
        self.files.iter().filter_map(|(place, file)| Some((place, (*file)?)))
    }

    /// The folder that was asked about, if it was one.
    pub fn whole(&self) -> Option<&str> {
        self.whole.as_deref()
    }

    /// As people know the place.
    pub fn shown<'b>(&self, place: &'b str) -> &'b str {
        let within = |folder: &str| after(place, folder).filter(|rest| !rest.is_empty());
        within(&self.folder).or_else(|| within(self.whole()?)).unwrap_or(place)
    }
}

/// The path of a place.
pub(super) fn path(place: &str) -> PathBuf {
    Path::new("/").join(place)
}

/// The place of a path, which need not be there.
pub(super) fn absolute(path: &Path) -> String {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    parts(&path.canonicalize().unwrap_or_else(|_| path.to_owned()))
}

fn parts(path: &Path) -> String {
    let plain = path.components().filter(|part| matches!(part, Component::Normal(_)));
    joined(plain.map(|part| part.as_os_str().to_string_lossy()))
}

/// What lies at `name` below a folder.
fn below(folder: &str, name: &str) -> String {
    joined([folder, name].into_iter().filter(|part| !part.is_empty()))
}

/// What follows the folder `first` in a name that begins with it.
pub(super) fn after<'a>(name: &'a str, first: &str) -> Option<&'a str> {
    match name.strip_prefix(first)? {
        rest if first.is_empty() || rest.is_empty() => Some(rest),
        rest => rest.strip_prefix('/'),
    }
}

/// The folder in which `end` lies, of a name that ends with it.
fn before<'a>(name: &'a str, end: &str) -> Option<&'a str> {
    match name.strip_suffix(end)? {
        "" => Some(""),
        rest => rest.strip_suffix('/'),
    }
}

fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_readings() {
        for (text, parts) in [
            ("a.gguf", "a.gguf"),
            ("./x//a.gguf", "x/a.gguf"),
            ("/x/../a.gguf", "x/../a.gguf"),
            ("C:\\x\\a.gguf", "C:/x/a.gguf"),
        ] {
            assert_eq!(name(text, false), parts, "{text}");
        }
        assert_eq!(name("x/a\\b.gguf", true), "x/a\\b.gguf");
        let all = |text: &'static str| readings(text).collect::<Vec<_>>();
        assert_eq!(all("a.gguf"), [("a.gguf".into(), None)]);
        assert_eq!(all("a:b"), [("a:b".into(), None), ("a".into(), Some("b"))]);
        assert_eq!(all("C:\\a.gguf"), [("C:/a.gguf".into(), None), ("C:\\a.gguf".into(), None)]);
        let tensor = Some("b");
        assert_eq!(all("x\\a:b")[2..], [("x/a".into(), tensor), ("x\\a".into(), tensor)]);
        let (many, text) = (budget::LISTED_COLONS, ":".repeat(1 << 20));
        assert_eq!(readings(&text).count(), 1 + many);
    }

    #[test]
    fn parts_of_names_are_whole() {
        assert_eq!(after("x/a", "x"), Some("a"));
        assert_eq!((after("xy/a", "x"), after("x", "x"), after("x/a", "")), (None, Some(""), Some("x/a")));
        assert_eq!(before("x/a", "a"), Some("x"));
        assert_eq!((before("x/ba", "a"), before("a", "a")), (None, Some("")));
        assert_eq!((below("", "a"), below("x", ""), below("x", "a")), ("a".into(), "x".into(), "x/a".into()));
    }
}
