//! The local signing key and other people's public keys, as files of one folder.
//!
//! `signing.key` is one line, readable by its owner alone; `pinned.toml` lists names with
//! public keys. Invariants: a key is never overwritten; a key file that others can read is
//! refused, because it may be known to them; a name and a key are pinned once each; a file
//! that cannot be understood is an error, never an empty list. Deliberately absent: passwords
//! on keys and any trust that a person did not write down here.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic::{self, NewFile, Readers};
use crate::digest::{PublicKey, SigningKey};
use crate::domain::digest::{from_hex, hex};
use crate::domain::{Problem, ProblemKind, budget};

/// What stands before the digits of a private key.
const SECRET_PREFIX: &str = "ed25519-secret:";
/// What stands above the pinned keys.
const HEADER: &str =
    "# Public keys whose bundles this user trusts. Deleting an entry takes the trust back.\n\n";

/// A public key that a person pinned, with the name they gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    pub name: String,
    pub key: PublicKey,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinnedFile {
    #[serde(default)]
    pinned: Vec<Pinned>,
}

/// A folder of keys; it need not be there.
#[derive(Debug, Clone)]
pub struct Keyring {
    folder: PathBuf,
}

impl Keyring {
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// `$XDG_CONFIG_HOME/assayd/keys`, or `~/.config/assayd/keys`; `env` looks a variable up.
    pub fn of_user(env: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let folder = |name: &str| env(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
        let config = folder("XDG_CONFIG_HOME")
            .or_else(|| folder("HOME").map(|home| home.join(".config")))
            .unwrap_or_else(|| PathBuf::from(".config"));
        Self::at(config.join("assayd/keys"))
    }

    /// Where the private key is.
    pub fn secret_path(&self) -> PathBuf {
        self.folder.join("signing.key")
    }

    /// Where the pinned keys are.
    pub fn pinned_path(&self) -> PathBuf {
        self.folder.join("pinned.toml")
    }

    /// Makes the local key.
    ///
    /// # Errors
    /// Conflict: there is one. Machine: no random source, or the folder cannot be written.
    pub fn create(&self) -> Result<PublicKey, Problem> {
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| Problem::io("make the folder", &self.folder, &error))?;
        let path = self.secret_path();
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| Problem::machine(format!("cannot draw a random key: {error}")))?;
        let mut new = NewFile::create(&path, Readers::Owner)?;
        writeln!(new.file(), "{SECRET_PREFIX}{}", hex(&seed))
            .map_err(|error| Problem::io("write", &path, &error))?;
        new.commit_new().map_err(|problem| match problem.kind {
            ProblemKind::Conflict => problem.hint(
                "a key is never overwritten, because bundles signed with it could not be told from foreign ones \
                 any more; move it away first if you mean to replace it",
            ),
            _ => problem,
        })?;
        Ok(SigningKey::from_seed(&seed).public())
    }

    /// The local key, if there is one.
    ///
    /// # Errors
    /// Usage: it is there and cannot be used.
    pub fn own(&self) -> Result<Option<SigningKey>, Problem> {
        let path = self.secret_path();
        match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            _ => read_signing_key(&path).map(Some),
        }
    }

    /// Pinned keys by name.
    ///
    /// # Errors
    /// Usage: the file is there and cannot be understood.
    pub fn pinned(&self) -> Result<Vec<Pinned>, Problem> {
        let path = self.pinned_path();
        let mut text = String::new();
        let read =
            File::open(&path).and_then(|file| file.take(budget::KEYRING_BYTES + 1).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(as_usage(Problem::io("read", &path, &error))),
            Ok(_) => {}
        }
        let broken = |why: String| {
            Problem::usage(format!("{}: {why}", path.display()))
                .hint("repair or delete it, then pin the keys again: assayd keys pin NAME KEY")
        };
        if text.len() as u64 > budget::KEYRING_BYTES {
            return Err(broken(format!("more than {} bytes", budget::KEYRING_BYTES)));
        }
        let file: PinnedFile = toml::from_str(&text).map_err(|error| broken(error.message().to_owned()))?;
        Ok(file.pinned)
    }

    /// Pins a key under a name; the same pair again changes nothing.
    ///
    /// # Errors
    /// Usage: not a name. Conflict: the name or the key is pinned otherwise.
    pub fn pin(&self, name: &str, key: PublicKey) -> Result<(), Problem> {
        let sound = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if !(1..=64).contains(&name.len()) || !name.chars().all(sound) {
            return Err(Problem::usage(format!("{name:?} is no name for a key"))
                .hint("use letters, digits and - _ . @, at most 64 of them"));
        }
        let mut pinned = self.pinned()?;
        for other in &pinned {
            match (other.name == name, other.key == key) {
                (true, true) => return Ok(()),
                (false, false) => {}
                _ => {
                    return Err(Problem::new(
                        ProblemKind::Conflict,
                        format!("{} is pinned as {} already", other.key, other.name),
                    )
                    .hint(format!("remove that entry first: assayd keys unpin {}", other.name)));
                }
            }
        }
        pinned.push(Pinned { name: name.to_owned(), key });
        self.write(pinned)
    }

    /// Takes the trust in a name back.
    ///
    /// # Errors
    /// Not found: nothing is pinned under that name.
    pub fn unpin(&self, name: &str) -> Result<(), Problem> {
        let mut pinned = self.pinned()?;
        let before = pinned.len();
        pinned.retain(|other| other.name != name);
        if pinned.len() == before {
            return Err(
                Problem::usage(format!("no key is pinned as {name:?}")).hint("see what is: assayd keys list")
            );
        }
        self.write(pinned)
    }

    fn write(&self, mut pinned: Vec<Pinned>) -> Result<(), Problem> {
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| Problem::io("make the folder", &self.folder, &error))?;
        pinned.sort_by(|a, b| a.name.cmp(&b.name));
        let text = toml::to_string(&PinnedFile { pinned })
            .map_err(|error| Problem::internal(format!("cannot write pinned keys: {error}")))?;
        atomic::write(&self.pinned_path(), format!("{HEADER}{text}").as_bytes())
    }
}

