//! Whole distributions in a temporary file, so that the models they come from need not be in
//! memory together.
//!
//! The file has no name and is gone with the process. Its size is known and checked against
//! the disk before the first row; a row that is not there is an error, never a guess.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::domain::{Problem, budget};
use crate::governor::machine::disk;

/// A file of rows of f32, written once.
#[derive(Debug)]
pub(super) struct Spool {
    file: BufWriter<File>,
    folder: PathBuf,
}

/// The same rows, read once and in order.
#[derive(Debug)]
pub(super) struct Rows {
    file: BufReader<File>,
    folder: PathBuf,
    bytes: Vec<u8>,
}

impl Spool {
    /// A file for `rows` rows of `vocab` values in `folder`.
    ///
    /// # Errors
    /// Usage: too much for any disk. Machine: the disk has no room, or refuses.
    pub(super) fn create(folder: &Path, rows: usize, vocab: u32) -> Result<Self, Problem> {
        let bytes = (rows as u64).saturating_mul(u64::from(vocab)).saturating_mul(4);
        let fewer = "score fewer tokens, or only their ends with --from";
        if bytes > budget::SPOOL_BYTES {
            return Err(Problem::usage(format!(
                "{rows} positions over {vocab} tokens take {} MiB on disk, more than the {} MiB allowed",
                bytes >> 20,
                budget::SPOOL_BYTES >> 20
            ))
            .hint(fewer));
        }
        std::fs::create_dir_all(folder).map_err(|error| Problem::io("make the folder", folder, &error))?;
        let free = disk(folder).map(|disk| disk.free_bytes);
        if free.is_none_or(|free| bytes.saturating_add(budget::SPOOL_SPARE_BYTES) > free) {
            let free =
                free.map_or_else(|| "an unknown number of".to_owned(), |free| (free >> 20).to_string());
            return Err(Problem::machine(format!(
                "the reference's distributions take {} MiB, {} MiB must stay free, and {} has {free} MiB",
                bytes >> 20,
                budget::SPOOL_SPARE_BYTES >> 20,
                folder.display()
            ))
            .hint(format!("name a folder with more room (--temp DIR), or {fewer}")));
        }
        let file = tempfile::tempfile_in(folder)
            .map_err(|error| Problem::io("make a temporary file in", folder, &error))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), folder: folder.to_owned() })
    }

    /// Adds values of any number of rows.
    pub(super) fn append(&mut self, values: &[f32]) -> Result<(), Problem> {
        values
            .iter()
            .try_for_each(|value| self.file.write_all(&value.to_le_bytes()))
            .map_err(|error| Problem::io("write a temporary file in", &self.folder, &error))
    }

    /// From the first row on.
    pub(super) fn into_rows(mut self) -> Result<Rows, Problem> {
        let failed = |error: &std::io::Error| Problem::io("write a temporary file in", &self.folder, error);
        self.file.flush().map_err(|error| failed(&error))?;
        let mut file = self.file.into_inner().map_err(|error| failed(error.error()))?;
        file.rewind().map_err(|error| failed(&error))?;
        Ok(Rows { file: BufReader::with_capacity(1 << 20, file), folder: self.folder, bytes: Vec::new() })
    }
}

impl Rows {
    /// The next row, into `row`, whose length says how many values it has.
    pub(super) fn read(&mut self, row: &mut [f32]) -> Result<(), Problem> {
        self.bytes.resize(row.len() * 4, 0);
        self.file
            .read_exact(&mut self.bytes)
            .map_err(|error| Problem::io("read back a temporary file in", &self.folder, &error))?;
        let (chunks, _) = self.bytes.as_chunks::<4>();
        for (value, bytes) in row.iter_mut().zip(chunks) {
            *value = f32::from_le_bytes(*bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_bit_by_bit_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(folder.path(), 2, 3).unwrap();
        spool.append(&[1.5, -0.0, f32::MIN_POSITIVE]).unwrap();
        spool.append(&[7.0, 8.0, 9.0]).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
        let mut rows = spool.into_rows().unwrap();
        let mut row = [0.0f32; 3];
        rows.read(&mut row).unwrap();
        assert_eq!(row.map(f32::to_bits), [1.5, -0.0, f32::MIN_POSITIVE].map(f32::to_bits));
        rows.read(&mut row).unwrap();
        assert_eq!(row, [7.0, 8.0, 9.0]);
        assert!(rows.read(&mut row).is_err());
    }

    #[test]
    fn what_no_disk_should_hold_is_refused_before_a_byte_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let problem = Spool::create(folder.path(), 4_000_000, 150_000).unwrap_err();
        assert_eq!(problem.exit_code(), 2, "{}", problem.message);
        let free = disk(folder.path()).unwrap().free_bytes;
        if free < budget::SPOOL_BYTES {
            let rows = usize::try_from(free / 4 / 1000).unwrap();
            let problem = Spool::create(folder.path(), rows, 1000).unwrap_err();
            assert!(problem.hint.unwrap().contains("--temp"), "{}", problem.message);
        }
    }
}
