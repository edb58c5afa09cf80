//! Importance matrices: how much the error of each column of a tensor counts when it is quantised.
//!
//! Both forms that llama.cpp's `llama-imatrix` writes are read: GGUF with `NAME.in_sum2` (sums of
//! the squares of what columns were multiplied with, by expert) and `NAME.counts`, and the older
//! list of names, counts and sums. Importance is the mean square, as `llama-quantize` takes it; an
//! expert that saw nothing has 1 everywhere. Only the index is held, values are read when they are
//! asked for. Deliberately absent: layers that were left out when quantising (`--prune-layers`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::gguf::{self, GgmlType};
use super::source::{Cursor, ReadAt, SourceFile};
use crate::domain::{Problem, ProblemKind, budget};

/// An opened file.
#[derive(Debug)]
pub struct Imatrix<S = SourceFile> {
    path: PathBuf,
    source: S,
    entries: BTreeMap<String, Entry>,
}

/// Where the numbers of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    /// Place in the file, and how many.
    sums: (u64, u64),
    counts: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Counts {
    /// One for all; none if it is not positive.
    All(i32),
    /// One for each expert: place in the file, and how many.
    Each(u64, u64),
}

impl Imatrix {
    /// Opens a file and reads its index.
    ///
    /// # Errors
    /// The file cannot be read, or is of neither form.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let source = SourceFile::open(path).map_err(|error| Problem::io("open", path, &error))?;
        Self::of_source(path, source)
    }
}

impl<S: ReadAt> Imatrix<S> {
    /// Reads the index of an opened file; the path is for errors.
    ///
    /// # Errors
    /// It cannot be read, or is of neither form.
    pub fn of_source(path: &Path, source: S) -> Result<Self, Problem> {
        let failed = |error: io::Error| Problem::io("read", path, &error);
        let entries = index(&source).map_err(failed)?.map_err(|why| no_imatrix(path, &why))?;
        Ok(Self { path: path.to_owned(), source, entries })
    }

    /// Names of the tensors that it speaks of.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The importance of every column, expert after expert; `None` if the file has none of this
    /// tensor.
    ///
    /// # Errors
    /// The file cannot be read, or a number in it is none.
    pub fn of(&self, tensor: &str) -> Result<Option<Vec<f32>>, Problem> {
        let Some(entry) = self.entries.get(tensor) else { return Ok(None) };
        let found = importance(&self.source, *entry);
        let found = found.map_err(|error| Problem::io("read", &self.path, &error))?;
        let bad = || no_imatrix(&self.path, &format!("{tensor} has numbers that are none"));
        found.iter().all(|x| x.is_finite()).then_some(Some(found)).ok_or_else(bad)
    }
}

fn no_imatrix(path: &Path, why: &str) -> Problem {
    Problem::new(ProblemKind::Input, format!("{} is not an importance matrix: {why}", path.display()))
        .hint("it is the file that `llama-imatrix` writes, often published beside a quantised model as imatrix.gguf or imatrix.dat")
}

/// The entries by the names of tensors, or what is wrong.
fn index(source: &dyn ReadAt) -> io::Result<Result<BTreeMap<String, Entry>, String>> {
    let mut magic = [0; 4];
    if source.size() >= 4 {
        source.read_at(&mut magic, 0)?;
    }
    if magic == gguf::MAGIC {
        return Ok(gguf::read_strict(source)
            .map_err(|error| error.to_string())
            .and_then(|header| of_gguf(&header)));
    }
    of_list(&mut Cursor::new(source, 0, source.size()))
}

fn of_gguf(header: &gguf::Header) -> Result<BTreeMap<String, Entry>, String> {
    let tensors: BTreeMap<&str, &gguf::Tensor> =
        header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut entries = BTreeMap::new();
    for (name, sums) in &tensors {
        let Some(name) = name.strip_suffix(".in_sum2") else { continue };
        let counts = tensors.get(format!("{name}.counts").as_str()).copied();
        let counts = counts.ok_or_else(|| format!("{name} has sums but no counts"))?;
        let experts = counts.elements();
        if sums.kind != GgmlType::F32 || counts.kind != GgmlType::F32 {
            return Err(format!("{name} has sums or counts that are not F32"));
        }
        if sums.elements() > budget::IMATRIX_VALUES
            || sums.elements() != sums.columns().saturating_mul(experts)
        {
            return Err(format!("{name} has {} sums for {experts} counts", sums.elements()));
        }
        let entry =
            Entry { sums: (sums.offset, sums.elements()), counts: Counts::Each(counts.offset, experts) };
        entries.insert(name.to_owned(), entry);
    }
    if entries.is_empty() { Err("it has no tensor NAME.in_sum2".to_owned()) } else { Ok(entries) }
}

/// A count of entries, and of each its name, how often it was seen, and its sums; what follows them is
/// of no interest here.
fn of_list(cursor: &mut Cursor<'_>) -> io::Result<Result<BTreeMap<String, Entry>, String>> {
    let mut entries = BTreeMap::new();
    let Some(count) = number(cursor)?.filter(|count| (1..=budget::FILE_TENSORS).contains(count)) else {
        return Ok(Err("it is neither GGUF nor a list of tensors".to_owned()));
    };
    for place in 0..count {
        let Some(entry) = entry(cursor)? else {
            return Ok(Err(format!("entry {place} of {count} is cut short, or no entry")));
        };
        if entries.insert(entry.0.clone(), entry.1).is_some() {
            return Ok(Err(format!("{} occurs twice", entry.0)));
        }
    }
    Ok(Ok(entries))
}

