//! The directory of a ZIP archive, believed only as far as the local headers agree with it.

use std::io;

use crate::domain::budget;
use crate::model::source::{Cursor, ReadAt};

/// One entry of the central directory.
pub(super) struct Entry {
    pub name: String,
    flags: u16,
    method: u16,
    /// 0 where it was not worked out.
    pub crc32: u32,
    packed: u64,
    pub size: u64,
    /// Of the local header, in the file.
    pub offset: u64,
}

/// What stands at the end of an archive.
pub(super) struct Directory {
    pub entries: Vec<Entry>,
    /// Bytes of the file before the first one that the archive counts.
    pub before: u64,
    /// Where the directory begins in the file.
    pub start: u64,
    /// Where the archive ends in the file.
    pub end: u64,
}

const END: [u8; 4] = *b"PK\x05\x06";
const END_BYTES: u64 = 22;
/// What large archives have before the end record: a second one and its place.
const END_64: [u8; 4] = *b"PK\x06\x06";
const PLACE_64: [u8; 4] = *b"PK\x06\x07";
const END_64_BYTES: u64 = 56 + 20;
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// The end record may be followed by a comment of at most this many bytes.
const COMMENT_BYTES: u64 = 65_535;
/// Flags of an entry: its bytes are encrypted; its sizes and its CRC stand behind its bytes.
const ENCRYPTED: u16 = 1;
const DESCRIBED_LATER: u16 = 8;

fn short(at: usize, bytes: &[u8]) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u16::from_le_bytes(*raw))
}

fn word(at: usize, bytes: &[u8]) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}

fn long(at: usize, bytes: &[u8]) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u64::from_le_bytes(*raw))
}

/// Reads the directory that readers of ZIP files find: that of the last end record.
pub(super) fn directory(source: &dyn ReadAt) -> io::Result<Result<Directory, &'static str>> {
    let size = source.size();
    let tail = size.min(END_BYTES + COMMENT_BYTES);
    let mut bytes = vec![0; usize::try_from(tail).unwrap_or(0)];
    source.read_at(&mut bytes, size - tail)?;
    let place = bytes.windows(END.len()).rposition(|window| window == END);
    let Some(record) = place.and_then(|place| bytes.get(place..)) else {
        return Ok(Err("the archive has no end record; it was cut short"));
    };
    if (record.len() as u64) < END_BYTES {
        return Ok(Err("the end record is cut short"));
    }
    let end_at = size - record.len() as u64;
    let mut directory_end = end_at;
    let (mut count, mut length, mut start) =
        (u64::from(short(10, record)), u64::from(word(12, record)), u64::from(word(16, record)));
    if let Some(at) = end_at.checked_sub(END_64_BYTES) {
        let mut more = [0; END_64_BYTES as usize];
        source.read_at(&mut more, at)?;
        if more.get(56..).is_some_and(|place| place.starts_with(&PLACE_64)) {
            if !more.starts_with(&END_64) {
                return Ok(Err("the second end record is not where it should be"));
            }
            (count, length, start) = (long(32, &more), long(40, &more), long(48, &more));
            directory_end = at;
        }
    }
    let before = start.checked_add(length).and_then(|end| directory_end.checked_sub(end));
    let Some(before) = before.filter(|_| count <= budget::ARCHIVE_ENTRIES && length <= budget::PICKLE_BYTES)
    else {
        return Ok(Err("the directory is larger than the archive or than any checkpoint's"));
    };
    let start = before + start;
    let mut cursor = Cursor::new(source, start, directory_end);
    let mut entries = Vec::new();
    for _ in 0..count {
        match entry(&mut cursor, before)? {
            Some(entry) => entries.push(entry),
            None => return Ok(Err("the directory cannot be read")),
        }
    }
    if cursor.remaining() > 0 {
        return Ok(Err("the directory holds more entries than it says"));
    }
    Ok(Ok(Directory { entries, before, start, end: end_at + END_BYTES }))
}

fn entry(cursor: &mut Cursor<'_>, before: u64) -> io::Result<Option<Entry>> {
    let Some(fixed) = cursor.array::<46>()?.filter(|fixed| fixed.starts_with(&CENTRAL)) else {
        return Ok(None);
    };
    let (Some(name), Some(extra)) =
        (cursor.bytes(short(28, &fixed).into())?, cursor.bytes(short(30, &fixed).into())?)
    else {
        return Ok(None);
    };
    if cursor.bytes(short(32, &fixed).into())?.is_none() {
        return Ok(None);
    }
    let [mut size, mut packed, mut offset] = [24, 20, 42].map(|at| u64::from(word(at, &fixed)));
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
    Ok(Some(Entry {
        name: String::from_utf8_lossy(&name).into_owned(),
        flags: short(8, &fixed),
        method: short(10, &fixed),
        crc32: word(16, &fixed),
        packed,
        size,
        offset: before.saturating_add(offset),
    }))
}

/// What the local header of an entry says.
pub(super) struct Local {
    /// Where the data begin.
    pub data: u64,
    /// `None` where it stands behind the data.
    pub crc32: Option<u32>,
}

/// The local header of an entry, if directory and it agree on what its data are.
pub(super) fn local(
    source: &dyn ReadAt,
    entry: &Entry,
    directory: &Directory,
) -> io::Result<Result<Local, &'static str>> {
    let mut cursor = Cursor::new(source, entry.offset, directory.start);
    let Some(fixed) = cursor.array::<30>()?.filter(|fixed| fixed.starts_with(&LOCAL)) else {
        return Ok(Err("there is no local header where the directory says"));
    };
    let Some(name) = cursor.bytes(short(26, &fixed).into())? else {
        return Ok(Err("the local header is cut short"));
    };
    let (flags, crc32) = (short(6, &fixed), word(14, &fixed));
    if name != entry.name.as_bytes() {
        return Ok(Err("local header and directory give different names"));
    }
    if (entry.flags | flags) & ENCRYPTED != 0 {
        return Ok(Err("the entry is marked as encrypted"));
    }
    if entry.method != 0 || short(8, &fixed) != 0 {
        return Ok(Err("the entry is compressed"));
    }
    if entry.packed != entry.size {
        return Ok(Err("the entry has two sizes"));
    }
    if !cursor.skip(short(28, &fixed).into()) || entry.size > cursor.remaining() {
        return Ok(Err("the data reach beyond the end of the archive"));
    }
    let crc32 = Some(crc32).filter(|_| flags & DESCRIBED_LATER == 0);
    Ok(Ok(Local { data: cursor.position(), crc32 }))
}
