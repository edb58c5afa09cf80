//! Which endpoint, which model of it, the key for it, and who may vouch for it.
//!
//! Invariants: a key is never printed and never leaves but to the endpoint; the name is looked
//! up before the worker is shut in, which may then talk to that one address and port.

use std::fmt;
use std::io::Read as _;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use ureq::tls::{Certificate, PemItem, parse_pem};

use crate::domain::{Problem, ProblemKind, budget};

/// Names of the environment variables that hold the key, or the path of a file with it.
const KEY: &str = "ASSAYD_REMOTE_KEY";
const KEY_FILE: &str = "ASSAYD_REMOTE_KEY_FILE";
/// And the path of a PEM file of the authorities to trust instead of the public ones.
const CA_FILE: &str = "ASSAYD_REMOTE_CA_FILE";

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
    /// Whether it is spoken to over TLS.
    pub(super) tls: bool,
    /// `host:port`, as the user wrote it.
    pub(super) host: String,
    /// Path of the API, such as `/v1`; no slash at its end.
    pub(super) path: String,
    pub(super) model: String,
    pub(super) address: SocketAddr,
    pub(super) key: Option<Secret>,
    /// Certificates in PEM of the authorities that may vouch for it; `None` for the public ones.
    pub(super) authorities: Option<String>,
}

impl Endpoint {
    /// Scheme and host, without a path.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.host)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}#{}", self.origin(), self.path, self.model)
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
    /// The endpoint that `http[s]://HOST[:PORT]/PATH#MODEL` names, with the key and the authorities
    /// of the environment.
    ///
    /// # Errors
    /// Usage: not such an address; the file of the key or of the authorities cannot be read or
    /// used. Machine: the host has no address.
    pub fn find(name: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problem> {
        let form = "name it as https://HOST/v1#MODEL or http://HOST:PORT/v1#MODEL";
        let text = name.to_str().ok_or_else(|| Problem::usage("an address must be UTF-8").hint(form))?;
        let (tls, host, path, model) =
            parts(text).map_err(|why| Problem::usage(format!("{text}: {why}")).hint(form))?;
        let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host.clone()
        } else {
            format!("{host}:{}", if tls { 443 } else { 80 })
        };
        let found = with_port.to_socket_addrs().map_err(|error| error.to_string());
        let address = found.and_then(|mut all| all.next().ok_or_else(|| "it has no address".to_owned()));
        let address = address.map_err(|why| {
            Problem::machine(format!("{host}: {why}")).hint("check the name, and that the network is up")
        })?;
        let (key, authorities) = (key(env)?, authorities(env)?);
        if key.is_some() && !tls && !address.ip().is_loopback() {
            tracing::warn!("the key goes to {host} unencrypted; name the endpoint by https if it speaks it");
        }
        Ok(Self { tls, host, path, model, address, key, authorities })
    }

    /// Where a worker for it may connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Whether it is https, and host, path and model of an address.
fn parts(text: &str) -> Result<(bool, String, String, String), &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("not an address")?;
    let tls = scheme.eq_ignore_ascii_case("https");
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
    Ok((tls, host.to_owned(), path.trim_end_matches('/').to_owned(), model.to_owned()))
}

/// The key of the environment, or of the file that it names.
fn key(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Secret>, Problem> {
    let text = match (env(KEY), env(KEY_FILE)) {
        (Some(_), Some(_)) => {
            return Err(Problem::usage(format!("both {KEY} and {KEY_FILE} are set; unset one")));
        }
        (Some(key), None) => key,
        (None, Some(path)) => small_file("read the endpoint's key", &path, budget::API_KEY_BYTES)?,
        (None, None) => return Ok(None),
    };
    let key = text.trim();
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Problem::usage(format!("{KEY} or the file of {KEY_FILE} is no line of printable ASCII")));
    }
    Ok(Some(Secret(key.to_owned())))
}

/// The certificates in the file that the environment names.
fn authorities(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, Problem> {
    let Some(path) = env(CA_FILE) else { return Ok(None) };
    let text =
        small_file("read the authorities that may vouch for the endpoint", &path, budget::CA_FILE_BYTES)?;
    match certificates(&text) {
        Ok(list) if !list.is_empty() => Ok(Some(text)),
        Ok(_) => Err("there is no certificate in it".to_owned()),
        Err(why) => Err(why),
    }
    .map_err(|why| {
        Problem::usage(format!("{CA_FILE}: {path}: {why}")).hint("it must hold certificates in PEM")
    })
}

/// The certificates in a PEM text, in order; what else is in it does not count.
pub(super) fn certificates(text: &str) -> Result<Vec<Certificate<'static>>, String> {
    let found = parse_pem(text.as_bytes()).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(error.to_string())),
    });
    found.collect()
}

fn small_file(what: &str, path: &str, most: u64) -> Result<String, Problem> {
    let path = Path::new(path);
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Problem { kind: ProblemKind::Usage, ..Problem::io(what, path, &error) }),
    }
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
        let over_tls = Endpoint::find(Path::new("HTTPS://127.0.0.1/v1#m"), &none).unwrap();
        assert_eq!(
            (over_tls.address().port(), over_tls.to_string().as_str()),
            (443, "https://127.0.0.1/v1#m")
        );
        for (name, part) in [
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
        for file in [KEY_FILE, CA_FILE] {
            let missing = |name: &str| (name == file).then(|| "/none/of/it".to_owned());
            assert_eq!(Endpoint::find(url, &missing).unwrap_err().exit_code(), 2, "{file}");
        }
        for broken in ["", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&file, broken).unwrap();
            let problem = Endpoint::find(url, &|name| (name == CA_FILE).then(|| path.clone())).unwrap_err();
            assert!(problem.exit_code() == 2 && problem.message.contains(&path), "{problem}");
        }
    }
}
