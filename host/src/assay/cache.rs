//! Reference traces on disk, so that a second candidate does not run the reference again and
//! a block of traces does not stay in memory.
//!
//! One folder per (reference digest, commitment, settings, assayd version), one file per
//! challenge: magic, SHA-256 of the body, body. Files appear by atomic rename; one that is
//! damaged, too large or of another shape is ignored and made again. The cache is an
//! optimisation: when it cannot be written, traces stay in memory up to a limit.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::canonical::digest_of;
use crate::digest::sha256_parts;
use crate::domain::trace::{Distribution, Trace};
use crate::domain::{Problem, Sha256, budget};
use crate::engine::{LoadBits, ModelInfo};

const MAGIC: &[u8; 16] = b"assayd-traces/1\n";

/// What a set of reference traces depends on.
#[derive(Debug, Clone, Serialize)]
pub struct CacheKey {
    /// Root over the reference's files.
    pub reference: Sha256,
    pub commitment: Sha256,
    pub context: u32,
    pub parallel: u32,
    pub threads: u32,
    pub gpu_layers: i32,
    pub cpu_experts: u32,
    pub load_bits: Option<LoadBits>,
    pub positions: u32,
    /// Whether whole distributions are kept whatever the vocabulary.
    pub exact: bool,
    pub assayd_version: &'static str,
}

/// The reference's answer to one challenge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "nearly every answer is a trace")]
pub enum Answer {
    Trace(Trace),
    /// It could not be had, and why.
    Failed(String),
}

/// A folder of answers. Reading never fails: what cannot be read is not there.
#[derive(Debug)]
pub struct TraceCache {
    /// `None` once writing failed: from then on everything stays in memory.
    folder: Option<PathBuf>,
    memory: Vec<(u64, Arc<Answer>)>,
    memory_bytes: usize,
}

impl TraceCache {
    /// The set of `key` below `root`, made if it is not there; older sets go when the
    /// cache is over its budget.
    ///
    /// # Errors
    /// Internal: the key has no canonical form.
    pub fn open(root: &Path, key: &CacheKey) -> Result<Self, Problem> {
        let name = digest_of(key)?.to_string();
        let folder = root.join("traces").join(name);
        let folder = match std::fs::create_dir_all(&folder) {
            Ok(()) => Some(folder),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "reference traces stay in memory");
                None
            }
        };
        let cache = Self { folder, memory: Vec::new(), memory_bytes: 0 };
        if let Some(folder) = &cache.folder {
            prune(&root.join("traces"), folder, budget::TRACE_CACHE_BYTES);
        }
        Ok(cache)
    }

    /// What the cached traces' model said of itself.
    pub fn info(&self) -> Option<ModelInfo> {
        read(&self.folder.as_ref()?.join("info"))
    }

    /// Keeps what the model said of itself.
    pub fn put_info(&mut self, info: &ModelInfo) {
        self.write("info", info);
    }

    /// The answer to a challenge, if it is here and whole.
    pub fn get(&self, index: u64) -> Option<Arc<Answer>> {
        if let Some((_, answer)) = self.memory.iter().find(|(at, _)| *at == index) {
            return Some(Arc::clone(answer));
        }
        read(&self.folder.as_ref()?.join(index.to_string())).map(Arc::new)
    }

    /// Keeps an answer: on disk, or in memory when the disk refuses.
    ///
    /// # Errors
    /// Machine: neither has room.
    pub fn put(&mut self, index: u64, answer: Answer) -> Result<(), Problem> {
        if self.write(&index.to_string(), &answer) {
            return Ok(());
        }
        self.memory_bytes = self.memory_bytes.saturating_add(size_of_answer(&answer));
        if self.memory_bytes > budget::TRACES_IN_MEMORY_BYTES {
            return Err(Problem::machine(format!(
                "the reference's traces take more than {} bytes and the cache cannot be written",
                budget::TRACES_IN_MEMORY_BYTES
            ))
            .hint("make room on the disk of the cache folder"));
        }
        self.memory.push((index, Arc::new(answer)));
        Ok(())
    }

    /// Forgets everything, because another build of the engine made it.
    pub fn clear(&mut self) {
        self.memory.clear();
        self.memory_bytes = 0;
        if let Some(folder) = &self.folder {
            let kept = std::fs::remove_dir_all(folder).and_then(|()| std::fs::create_dir_all(folder));
            if kept.is_err() {
                self.folder = None;
            }
        }
    }

    /// Whether the value reached the disk.
    fn write<T: Serialize>(&mut self, name: &str, value: &T) -> bool {
        let Some(folder) = &self.folder else { return false };
        match write(&folder.join(name), value) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot cache a reference trace");
                self.folder = None;
                false
            }
        }
    }
}

