//! When an artifact has become quiet: a fold over looks at the folders, without a clock
//! or a file system of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::unfinished;
use crate::domain::budget;

/// Size and time of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    pub path: PathBuf,
    pub bytes: u64,
    /// Modification time in nanoseconds since 1970.
    pub modified_ns: i128,
    pub inode: u64,
}

/// An artifact whose files have been quiet for the settling time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub path: PathBuf,
    pub files: Vec<FileStamp>,
    /// The sidecar that lies beside it.
    pub sidecar: Option<FileStamp>,
}

/// What changed. Each is said once, when it becomes true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// There, but not to be taken yet; `why` says what is awaited.
    Waiting {
        path: PathBuf,
        /// The files as they are now; the same as before a restart means that nothing changed.
        files: Vec<FileStamp>,
        why: String,
    },
    Settled(Settled),
    Ignored {
        path: PathBuf,
        why: String,
    },
    /// It was reported before and is there no more.
    Gone {
        path: PathBuf,
    },
    /// A folder cannot be listed now; what was in it is left as it was.
    Trouble {
        folder: PathBuf,
        why: String,
    },
    /// The first look is over: whatever is in none of its events is there no more, except
    /// in the folders that could not be listed.
    Looked {
        troubled: Vec<PathBuf>,
    },
}

/// One artifact at one look: its files as they are, or why one could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    pub path: PathBuf,
    pub files: Vec<FileStamp>,
    pub missing: Vec<String>,
    pub sidecar: Option<FileStamp>,
}

/// One look at all folders.
#[derive(Debug, Clone, Default)]
pub struct Look {
    pub sights: Vec<Sight>,
    pub ignored: Vec<(PathBuf, String)>,
    /// Folders that could not be listed, each with the reason.
    pub troubles: Vec<(PathBuf, String)>,
}

#[derive(Debug)]
struct Tracked {
    sight: Sight,
    quiet_since: Instant,
    /// What was said last.
    said: Said,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Nothing,
    Waiting(String),
    Settled,
}

/// Remembers the looks so far.
#[derive(Debug)]
pub struct Settler {
    settle: Duration,
    tracked: BTreeMap<PathBuf, Tracked>,
    ignored: BTreeMap<PathBuf, String>,
    troubles: BTreeMap<PathBuf, String>,
    overflow: bool,
    looked: bool,
}

const GROWING: &str = "it is still changing; it is taken when its size and time have been quiet";
const UNFINISHED: &str = "its name says that it is still being written; it is taken when it is renamed";

impl Settler {
    pub fn new(settle: Duration) -> Self {
        Self {
            settle,
            tracked: BTreeMap::new(),
            ignored: BTreeMap::new(),
            troubles: BTreeMap::new(),
            overflow: false,
            looked: false,
        }
    }

    /// Takes a look made from `began` to `ended`, and returns what it changed. Whatever was
    /// seen may have been written as late as `ended`, and is known only up to `began`.
    pub fn look(&mut self, began: Instant, ended: Instant, look: Look) -> Vec<WatchEvent> {
        let mut events = Vec::new();
        let mut seen = BTreeSet::new();
        let mut ignored = BTreeMap::new();
        for (path, why) in look.ignored {
            let why = if unfinished(&path) { UNFINISHED.to_owned() } else { why };
            ignored.insert(path, why);
        }
        for sight in look.sights {
            if unfinished(&sight.path) {
                ignored.insert(sight.path, UNFINISHED.to_owned());
            } else if self.tracked.len() < budget::ARTIFACTS || self.tracked.contains_key(&sight.path) {
                seen.insert(sight.path.clone());
                events.extend(self.see(began, ended, sight));
            } else if !self.overflow {
                self.overflow = true;
                let why = format!("more than {} artifacts; further ones are left alone", budget::ARTIFACTS);
                events.push(WatchEvent::Trouble { folder: sight.path, why });
            }
        }
        self.leave(&seen, &look.troubles, &mut events);
        self.ignore(ignored, &seen, &look.troubles, &mut events);
        let troubles: BTreeMap<PathBuf, String> = look.troubles.into_iter().collect();
        for (folder, why) in &troubles {
            if self.troubles.get(folder) != Some(why) {
                events.push(WatchEvent::Trouble { folder: folder.clone(), why: why.clone() });
            }
        }
        self.troubles = troubles;
        if !self.looked {
            self.looked = true;
            events.push(WatchEvent::Looked { troubled: self.troubles.keys().cloned().collect() });
        }
        events
    }

