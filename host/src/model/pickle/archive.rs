//! ZIP archives as PyTorch writes them: stored entries, one of them `…/data.pkl`.
//!
//! The central directory is believed only as far as the local headers agree with it; tools
//! that read the one and loaders that read the other can be shown different content.

use std::collections::HashSet;
use std::io;

use super::{report, walk};
use crate::domain::budget;
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};
use crate::model::source::{Cursor, ReadAt};

/// One entry of the central directory.
struct Entry {
    name: String,
    flags: u16,
    method: u16,
    packed: u64,
    size: u64,
    /// Of the local header.
    offset: u64,
}

const END: [u8; 4] = *b"PK\x05\x06";
const END_BYTES: u64 = 22;
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// The end record may be followed by a comment of at most this many bytes.
const COMMENT_BYTES: u64 = 65_535;

/// Looks at every entry; false if the archive holds no pickle.
pub(super) fn look(source: &dyn ReadAt, findings: &mut Findings) -> io::Result<bool> {
    let (entries, directory) = match read_directory(source)? {
        Ok(found) => found,
        Err(why) => {
            findings.push(Code::ArchiveInconsistent.finding(why));
            return Ok(true);
        }
    };
    let mut pickles = false;
    let mut names = HashSet::new();
    let mut ranges = Vec::new();
    for entry in &entries {
        let mut push = |code: Code, message: String| {
            findings.push(Finding { offset: Some(entry.offset), ..code.finding(message) });
        };
        let name = &entry.name;
        let climbs = name.starts_with('/') || name.contains('\\') || name.split('/').any(|part| part == "..");
        if climbs {
            push(Code::PathTraversal, format!("the archive holds an entry named {name:?}"));
        }
        if !names.insert(name.as_str()) {
            push(Code::ArchiveInconsistent, format!("the archive holds {name:?} twice"));
        }
        let named = [".pkl", ".pickle"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        pickles |= named;
        let data = match local_data(source, entry, directory)? {
            Ok(data) => data,
            Err(why) => {
                push(Code::ArchiveInconsistent, format!("{name:?}: {why}"));
                pickles = true;
                continue;
            }
        };
        ranges.push((entry.offset, data + entry.size));
        let mut head = [0; 2];
        let magic =
            Cursor::new(source, data, data + entry.size).fill(&mut head)? && matches!(head, [0x80, 2..=5]);
        if !(named || magic) {
            continue;
        }
        let end = data + entry.size.min(budget::PICKLE_BYTES);
        let mut seen = walk::walk(&mut Cursor::new(source, data, end))?;
        if !named {
            // Raw numbers may begin like a pickle; only what runs code counts.
            if seen.imports.is_empty() {
                continue;
            }
            seen.broken = None;
        }
        pickles = true;
        report(&seen, Some(name), findings);
    }
    ranges.sort_unstable();
    if ranges.iter().zip(ranges.iter().skip(1)).any(|(first, second)| second.0 < first.1) {
        findings.push(Code::ArchiveInconsistent.finding("entries of the archive overlap"));
    }
    Ok(pickles)
}

type Directory = Result<(Vec<Entry>, u64), &'static str>;

/// The entries, and where the central directory begins.
fn read_directory(source: &dyn ReadAt) -> io::Result<Directory> {
    let size = source.size();
    let tail = size.min(END_BYTES + COMMENT_BYTES);
    let mut bytes = vec![0; usize::try_from(tail).unwrap_or(0)];
    source.read_at(&mut bytes, size - tail)?;
    let place = bytes.windows(END.len()).rposition(|window| window == END);
    let Some(record) = place.and_then(|place| bytes.get(place..)) else {
        return Ok(Err("the archive has no end record; it was cut short"));
    };
    let end_at = size - record.len() as u64;
    let number = |at: usize, bytes: &[u8]| -> Option<u64> {
        bytes.get(at..)?.first_chunk().map(|raw| u32::from_le_bytes(*raw).into())
    };
    let short = |at: usize, bytes: &[u8]| -> Option<u64> {
        bytes.get(at..)?.first_chunk().map(|raw| u16::from_le_bytes(*raw).into())
    };
    let (Some(count), Some(length), Some(start)) =
        (short(10, record), number(12, record), number(16, record))
    else {
        return Ok(Err("the end record is cut short"));
    };
    let (mut count, mut length, mut start) = (count, length, start);
    // Sizes beyond 32 bits are in a second record, whose place stands just before the first.
    if let Some(at) = end_at.checked_sub(20) {
        let mut locator = [0; 20];
        source.read_at(&mut locator, at)?;
        if locator.starts_with(b"PK\x06\x07") {
            let place = locator
                .get(8..)
                .and_then(|rest| rest.first_chunk())
                .map_or(u64::MAX, |raw| u64::from_le_bytes(*raw));
            let mut cursor = Cursor::new(source, place, end_at);
            let Some(record) = cursor.array::<56>()?.filter(|record| record.starts_with(b"PK\x06\x06"))
            else {
                return Ok(Err("the second end record is not where it should be"));
            };
            let long = |at: usize| {
                record
                    .get(at..)
                    .and_then(|rest| rest.first_chunk())
                    .map_or(u64::MAX, |raw| u64::from_le_bytes(*raw))
            };
            (count, length, start) = (long(32), long(40), long(48));
        }
    }
    let fits = start.checked_add(length).is_some_and(|end| end <= end_at);
    if !fits || count > budget::ARCHIVE_ENTRIES || length > budget::PICKLE_BYTES {
        return Ok(Err("the directory is larger than the archive or than any checkpoint's"));
    }
    let mut cursor = Cursor::new(source, start, start + length);
    let mut entries = Vec::new();
    for _ in 0..count {
        match read_entry(&mut cursor)? {
            Some(entry) => entries.push(entry),
            None => return Ok(Err("the directory cannot be read")),
        }
    }
    if cursor.remaining() > 0 {
        return Ok(Err("the directory holds more entries than it says"));
    }
    Ok(Ok((entries, start)))
}

fn read_entry(cursor: &mut Cursor<'_>) -> io::Result<Option<Entry>> {
    let Some(fixed) = cursor.array::<46>()?.filter(|fixed| fixed.starts_with(&CENTRAL)) else {
        return Ok(None);
    };
    let short = |at: usize| {
        fixed.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u16::from_le_bytes(*raw))
    };
    let word = |at: usize| {
        fixed.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
    };
    let (Some(name), Some(extra)) = (cursor.bytes(short(28).into())?, cursor.bytes(short(30).into())?) else {
        return Ok(None);
    };
    if cursor.bytes(short(32).into())?.is_none() {
        return Ok(None);
    }
    let (mut size, mut packed, mut offset) = (u64::from(word(24)), u64::from(word(20)), u64::from(word(42)));
    let mut extra = extra.as_slice();
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let [a, b, c, d] = *head;
        let length = usize::from(u16::from_le_bytes([c, d]));
        let Some((mut field, rest)) = rest.split_at_checked(length) else { break };
        if u16::from_le_bytes([a, b]) == 1 {
            for value in [&mut size, &mut packed, &mut offset] {
                if *value == u64::from(u32::MAX) {
                    let Some((raw, left)) = field.split_first_chunk::<8>() else { return Ok(None) };
                    *value = u64::from_le_bytes(*raw);
                    field = left;
                }
            }
        }
        extra = rest;
    }
    let name = String::from_utf8_lossy(&name).into_owned();
    Ok(Some(Entry { name, flags: short(8), method: short(10), packed, size, offset }))
}

