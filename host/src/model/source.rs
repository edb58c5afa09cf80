//! Positioned, bounded reading: a source of known size and a cursor with a small window.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of known size, read by position. Nothing is ever mapped: a file that shrinks
/// while it is read gives an error here, where a mapping would give SIGBUS.
pub trait ReadAt {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Fills `buffer` from `offset`; an error if fewer bytes are there.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// It will be read from beginning to end: read ahead.
    fn sequential(&self) {}
    /// These bytes will not be read again soon: they need no memory.
    fn forget(&self, _offset: u64, _bytes: u64) {}
}

/// A regular file and the size it had when opened.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    size: u64,
}

impl SourceFile {
    /// Opens a regular file; anything else (a folder, a pipe, a device) is refused
    /// without waiting for it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = File::options().read(true).custom_flags(nonblock).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { file, size: metadata.len() })
    }

    /// What tells this very content from another as far as the file system knows: device,
    /// inode, size, and the times of the last change of content and of anything.
    pub fn stamp(&self) -> io::Result<[u64; 7]> {
        let of = self.file.metadata()?;
        let number = |value: i64| u64::from_ne_bytes(value.to_ne_bytes());
        let times = [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()].map(number);
        let [modified, modified_nanoseconds, changed, changed_nanoseconds] = times;
        let (device, inode) = (of.dev(), of.ino());
        Ok([device, inode, of.size(), modified, modified_nanoseconds, changed, changed_nanoseconds])
    }

    /// The size now; differs from [`ReadAt::size`] if the file changed since it was opened.
    pub fn size_now(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

impl ReadAt for SourceFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn sequential(&self) {
        // Advice that is not taken costs speed alone.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::Sequential);
    }

    fn forget(&self, offset: u64, bytes: u64) {
        let _ = rustix::fs::fadvise(&self.file, offset, NonZero::new(bytes), rustix::fs::Advice::DontNeed);
    }
}

impl ReadAt for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buffer.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

const WINDOW_BYTES: usize = 64 << 10;

/// A source from its beginning to its end, for what reads in pieces.
#[derive(Clone, Copy)]
pub struct Stream<'a> {
    source: &'a dyn ReadAt,
    position: u64,
}

impl std::fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("position", &self.position).finish_non_exhaustive()
    }
}

impl<'a> Stream<'a> {
    pub fn new(source: &'a dyn ReadAt) -> Self {
        Self { source, position: 0 }
    }
}

impl io::Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.source.size() - self.position).unwrap_or(usize::MAX);
        let length = rest.min(buffer.len());
        if let Some(buffer) = buffer.get_mut(..length) {
            self.source.read_at(buffer, self.position)?;
        }
        self.position += length as u64;
        Ok(length)
    }
}

/// Is all of it UTF-8? Read in pieces, so that it never takes more memory than one.
pub fn is_utf8(source: &dyn ReadAt) -> io::Result<bool> {
    let mut cursor = Cursor::new(source, 0, source.size());
    let mut piece = vec![0; WINDOW_BYTES];
    // The beginning of a letter that the end of a piece cut.
    let mut kept = 0usize;
    while cursor.remaining() > 0 {
        let rest = usize::try_from(cursor.remaining()).unwrap_or(usize::MAX);
        piece.resize(WINDOW_BYTES.min(kept.saturating_add(rest)), 0);
        cursor.fill(piece.get_mut(kept..).unwrap_or_default())?;
        kept = match std::str::from_utf8(&piece) {
            Ok(_) => 0,
            Err(error) if error.error_len().is_none() => piece.len() - error.valid_up_to(),
            Err(_) => return Ok(false),
        };
        piece.drain(..piece.len() - kept);
    }
    Ok(kept == 0)
}

/// The place of the first byte from `from` to `to` that is not zero.
pub fn first_nonzero(source: &dyn ReadAt, from: u64, to: u64) -> io::Result<Option<u64>> {
    let mut piece = vec![0; WINDOW_BYTES];
    let mut at = from;
    while at < to {
        let length = usize::try_from(to - at).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        let bytes = piece.get_mut(..length).unwrap_or_default();
        source.read_at(bytes, at)?;
        if let Some(place) = bytes.iter().position(|&byte| byte != 0) {
            return Ok(Some(at + place as u64));
        }
        at += length as u64;
    }
    Ok(None)
}

/// Sequential reading of a source up to `end`, through a window of 64 KiB.
/// No method allocates more than it has checked to be there.
pub struct Cursor<'a> {
    source: &'a dyn ReadAt,
    /// Position of the next unread byte.
    position: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl std::fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor")
            .field("position", &self.position)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl<'a> Cursor<'a> {
    /// Reads from `position` to the smaller of `end` and the source's size.
    pub fn new(source: &'a dyn ReadAt, position: u64, end: u64) -> Self {
        let end = end.min(source.size());
        Self { source, position: position.min(end), end, window: Vec::new(), window_start: 0 }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn remaining(&self) -> u64 {
        self.end - self.position
    }

    /// Fills `buffer`; `Ok(false)` if fewer bytes remain, and then nothing is consumed.
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let wanted = buffer.len() as u64;
        if wanted > self.remaining() {
            return Ok(false);
        }
        if buffer.len() >= WINDOW_BYTES {
            self.source.read_at(buffer, self.position)?;
        } else {
            let bytes = match self.windowed(buffer.len()) {
                Some(bytes) => bytes,
                None => {
                    self.refill()?;
                    self.windowed(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?
                }
            };
            buffer.copy_from_slice(bytes);
        }
        self.position += wanted;
        Ok(true)
    }

    fn windowed(&self, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(self.position.checked_sub(self.window_start)?).ok()?;
        self.window.get(start..)?.get(..length)
    }

    fn refill(&mut self) -> io::Result<()> {
        let length = usize::try_from(self.remaining()).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        self.window.resize(length, 0);
        self.source.read_at(&mut self.window, self.position)?;
        self.window_start = self.position;
        Ok(())
    }

    /// Passes over `length` bytes; false if fewer remain, and then nothing is passed over.
    pub fn skip(&mut self, length: u64) -> bool {
        let fits = length <= self.remaining();
        if fits {
            self.position += length;
        }
        fits
    }

    /// `length` bytes; `Ok(None)` if fewer remain, and then nothing is allocated.
    pub fn bytes(&mut self, length: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(length) = usize::try_from(length).ok().filter(|&length| length as u64 <= self.remaining())
        else {
            return Ok(None);
        };
        let mut out = vec![0; length];
        self.fill(&mut out)?;
        Ok(Some(out))
    }

    /// The bytes from `start` to here once more, in as much memory as they take.
    pub fn since(&self, start: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.position.saturating_sub(start));
        let mut out = vec![0; length.map_err(|_| io::ErrorKind::OutOfMemory)?];
        self.source.read_at(&mut out, start)?;
        Ok(out)
    }

    pub fn array<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut out = [0; N];
        Ok(self.fill(&mut out)?.then_some(out))
    }
}