/// A private key from a file that only its owner can read.
///
/// # Errors
/// Usage: it cannot be read, others can read it, or it is no key.
pub fn read_signing_key(path: &Path) -> Result<SigningKey, Problem> {
    let failed = |error: &std::io::Error| as_usage(Problem::io("read the signing key", path, error));
    let file = File::open(path).map_err(|error| failed(&error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Problem::usage(format!("others may read the signing key {}", path.display())).hint(
            format!(
                "if nobody did, chmod 600 {}; else make a new one, because anyone who read it can sign in your name",
                path.display()
            ),
        ));
    }
    let mut text = String::new();
    file.take(budget::KEY_FILE_BYTES).read_to_string(&mut text).map_err(|error| failed(&error))?;
    let seed =
        text.trim().strip_prefix(SECRET_PREFIX).and_then(from_hex).and_then(|seed| seed.try_into().ok());
    let seed: [u8; 32] = seed.ok_or_else(|| {
        Problem::usage(format!("{} holds no signing key", path.display()))
            .hint("make one with: assayd keys new")
    })?;
    Ok(SigningKey::from_seed(&seed))
}

fn as_usage(problem: Problem) -> Problem {
    Problem { kind: ProblemKind::Usage, ..problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> (tempfile::TempDir, Keyring) {
        let folder = tempfile::tempdir().unwrap();
        let ring = Keyring::at(folder.path().join("deep/keys"));
        (folder, ring)
    }

    #[test]
    fn one_key_of_ones_own_that_is_never_overwritten() {
        let (_folder, ring) = ring();
        assert!(ring.own().unwrap().is_none());
        let public = ring.create().unwrap();
        assert_eq!(ring.own().unwrap().unwrap().public(), public);
        assert_eq!(ring.secret_path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ring.create().unwrap_err().kind, ProblemKind::Conflict);
        assert_eq!(ring.own().unwrap().unwrap().public(), public);
        assert_ne!(Keyring::at(ring.folder.join("other")).create().unwrap(), public);
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        let (_folder, ring) = ring();
        ring.create().unwrap();
        let path = ring.secret_path();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o640);
        assert!(ring.own().unwrap_err().message.contains("others may read"));
        mode(0o600);
        for text in ["", "ed25519-secret:00", &format!("ed25519:{}", "11".repeat(32))] {
            std::fs::write(&path, text).unwrap();
            let problem = ring.own().unwrap_err();
            assert!(problem.exit_code() == 2 && problem.message.contains("no signing key"), "{text}");
        }
    }

    #[test]
    fn names_and_keys_are_pinned_once_each() {
        let (_folder, ring) = ring();
        let key = |byte| SigningKey::from_seed(&[byte; 32]).public();
        assert!(ring.pinned().unwrap().is_empty());
        ring.pin("b@home", key(2)).unwrap();
        ring.pin("a", key(1)).unwrap();
        ring.pin("a", key(1)).unwrap();
        assert_eq!(ring.pin("a", key(3)).unwrap_err().kind, ProblemKind::Conflict);
        assert_eq!(ring.pin("c", key(1)).unwrap_err().kind, ProblemKind::Conflict);
        for name in ["", "a b", "x\n", &"y".repeat(65)] {
            assert_eq!(ring.pin(name, key(4)).unwrap_err().kind, ProblemKind::Usage);
        }
        let names: Vec<String> = ring.pinned().unwrap().into_iter().map(|pinned| pinned.name).collect();
        assert_eq!(names, ["a", "b@home"]);
        ring.unpin("a").unwrap();
        assert!(ring.unpin("a").is_err());
        assert_eq!(ring.pinned().unwrap(), [Pinned { name: "b@home".into(), key: key(2) }]);
        for text in ["[[pinned]", "[[pinned]]\nname = \"x\"\nkey = \"ed25519:00\"", "[[keys]]"] {
            std::fs::write(ring.pinned_path(), text).unwrap();
            assert_eq!(ring.pinned().unwrap_err().exit_code(), 2, "{text}");
            assert!(ring.pin("c", key(5)).is_err(), "{text}");
        }
    }
}