/// Where the data of an entry begin, if local header and directory agree.
fn local_data(source: &dyn ReadAt, entry: &Entry, directory: u64) -> io::Result<Result<u64, &'static str>> {
    let mut cursor = Cursor::new(source, entry.offset, directory);
    let Some(fixed) = cursor.array::<30>()?.filter(|fixed| fixed.starts_with(&LOCAL)) else {
        return Ok(Err("there is no local header where the directory says"));
    };
    let short = |at: usize| {
        fixed.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u16::from_le_bytes(*raw))
    };
    let Some(name) = cursor.bytes(short(26).into())? else { return Ok(Err("the local header is cut short")) };
    if name != entry.name.as_bytes() {
        return Ok(Err("local header and directory give different names"));
    }
    if entry.flags & 1 != 0 || short(6) & 1 != 0 {
        return Ok(Err("the entry is marked as encrypted"));
    }
    if entry.method != 0 || short(8) != 0 {
        return Ok(Err("the entry is compressed"));
    }
    if entry.packed != entry.size {
        return Ok(Err("the entry has two sizes"));
    }
    if !cursor.skip(short(28).into()) || entry.size > cursor.remaining() {
        return Ok(Err("the data reach beyond the end of the archive"));
    }
    Ok(Ok(cursor.position()))
}