    fn see(&mut self, began: Instant, ended: Instant, sight: Sight) -> Option<WatchEvent> {
        let tracked = self.tracked.entry(sight.path.clone()).or_insert_with(|| Tracked {
            sight: sight.clone(),
            quiet_since: ended,
            said: Said::Nothing,
        });
        if tracked.sight != sight {
            tracked.sight = sight;
            tracked.quiet_since = ended;
            // Whatever was said of the former bytes does not hold for these.
            if tracked.said == Said::Settled {
                tracked.said = Said::Nothing;
            }
        }
        let quiet = began.saturating_duration_since(tracked.quiet_since) >= self.settle;
        let sight = &tracked.sight;
        let next = if !sight.missing.is_empty() {
            Said::Waiting(missing(&sight.missing))
        } else if !quiet || sight.files.is_empty() {
            Said::Waiting(GROWING.to_owned())
        } else {
            Said::Settled
        };
        if tracked.said == next {
            return None;
        }
        tracked.said = next.clone();
        let path = sight.path.clone();
        Some(match next {
            Said::Nothing | Said::Settled => WatchEvent::Settled(Settled {
                path,
                files: sight.files.clone(),
                sidecar: sight.sidecar.clone(),
            }),
            Said::Waiting(why) => WatchEvent::Waiting { path, files: sight.files.clone(), why },
        })
    }

    fn leave(
        &mut self,
        seen: &BTreeSet<PathBuf>,
        troubles: &[(PathBuf, String)],
        events: &mut Vec<WatchEvent>,
    ) {
        self.tracked.retain(|path, _| {
            let stays = seen.contains(path) || inside(path, troubles);
            if !stays {
                events.push(WatchEvent::Gone { path: path.clone() });
            }
            stays
        });
    }

    fn ignore(
        &mut self,
        mut ignored: BTreeMap<PathBuf, String>,
        seen: &BTreeSet<PathBuf>,
        troubles: &[(PathBuf, String)],
        events: &mut Vec<WatchEvent>,
    ) {
        while ignored.len() > budget::ARTIFACTS {
            ignored.pop_last();
        }
        for (path, why) in &self.ignored {
            if ignored.contains_key(path) || seen.contains(path) {
                continue;
            }
            if inside(path, troubles) {
                ignored.insert(path.clone(), why.clone());
            } else {
                events.push(WatchEvent::Gone { path: path.clone() });
            }
        }
        for (path, why) in &ignored {
            if self.ignored.get(path) != Some(why) {
                events.push(WatchEvent::Ignored { path: path.clone(), why: why.clone() });
            }
        }
        self.ignored = ignored;
    }

    /// When the next look can bring news although nothing changes, if ever.
    pub fn next_due(&self) -> Option<Instant> {
        self.tracked
            .values()
            .filter(|tracked| tracked.said != Said::Settled && tracked.sight.missing.is_empty())
            .map(|tracked| tracked.quiet_since + self.settle)
            .min()
    }
}

fn inside(path: &Path, troubles: &[(PathBuf, String)]) -> bool {
    troubles.iter().any(|(folder, _)| path.starts_with(folder))
}

