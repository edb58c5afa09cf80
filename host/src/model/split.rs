//! Split sets: `NAME-00001-of-0000N.gguf` and its siblings are one artifact.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::domain::budget;

/// The name of one part of a set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartName {
    /// Everything before `-00001-of-0000N`.
    pub stem: String,
    /// `.gguf` or another extension, with the dot.
    pub extension: String,
    /// 1 to `count`.
    pub number: u64,
    pub count: u64,
}

impl PartName {
    /// Parses a file name; `None` if it is not that of a part. A number outside of the
    /// set, or a set beyond [`budget::SPLIT_PARTS`], is no part.
    pub fn parse(name: &str) -> Option<Self> {
        let possible =
            |part: &Self| (1..=part.count).contains(&part.number) && part.count <= budget::SPLIT_PARTS;
        Self::shaped(name).filter(possible)
    }

    /// A file name of this form, whatever its numbers are.
    fn shaped(name: &str) -> Option<Self> {
        let (body, extension) = name.rsplit_once('.')?;
        let (rest, count) = body.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| {
            let fine = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            if fine { text.parse::<u64>().ok() } else { None }
        };
        let (number, count) = (digits(number)?, digits(count)?);
        let (stem, extension) = (stem.to_owned(), format!(".{extension}"));
        (!stem.is_empty()).then_some(Self { stem, extension, number, count })
    }

    /// The file name of another part of the set.
    pub fn part(&self, number: u64) -> String {
        format!("{}-{number:05}-of-{:05}{}", self.stem, self.count, self.extension)
    }

    /// The names of the parts of the set that are not `present`, in order.
    pub fn missing(&self, present: &BTreeSet<String>) -> impl Iterator<Item = String> {
        (1..=self.count).map(|number| self.part(number)).filter(|name| !present.contains(name))
    }

    /// The paths of all parts beside `path`, in order.
    pub fn paths(&self, path: &Path) -> Vec<PathBuf> {
        (1..=self.count).map(|number| path.with_file_name(self.part(number))).collect()
    }
}

/// The split set that a GGUF path names, if its name is that of a part.
pub fn of_path(path: &Path) -> Option<PartName> {
    PartName::parse(path.file_name()?.to_str()?).filter(|part| part.extension.eq_ignore_ascii_case(".gguf"))
}

/// Has a path the form of a part's, though no set can have such a part?
pub fn is_impossible(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    PartName::shaped(name).is_some() && PartName::parse(name).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let part = PartName::parse("a-of-b-00002-of-00003.gguf").unwrap();
        assert_eq!((part.stem.as_str(), part.number, part.count), ("a-of-b", 2, 3));
        assert_eq!(part.part(1), "a-of-b-00001-of-00003.gguf");
        assert_eq!(
            part.paths(Path::new("/x/y.gguf")).last().unwrap(),
            Path::new("/x/a-of-b-00003-of-00003.gguf")
        );
        for other in [
            "model.gguf",
            "-00001-of-00002.gguf",
            "m-0001-of-0002.gguf",
            "m-00000-of-00002.gguf",
            "m-00003-of-00002.gguf",
            "m-00001-of-99999.gguf",
            "m-0000x-of-00002.gguf",
            "m-+0001-of-00002.gguf",
            "m-00001-of-00002",
        ] {
            assert_eq!(PartName::parse(other), None, "{other}");
        }
        let impossible = |name: &str| is_impossible(Path::new(name));
        assert!(
            ["m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-00001-of-99999.gguf"].map(impossible)
                == [true; 3]
        );
        assert!(["m-00001-of-00002.gguf", "m-0001-of-0002.gguf", "m.gguf"].map(impossible) == [false; 3]);
    }
}
