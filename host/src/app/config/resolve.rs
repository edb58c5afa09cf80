//! File, command line and defaults to a usable [`Config`].

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{ConfigFile, Listen};
use super::{ApiKey, Config, Rules, text};
use crate::domain::{Problem, ProblemKind, budget};

/// What the command line says; it wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub config: Option<PathBuf>,
    pub models: Vec<PathBuf>,
    pub listen: Option<String>,
    pub state: Option<PathBuf>,
}

/// Looks up an environment variable; handed in so that tests need no environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

const PORT: u16 = 7478;

/// Reads the configuration file (named, or `$XDG_CONFIG_HOME/assayd/config.toml` if it
/// exists), lays the command line over it, and fills in what neither says.
///
/// Errors: an unreadable or broken file, a named folder that does not exist, an address
/// that may not be listened on without a key.
pub fn load(overrides: &Overrides, env: Env<'_>) -> Result<Config, Problem> {
    let (file, path) = match &overrides.config {
        Some(path) => (text::read::<ConfigFile>(path)?, Some(path.clone())),
        None => match xdg(env, "XDG_CONFIG_HOME", ".config").map(|dir| dir.join("assayd/config.toml")) {
            Some(path) if path.exists() => (text::read(&path)?, Some(path)),
            _ => (ConfigFile::default(), None),
        },
    };
    let base = match &path {
        // Absolute first: a plain file name has no parent to speak of.
        Some(path) => absolute(path)?.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned),
        None => absolute(Path::new("."))?,
    };
    if file.rules.len() > budget::CONFIG_RULES {
        return Err(Problem::usage(format!("more than {} rules", budget::CONFIG_RULES)));
    }
    let models = models(overrides, &file, &base, env)?;
    let listen = match &overrides.listen {
        Some(text) => text.parse::<Listen>().map_err(|why| Problem::usage(format!("--listen: {why}")))?.0,
        None => file.listen.map_or(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)), |listen| listen.0),
    };
    let api_key = file.api_key_file.as_ref().map(|key| read_key(&base.join(key))).transpose()?;
    if !listen.ip().is_loopback() && api_key.is_none() {
        return Err(Problem::usage(format!(
            "listening on {listen}, which other machines can reach, needs an API key"
        ))
        .hint(
            "set api_key_file in the configuration to a file with a random line, for example from \
             `openssl rand -hex 32`, or listen on 127.0.0.1",
        ));
    }
    let state = match overrides.state.as_ref().map(|dir| absolute(dir)).transpose()? {
        Some(dir) => dir,
        None => match &file.state {
            Some(dir) => base.join(dir),
            None => xdg(env, "XDG_STATE_HOME", ".local/state")
                .map(|dir| dir.join("assayd"))
                .ok_or_else(|| no_home("a state folder", "--state DIR"))?,
        },
    };
    let plugins = file.plugins.as_ref().map(|dir| base.join(dir));
    if let Some(dir) = &plugins {
        must_be_folder(dir, "the plugin folder")?;
    }
    Ok(Config {
        file: path,
        models,
        listen,
        state,
        settle: Duration::from_secs_f64(file.settle_seconds.map_or(2.0, |seconds| seconds.0)),
        rescan: Duration::from_secs_f64(file.rescan_seconds.map_or(60.0, |seconds| seconds.0)),
        mode: file.mode.unwrap_or_default(),
        measure: file.measure.unwrap_or(true),
        threads: file.threads.map(|threads| threads.0),
        gpu_layers: file.gpu_layers.map(|layers| layers.0),
        max_memory: file.max_memory,
        min_free: file.min_free,
        guardrail: file.guardrail,
        enforcement: file.enforcement,
        bundles: file.bundles.map_or(budget::KEPT_BUNDLE_BYTES, |size| size.0),
        plugins,
        api_key,
        hash_checks: file.hash_checks,
        rules: Rules::new(file.rules, &base),
    })
}

fn models(
    overrides: &Overrides,
    file: &ConfigFile,
    base: &Path,
    env: Env<'_>,
) -> Result<Vec<PathBuf>, Problem> {
    let named: Vec<PathBuf> = if overrides.models.is_empty() {
        file.models.iter().flatten().map(|dir| base.join(dir)).collect()
    } else {
        overrides.models.iter().map(|dir| absolute(dir)).collect::<Result<_, _>>()?
    };
    if named.len() > budget::WATCHED_FOLDERS {
        return Err(Problem::usage(format!("more than {} folders to watch", budget::WATCHED_FOLDERS)));
    }
    // A named folder must be there: a mistyped one would be watched in vain for ever.
    let mut folders = Vec::new();
    for dir in named {
        must_be_folder(&dir, "the models folder")?;
        let dir = dir.canonicalize().map_err(|error| Problem::io("open the models folder", &dir, &error))?;
        if !folders.contains(&dir) {
            folders.push(dir);
        }
    }
    if !folders.is_empty() {
        return Ok(folders);
    }
    let here = Path::new("models");
    let dir = if here.is_dir() {
        absolute(here)?
    } else {
        let data = xdg(env, "XDG_DATA_HOME", ".local/share")
            .ok_or_else(|| no_home("a folder to watch", "--models DIR"))?;
        let dir = data.join("assayd/models");
        std::fs::create_dir_all(&dir).map_err(|error| {
            Problem::io("make the models folder", &dir, &error).hint("name another with --models DIR")
        })?;
        dir
    };
    let dir = dir.canonicalize().map_err(|error| Problem::io("open the models folder", &dir, &error))?;
    Ok(vec![dir])
}

fn must_be_folder(dir: &Path, what: &str) -> Result<(), Problem> {
    match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Problem::usage(format!("{what} {} is not a folder", dir.display()))),
        Err(error) => Err(Problem { kind: ProblemKind::Usage, ..Problem::io("open", dir, &error) }
            .hint(format!("make {what} first: mkdir -p {}", dir.display()))),
    }
}

fn read_key(path: &Path) -> Result<ApiKey, Problem> {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;
    let failed = |error: &std::io::Error| Problem {
        kind: ProblemKind::Usage,
        ..Problem::io("read the API key file", path, error)
    };
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let meta = file.metadata().map_err(|error| failed(&error))?;
    if meta.mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "other users can read the API key; chmod 600 it");
    }
    let mut text = String::new();
    file.take(budget::API_KEY_BYTES).read_to_string(&mut text).map_err(|error| failed(&error))?;
    let key = text.trim();
    if key.chars().count() < budget::API_KEY_MIN_CHARS || !key.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Problem::usage(format!(
            "{} must hold one line of at least {} printable ASCII characters without spaces",
            path.display(),
            budget::API_KEY_MIN_CHARS
        ))
        .hint("make one with: openssl rand -hex 32"));
    }
    Ok(ApiKey(key.to_owned()))
}

fn xdg(env: Env<'_>, variable: &str, under_home: &str) -> Option<PathBuf> {
    // The XDG specification says to pass over a relative path.
    let set = env(variable).map(PathBuf::from).filter(|dir| dir.is_absolute());
    set.or_else(|| {
        env("HOME").map(PathBuf::from).filter(|dir| dir.is_absolute()).map(|home| home.join(under_home))
    })
}

fn no_home(what: &str, option: &str) -> Problem {
    Problem::usage(format!("there is no home folder to put {what} in"))
        .hint(format!("name one with {option}"))
}

fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path).map_err(|error| Problem::io("find", path, &error))
}