fn size_of_answer(answer: &Answer) -> usize {
    match answer {
        Answer::Failed(reason) => reason.len(),
        Answer::Trace(trace) => {
            let floats = match &trace.distribution {
                Distribution::Summary | Distribution::Tokens => 0,
                Distribution::Full { logits } => logits.len(),
                Distribution::Half { bytes } => bytes.len().div_ceil(4),
                Distribution::Coarse { ids, logits, bucket_logits, bucket_least, .. } => {
                    ids.len() + logits.len() + bucket_logits.len() + bucket_least.len()
                }
            };
            floats * 4 + trace.tokens.len() * 4 + trace.rows() * 28
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let file = std::fs::File::open(path).ok()?;
    if file.metadata().ok()?.len() > budget::CACHED_TRACE_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(budget::CACHED_TRACE_BYTES).read_to_end(&mut bytes).ok()?;
    let body = bytes.strip_prefix(MAGIC)?;
    let (digest, body) = body.split_at_checked(32)?;
    if sha256_parts(&[body]).0 != digest {
        return None;
    }
    postcard::from_bytes(body).ok()
}

fn write<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    let body = postcard::to_stdvec(value).map_err(std::io::Error::other)?;
    // Unique per process and thread of work: two assays may fill one set at a time.
    let temporary = path.with_extension(format!("{}.tmp", uuid::Uuid::now_v7().simple()));
    let written = std::fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(MAGIC)?;
        file.write_all(&sha256_parts(&[&body]).0)?;
        file.write_all(&body)
    });
    written.and_then(|()| std::fs::rename(&temporary, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

/// Removes the sets that were written to longest ago until the cache fits its budget;
/// `keep` stays.
fn prune(root: &Path, keep: &Path, limit: u64) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    let mut sets: Vec<(std::time::SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let modified = entry.metadata().ok()?.modified().ok()?;
            let bytes =
                std::fs::read_dir(entry.path()).ok()?.flatten().filter_map(|file| file.metadata().ok());
            Some((modified, bytes.map(|data| data.len()).sum(), entry.path()))
        })
        .collect();
    sets.sort();
    let mut total: u64 = sets.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in sets {
        if total <= limit {
            return;
        }
        if path != keep && std::fs::remove_dir_all(&path).is_ok() {
            total = total.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parallel: u32) -> CacheKey {
        CacheKey {
            reference: sha256_parts(&[b"r"]),
            commitment: sha256_parts(&[b"c"]),
            context: 512,
            parallel,
            threads: 2,
            gpu_layers: 0,
            cpu_experts: 0,
            load_bits: None,
            positions: 64,
            exact: false,
            assayd_version: "0",
        }
    }

    fn answer(token: u32) -> Answer {
        Answer::Trace(Trace {
            tokens: vec![1, token],
            scored_from: 1,
            vocab: 4,
            token_logprobs: vec![-0.1],
            log_sum_exp: vec![f64::MIN_POSITIVE],
            entropy: vec![0.3],
            argmax: vec![2],
            distribution: Distribution::Full { logits: vec![1.0, -0.0, f32::MIN_POSITIVE, 3.5] },
        })
    }

    #[test]
    fn round_trip_and_separation() {
        let root = tempfile::tempdir().unwrap();
        let mut cache = TraceCache::open(root.path(), &key(4)).unwrap();
        assert!(cache.get(0).is_none());
        cache.put(0, answer(2)).unwrap();
        cache.put(1, Answer::Failed("no".to_owned())).unwrap();
        let again = TraceCache::open(root.path(), &key(4)).unwrap();
        assert_eq!(*again.get(0).unwrap(), answer(2));
        assert_eq!(*again.get(1).unwrap(), Answer::Failed("no".to_owned()));
        assert!(TraceCache::open(root.path(), &key(8)).unwrap().get(0).is_none(), "other settings");
        let narrower = CacheKey { load_bits: Some(LoadBits::Eight), ..key(4) };
        assert!(TraceCache::open(root.path(), &narrower).unwrap().get(0).is_none(), "other weights");
    }

    /// Any flipped byte, and any truncation, makes the file as good as absent.
    #[test]
    fn damage_is_ignored() {
        let root = tempfile::tempdir().unwrap();
        let mut cache = TraceCache::open(root.path(), &key(4)).unwrap();
        cache.put(7, answer(3)).unwrap();
        let path = cache.folder.as_ref().unwrap().join("7");
        let whole = std::fs::read(&path).unwrap();
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!(cache.get(7).is_none(), "byte {i}");
            std::fs::write(&path, &whole[..i]).unwrap();
            assert!(cache.get(7).is_none(), "cut at {i}");
        }
        cache.put(7, answer(3)).unwrap();
        assert_eq!(*cache.get(7).unwrap(), answer(3));
    }

    #[test]
    fn without_a_disk_memory_serves() {
        let root = tempfile::tempdir().unwrap();
        let blocked = root.path().join("file");
        std::fs::write(&blocked, b"not a folder").unwrap();
        let mut cache = TraceCache::open(&blocked, &key(4)).unwrap();
        cache.put(3, answer(1)).unwrap();
        assert_eq!(*cache.get(3).unwrap(), answer(1));
        cache.clear();
        assert!(cache.get(3).is_none());
    }

    #[test]
    fn the_oldest_sets_go_first() {
        let root = tempfile::tempdir().unwrap();
        let mut folders = Vec::new();
        for parallel in 1..=3 {
            let mut cache = TraceCache::open(root.path(), &key(parallel)).unwrap();
            cache.put(0, answer(1)).unwrap();
            folders.push(cache.folder.unwrap());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let one = std::fs::metadata(folders[0].join("0")).unwrap().len();
        prune(&root.path().join("traces"), &folders[0], 2 * one);
        assert_eq!(folders.iter().map(|f| f.exists()).collect::<Vec<_>>(), [true, false, true]);
    }
}