fn entry(cursor: &mut Cursor<'_>) -> io::Result<Option<(String, Entry)>> {
    let Some(length) = number(cursor)?.filter(|length| *length <= budget::IMATRIX_NAME_BYTES) else {
        return Ok(None);
    };
    let Some(name) = cursor.bytes(length)?.and_then(|name| String::from_utf8(name).ok()) else {
        return Ok(None);
    };
    let Some(calls) = cursor.array()?.map(i32::from_le_bytes) else { return Ok(None) };
    let Some(values) = number(cursor)?.filter(|values| (1..=budget::IMATRIX_VALUES).contains(values)) else {
        return Ok(None);
    };
    let sums = (cursor.position(), values);
    Ok(cursor.skip(4 * values).then_some((name, Entry { sums, counts: Counts::All(calls) })))
}

/// A number of four bytes; `None` if it is negative or not there.
fn number(cursor: &mut Cursor<'_>) -> io::Result<Option<u64>> {
    Ok(cursor.array()?.and_then(|bytes| u64::try_from(i32::from_le_bytes(bytes)).ok()))
}

fn importance(source: &dyn ReadAt, entry: Entry) -> io::Result<Vec<f32>> {
    let mut values = floats(source, entry.sums)?;
    match entry.counts {
        Counts::All(calls) if calls > 0 => values.iter_mut().for_each(|value| *value /= calls as f32),
        Counts::All(_) => {}
        Counts::Each(offset, experts) => {
            let counts = floats(source, (offset, experts))?;
            let columns = values.len() / counts.len().max(1);
            for (values, &count) in values.chunks_mut(columns.max(1)).zip(&counts) {
                values.iter_mut().for_each(|value| *value = if count > 0.0 { *value / count } else { 1.0 });
            }
        }
    }
    Ok(values)
}

fn floats(source: &dyn ReadAt, (offset, count): (u64, u64)) -> io::Result<Vec<f32>> {
    let mut bytes = vec![0; usize::try_from(count.saturating_mul(4)).unwrap_or(0)];
    source.read_at(&mut bytes, offset)?;
    Ok(bytes.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect())
}

#[cfg(test)]
mod tests {
    use super::gguf::write::{TensorData, write_file};
    use super::*;

    fn raw(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// Names, counts and sums as llama.cpp wrote them before GGUF.
    fn list(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
        let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
        for (name, calls, sums) in entries {
            bytes.extend((name.len() as i32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(calls.to_le_bytes());
            bytes.extend((sums.len() as i32).to_le_bytes());
            bytes.extend(raw(sums));
        }
        bytes
    }

    #[test]
    fn both_forms_tell_mean_squares() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("imatrix.gguf");
        let (sums, counts) = (raw(&[2.0, 4.0, 6.0, 8.0]), raw(&[2.0, 0.0]));
        let tensor = |name, shape, data| TensorData { name, kind: GgmlType::F32, shape, data };
        let tensors =
            [tensor("a.weight.counts", &[1, 2], &counts), tensor("a.weight.in_sum2", &[2, 2], &sums)];
        write_file(&path, &[("general.type", "imatrix".into())], &tensors).unwrap();
        let opened = Imatrix::open(&path).unwrap();
        // The second expert saw nothing.
        assert_eq!(opened.of("a.weight").unwrap().unwrap(), [1.0, 2.0, 1.0, 1.0]);
        assert_eq!(opened.of("b.weight").unwrap(), None);

        let path = folder.path().join("imatrix.dat");
        let mut bytes = list(&[("a", 4, &[2.0, 4.0]), ("b", 0, &[3.0])]);
        bytes.extend(b"what follows");
        std::fs::write(&path, &bytes).unwrap();
        let opened = Imatrix::open(&path).unwrap();
        assert_eq!(opened.of("a").unwrap().unwrap(), [0.5, 1.0]);
        assert_eq!(opened.of("b").unwrap().unwrap(), [3.0]);
    }

    #[test]
    fn what_is_none_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("imatrix");
        let good = list(&[("a", 4, &[2.0, 4.0])]);
        let long = |at: usize| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&i32::MAX.to_le_bytes());
            bytes
        };
        for (bytes, why) in [
            (Vec::new(), "neither GGUF nor"),
            (b"GGUF".to_vec(), "not an importance matrix"),
            (long(0), "neither GGUF nor"),
            (long(4), "entry 0 of 1"),
            (long(13), "entry 0 of 1"),
            (good[..good.len() - 1].to_vec(), "entry 0 of 1"),
            (list(&[("a", 1, &[1.0]), ("a", 1, &[1.0])]), "occurs twice"),
            ((-1i32).to_le_bytes().to_vec(), "neither GGUF nor"),
        ] {
            std::fs::write(&path, &bytes).unwrap();
            let problem = Imatrix::open(&path).unwrap_err().to_string();
            assert!(problem.contains(why), "{problem}");
        }
        std::fs::write(&path, list(&[("a", 1, &[f32::NAN])])).unwrap();
        assert!(Imatrix::open(&path).unwrap().of("a").unwrap_err().to_string().contains("a has numbers"));
        let tensor = |name, shape, data| TensorData { name, kind: GgmlType::F32, shape, data };
        let (two, three) = (raw(&[1.0; 2]), raw(&[1.0; 3]));
        for (tensors, why) in [
            (vec![tensor("a.in_sum2", &[3][..], three.as_slice())], "no counts"),
            (vec![tensor("a.counts", &[2], &two), tensor("a.in_sum2", &[3], &three)], "3 sums for 2 counts"),
            (vec![tensor("a", &[2], &two)], "no tensor NAME.in_sum2"),
        ] {
            write_file(&path, &[], &tensors).unwrap();
            let problem = Imatrix::open(&path).unwrap_err().to_string();
            assert!(problem.contains(why), "{problem}");
        }
    }
}
