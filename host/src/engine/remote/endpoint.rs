//! Which endpoint, which model of it, and the key for it.
//!
//! Invariants: a key is never printed and never leaves but to the endpoint; the name is looked
//! up before the worker is shut in, which may then talk to that one address and port.

use std::fmt;
use std::io::Read as _;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::domain::{Problem, ProblemKind, budget};

/// Names of the environment variables that hold the key, or the path of a file with it.
const KEY: &str = "ASSAYD_REMOTE_KEY";
const KEY_FILE: &str = "ASSAYD_REMOTE_KEY_FILE";

/// A secret; `Debug` withholds it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(withheld)")
    }
}

impl Secret {
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

/// An OpenAI-compatible endpoint and a model that it serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// `host:port`, as the user wrote it.
    pub(super) host: String,
    /// Path of the API, such as `/v1`; no slash at its end.
    pub(super) path: String,
    pub(super) model: String,
    pub(super) address: SocketAddr,
    pub(super) key: Option<Secret>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}#{}", self.host, self.path, self.model)
    }
}

/// Whether a candidate is named by an address and not by a path.
pub fn is_url(name: &Path) -> bool {
    let name = name.to_string_lossy();
    ["http://", "https://"]
        .iter()
        .any(|scheme| name.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme)))
}

impl Endpoint {
    /// The endpoint that `http://HOST[:PORT]/PATH#MODEL` names, with the key of the environment.
    ///
    /// # Errors
    /// Usage: not such an address, or https. Machine: the host has no address. The key's file
    /// cannot be read.
    pub fn find(name: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problem> {
        let form = "name it as http://HOST:PORT/v1#MODEL";
        let text = name.to_str().ok_or_else(|| Problem::usage("an address must be UTF-8").hint(form))?;
        let (host, path, model) =
            parts(text).map_err(|why| Problem::usage(format!("{text}: {why}")).hint(form))?;
        let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host.clone()
        } else {
            format!("{host}:80")
        };
        let found = with_port.to_socket_addrs().map_err(|error| error.to_string());
        let address = found.and_then(|mut all| all.next().ok_or_else(|| "it has no address".to_owned()));
        let address = address.map_err(|why| {
            Problem::machine(format!("{host}: {why}")).hint("check the name, and that the network is up")
        })?;
        Ok(Self { host, path, model, address, key: key(env)? })
    }

    /// Where a worker for it may connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Host, path and model of an address.
fn parts(text: &str) -> Result<(String, String, String), &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("not an address")?;
    if scheme.eq_ignore_ascii_case("https") {
        return Err(
            "this build has no TLS; put a proxy on this machine in front of it that speaks http, such as ssh -L or stunnel",
        );
    }
    let (place, model) = rest.split_once('#').ok_or("it names no model")?;
    let (host, path) =
        place.split_once('/').map_or((place, String::new()), |(host, path)| (host, format!("/{path}")));
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
    if host.is_empty() || !plain(host) || !plain(&path) || path.contains('?') {
        return Err("not a plain host and path");
    }
    if host.contains('@') {
        return Err("a key or password in an address would end up in reports; put it into ASSAYD_REMOTE_KEY");
    }
    if model.is_empty() || model.chars().any(char::is_control) {
        return Err("it names no model");
    }
    Ok((host.to_owned(), path.trim_end_matches('/').to_owned(), model.to_owned()))
}

/// The key of the environment, or of the file that it names.
fn key(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Secret>, Problem> {
    let text = match (env(KEY), env(KEY_FILE)) {
        (Some(_), Some(_)) => {
            return Err(Problem::usage(format!("both {KEY} and {KEY_FILE} are set; unset one")));
        }
        (Some(key), None) => key,
        (None, Some(path)) => {
            let path = Path::new(&path);
            let mut text = String::new();
            let read = std::fs::File::open(path)
                .and_then(|file| file.take(budget::API_KEY_BYTES).read_to_string(&mut text));
            read.map_err(|error| Problem {
                kind: ProblemKind::Usage,
                ..Problem::io("read the endpoint's key", path, &error)
            })?;
            text
        }
        (None, None) => return Ok(None),
    };
    let key = text.trim();
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Problem::usage(format!("{KEY} or the file of {KEY_FILE} is no line of printable ASCII")));
    }
    Ok(Some(Secret(key.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn addresses_are_understood_or_refused_with_a_remedy() {
        let found = Endpoint::find(Path::new("http://127.0.0.1:8000/v1/#a/b:c"), &none).unwrap();
        assert_eq!(found.to_string(), "http://127.0.0.1:8000/v1#a/b:c");
        assert_eq!((found.address().to_string(), found.path.as_str()), ("127.0.0.1:8000".to_owned(), "/v1"));
        assert_eq!(Endpoint::find(Path::new("http://127.0.0.1#m"), &none).unwrap().address().port(), 80);
        for (name, part) in [
            ("https://127.0.0.1/v1#m", "no TLS"),
            ("http://127.0.0.1/v1", "names no model"),
            ("http://127.0.0.1/v1#", "names no model"),
            ("http://key@127.0.0.1/v1#m", "would end up in reports"),
            ("http:///v1#m", "plain host"),
            ("http://127.0.0.1/v1?a=b#m", "plain host"),
        ] {
            let problem = Endpoint::find(Path::new(name), &none).unwrap_err();
            assert!(problem.message.contains(part) && problem.exit_code() == 2, "{name}: {problem}");
            assert!(problem.hint.is_some());
        }
        assert!(
            is_url(Path::new("HTTP://x"))
                && is_url(Path::new("https://x"))
                && !is_url(Path::new("/http://x"))
        );
    }

    #[test]
    fn a_key_comes_from_the_environment_or_a_file_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "from-the-file\n").unwrap();
        let path = file.to_str().unwrap().to_owned();
        let url = Path::new("http://127.0.0.1:1/v1#m");
        let in_file = |name: &str| (name == KEY_FILE).then(|| path.clone());
        let found = Endpoint::find(url, &in_file).unwrap();
        assert_eq!(found.key.as_ref().unwrap().reveal(), "from-the-file");
        assert!(!format!("{found:?} {found}").contains("from-the-file"));
        assert!(Endpoint::find(url, &|_| Some("x".to_owned())).is_err(), "both");
        assert!(Endpoint::find(url, &|name| (name == KEY).then(|| "a b".to_owned())).is_err());
        let missing = |name: &str| (name == KEY_FILE).then(|| "/none/of/it".to_owned());
        assert_eq!(Endpoint::find(url, &missing).unwrap_err().exit_code(), 2);
    }
}