fn missing(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut list: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = names.len().saturating_sub(SHOWN);
    let tail = format!("and {more} more");
    if more > 0 {
        list.push(&tail);
    }
    format!("it waits for its missing parts: {}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(2);

    fn sight(path: &str, bytes: u64) -> Sight {
        let file = FileStamp { path: path.into(), bytes, modified_ns: 0, inode: 1 };
        Sight { path: path.into(), files: vec![file], missing: Vec::new(), sidecar: None }
    }

    fn look(sights: Vec<Sight>) -> Look {
        Look { sights, ..Look::default() }
    }

    fn words(events: &[WatchEvent]) -> Vec<String> {
        events
            .iter()
            .map(|event| match event {
                WatchEvent::Waiting { path, why, .. } => format!("waiting {} {why}", path.display()),
                WatchEvent::Settled(s) => {
                    format!("settled {} {}", s.path.display(), s.files.iter().map(|f| f.bytes).sum::<u64>())
                }
                WatchEvent::Ignored { path, .. } => format!("ignored {}", path.display()),
                WatchEvent::Gone { path } => format!("gone {}", path.display()),
                WatchEvent::Trouble { folder, why } => format!("trouble {} {why}", folder.display()),
                WatchEvent::Looked { troubled } => format!("looked {}", troubled.len()),
            })
            .collect()
    }

    /// Each step: seconds since the start, what the folder shows, what is said.
    fn check(steps: Vec<(f64, Look, &[&str])>) {
        let start = Instant::now();
        let mut settler = Settler::new(SETTLE);
        for (at, look, expected) in steps {
            let now = start + Duration::from_secs_f64(at);
            let mut said = words(&settler.look(now, now, look));
            let looked = said.pop_if(|last| last.starts_with("looked"));
            assert_eq!(looked.is_some(), at == 0.0, "said once, at the end of the first look");
            let matches = said.len() == expected.len()
                && said.iter().zip(expected).all(|(said, expected)| said.starts_with(expected));
            assert!(matches, "at {at}: said {said:?}, expected {expected:?}");
        }
    }

    #[test]
    fn a_growing_file_is_taken_only_after_it_was_quiet() {
        check(vec![
            (0.0, look(vec![sight("a", 1)]), &["waiting a it is still"]),
            (1.0, look(vec![sight("a", 2)]), &[]),
            (2.9, look(vec![sight("a", 2)]), &[]),
            (3.0, look(vec![sight("a", 2)]), &["settled a 2"]),
            (9.0, look(vec![sight("a", 2)]), &[]),
            // Written to again: all over again.
            (10.0, look(vec![sight("a", 3)]), &["waiting a"]),
            (12.0, look(vec![sight("a", 3)]), &["settled a 3"]),
            (13.0, look(vec![]), &["gone a"]),
            (14.0, look(vec![]), &[]),
        ]);
    }

    #[test]
    fn a_split_set_waits_and_says_for_what() {
        let mut part = sight("s", 5);
        part.missing = vec!["s-00002-of-00002.gguf".to_owned()];
        check(vec![
            (0.0, look(vec![part.clone()]), &["waiting s it waits for its missing parts: s-00002"]),
            (9.0, look(vec![part]), &[]),
            (10.0, look(vec![sight("s", 9)]), &["waiting s it is still"]),
            (12.0, look(vec![sight("s", 9)]), &["settled s 9"]),
        ]);
    }

    #[test]
    fn unfinished_names_are_left_alone_until_renamed() {
        let part = Look { ignored: vec![("a.gguf.part".into(), "foreign".to_owned())], ..Look::default() };
        check(vec![
            (0.0, look(vec![sight("b.tmp", 1)]), &["ignored b.tmp"]),
            (5.0, part, &["gone b.tmp", "ignored a.gguf.part"]),
            (6.0, look(vec![sight("a.gguf", 1)]), &["waiting a.gguf", "gone a.gguf.part"]),
            (8.0, look(vec![sight("a.gguf", 1)]), &["settled a.gguf"]),
        ]);
    }

    #[test]
    fn an_unreadable_folder_loses_nothing() {
        let trouble =
            || Look { troubles: vec![("/m".into(), "permission denied".to_owned())], ..Look::default() };
        check(vec![
            (0.0, look(vec![sight("/m/a", 1), sight("/n/b", 1)]), &["waiting /m/a", "waiting /n/b"]),
            (1.0, trouble(), &["gone /n/b", "trouble /m permission denied"]),
            (2.0, trouble(), &[]),
            (3.0, look(vec![sight("/m/a", 1)]), &["settled /m/a"]),
        ]);
    }

    #[test]
    fn due_only_while_something_settles() {
        let start = Instant::now();
        let mut settler = Settler::new(SETTLE);
        assert_eq!(settler.next_due(), None);
        settler.look(start, start, look(vec![sight("a", 1)]));
        assert_eq!(settler.next_due(), Some(start + SETTLE));
        settler.look(start + SETTLE, start + SETTLE, look(vec![sight("a", 1)]));
        assert_eq!(settler.next_due(), None);
    }

    #[test]
    fn a_slow_look_does_not_shorten_the_wait() {
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let mut settler = Settler::new(SETTLE);
        let start = at(10);
        settler.look(start, start + SETTLE, look(vec![sight("a", 1)]));
        // The file may have been written at the end of that look, two seconds before this one's.
        let said = settler.look(start + SETTLE, start + 2 * SETTLE, look(vec![sight("a", 1)]));
        assert_eq!(words(&said), [] as [&str; 0]);
        let said = settler.look(start + 2 * SETTLE, start + 2 * SETTLE, look(vec![sight("a", 1)]));
        assert_eq!(words(&said), ["settled a 1"]);
    }

    #[test]
    fn a_new_sidecar_is_news() {
        let mut with = sight("a", 1);
        with.sidecar = Some(FileStamp { path: "a.assay.toml".into(), bytes: 9, modified_ns: 0, inode: 2 });
        check(vec![
            (0.0, look(vec![sight("a", 1)]), &["waiting a"]),
            (2.0, look(vec![sight("a", 1)]), &["settled a"]),
            (3.0, look(vec![with.clone()]), &["waiting a"]),
            (5.0, look(vec![with]), &["settled a"]),
        ]);
    }
}
