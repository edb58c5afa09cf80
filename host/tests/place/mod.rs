//! The program in a folder of its own, and the models that tests find.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// One of the models in the checkout.
pub fn example(name: &str) -> PathBuf {
    root().join("examples/models").join(name)
}

/// Something beside the checkout; says so, past the capture of the harness, where it is not.
pub fn beside(path: &str, test: &str) -> Option<PathBuf> {
    let path = root().join("../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    let notice = format!("SKIPPED {test}: {} is not there\n", path.display());
    std::io::stderr().write_all(notice.as_bytes()).unwrap();
    None
}

/// `program` with cache and keys in `folder`, and nothing to read.
pub fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("ASSAYD_CACHE", folder.join("cache")).env("ASSAYD_KEYS", folder.join("keys"));
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// Exit code, standard output and standard error.
pub fn assayd(arguments: &[&str], folder: &Path) -> (i32, String, String) {
    let output = command(env!("CARGO_BIN_EXE_assayd"), folder).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A folder that goes when the test ends.
pub struct Place(pub tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        command(env!("CARGO_BIN_EXE_assayd"), self.0.path()).args(arguments).output().unwrap()
    }

    /// Exit code and document of a command with `--json`.
    pub fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let (code, out, err) = assayd(arguments, self.0.path());
        let document = serde_json::from_str(&out);
        (code, document.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}\n{err}")))
    }

    /// Exit code and report of `verify --json`.
    pub fn verify(&self, candidate: &Path, reference: &Path, more: &[&str]) -> (i32, Value) {
        let (candidate, reference) = (candidate.to_str().unwrap(), reference.to_str().unwrap());
        self.json(&[&["verify", candidate, "--reference", reference, "--json"], more].concat())
    }
}
