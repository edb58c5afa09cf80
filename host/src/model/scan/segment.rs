//! A segment of the pass: the threads, and the buffers that go around between them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use super::hashing::{Hashing, Others};
use super::look::Scanner;
use super::{CHUNK_BYTES, Content, Place, State, Stretch, Tensors};
use crate::model::source::ReadAt;

/// Buffers on the way between the threads; enough for one to run ahead of another.
const CHUNKS_IN_FLIGHT: usize = 8;
/// Bytes read before those before them are dropped from the page cache.
const FORGET_BYTES: u64 = 16 << 20;

/// A buffer on its way; `last` ends a stretch.
struct Chunk {
    buffer: Vec<u8>,
    length: usize,
    content: Content,
    last: bool,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

/// What all segments have in common.
pub(super) struct Job<'a> {
    pub source: &'a (dyn ReadAt + Sync),
    pub tensors: Tensors<'a>,
    pub plan: &'a [Stretch],
    pub forget: bool,
    /// Bytes of a segment.
    pub bytes: u64,
}

impl Job<'_> {
    /// Goes on by a segment; false when all is done.
    pub fn run(
        &self,
        state: &mut State,
        others: Option<&mut Others>,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<bool> {
        let State { next, done, whole, hashing, scanner } = state;
        let (empty_sender, empty) = mpsc::channel::<Vec<u8>>();
        for _ in 0..CHUNKS_IN_FLIGHT {
            // The receiver is alive: it is in this function.
            let _ = empty_sender.send(Vec::new());
        }
        let mut outlets = Vec::new();
        let mut outlet = || {
            let (sender, receiver) = mpsc::sync_channel::<Arc<Chunk>>(CHUNKS_IN_FLIGHT);
            outlets.push(sender);
            receiver
        };
        let (to_hash, to_digest, in_order) = (outlet(), others.is_some().then(&mut outlet), outlet());
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || self.read(next, scanner, &empty, outlets));
            let give_back = empty_sender.clone();
            let hasher = scope.spawn(move || hash(to_hash, hashing, &give_back));
            let give_back = empty_sender.clone();
            let digester = others
                .zip(to_digest)
                .map(|(others, chunks)| scope.spawn(move || digest(chunks, others, &give_back)));
            for chunk in in_order {
                whole.update(chunk.bytes());
                *done += chunk.length as u64;
                progress(chunk.length as u64);
                recycle(chunk, &empty_sender);
            }
            let broke = |_| io::Error::other("a thread of the pass failed");
            let more = reader.join().map_err(broke)??;
            hasher.join().map_err(broke)?;
            digester.map_or(Ok(()), std::thread::ScopedJoinHandle::join).map_err(broke)?;
            Ok(more)
        })
    }

    /// Reads and looks; true if the segment ended before the file.
    fn read(
        &self,
        next: &mut Place,
        scanner: &mut Scanner,
        empty: &Receiver<Vec<u8>>,
        outlets: Vec<SyncSender<Arc<Chunk>>>,
    ) -> io::Result<bool> {
        let (mut read, mut kept_from) = (0, None::<u64>);
        while let Some(stretch) = self.plan.get(next.stretch) {
            if read >= self.bytes {
                if let Some(from) = kept_from {
                    self.source.forget(from, stretch.offset + next.done - from);
                }
                return Ok(true);
            }
            // The channels close only if the hashing sides have gone.
            let Ok(mut buffer) = empty.recv() else { return Ok(false) };
            let offset = stretch.offset + next.done;
            let bytes = CHUNK_BYTES.min(stretch.bytes - next.done);
            let length = usize::try_from(bytes).unwrap_or(0);
            if buffer.len() < length {
                buffer.resize(length, 0);
            }
            let room = buffer.get_mut(..length).unwrap_or_default();
            self.source.read_at(room, offset)?;
            let last = next.done + bytes == stretch.bytes;
            scanner.see(self.tensors, stretch.content, offset, room, last);
            *next = if last {
                Place { stretch: next.stretch + 1, done: 0 }
            } else {
                Place { done: next.done + bytes, ..*next }
            };
            read += bytes;
            if self.forget {
                let from = *kept_from.get_or_insert(offset);
                let end = offset + bytes;
                if end - from >= FORGET_BYTES || next.stretch == self.plan.len() {
                    self.source.forget(from, end - from);
                    kept_from = None;
                }
            }
            let chunk = Arc::new(Chunk { buffer, length, content: stretch.content, last });
            // The last outlet takes the chunk itself: were one left here, the others could both be
            // done with theirs before it goes, and nobody would send the buffer back.
            let Some((to_last, to_others)) = outlets.split_last() else { return Ok(false) };
            let sent = to_others.iter().all(|outlet| outlet.send(Arc::clone(&chunk)).is_ok());
            if !sent || to_last.send(chunk).is_err() {
                return Ok(false);
            }
        }
        Ok(false)
    }
}

fn hash(chunks: Receiver<Arc<Chunk>>, hashing: &mut Hashing, empty: &Sender<Vec<u8>>) {
    for chunk in chunks {
        hashing.take(chunk.bytes(), chunk.content, chunk.last);
        recycle(chunk, empty);
    }
}

fn digest(chunks: Receiver<Arc<Chunk>>, others: &mut Others, empty: &Sender<Vec<u8>>) {
    for chunk in chunks {
        others.take(chunk.bytes(), chunk.content, chunk.last);
        recycle(chunk, empty);
    }
}

/// The last user of a buffer sends it back to the reader.
fn recycle(chunk: Arc<Chunk>, empty: &Sender<Vec<u8>>) {
    if let Some(chunk) = Arc::into_inner(chunk) {
        // A reader that is done needs no buffers.
        let _ = empty.send(chunk.buffer);
    }
}
