//! The shape of the configuration file and of a sidecar, exactly as written.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::domain::modes::ModeName;
use crate::domain::size::ByteSize;
use crate::governor::Enforcement;
use crate::governor::admission::Guardrail;

/// Configuration of `assayd serve`. Every key is optional. Relative paths are relative to
/// the folder of this file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "assayd configuration")]
pub struct ConfigFile {
    /// Folders to watch. Default: `./models` if it exists, else `$XDG_DATA_HOME/assayd/models`.
    pub models: Option<Vec<PathBuf>>,
    /// Address and port to listen on. A non-loopback address needs `api_key_file`.
    /// Default: `127.0.0.1:7478`.
    #[schemars(with = "Option<String>")]
    pub listen: Option<Listen>,
    /// Folder for results. Default: `$XDG_STATE_HOME/assayd`.
    pub state: Option<PathBuf>,
    /// Seconds for which the size and time of a file must stay the same before it is taken.
    /// Default: 2.0.
    #[schemars(with = "Option<f64>", range(min = 0.1, max = 3600.0))]
    pub settle_seconds: Option<SettleSeconds>,
    /// Seconds between two looks at the folders when the system reports no change.
    /// Default: 60.
    #[schemars(with = "Option<f64>", range(min = 1.0, max = 86400.0))]
    pub rescan_seconds: Option<RescanSeconds>,
    /// Mode of the assays that are started without being asked for. Default: `audit`.
    #[schemars(with = "Option<ModeText>")]
    pub mode: Option<ModeName>,
    /// Whether a model that no rule and no sidecar compares with a reference is run and
    /// measured, and not only inspected. Default: true.
    pub measure: Option<bool>,
    /// Threads of a worker. Default: the cores that this process may use.
    #[schemars(with = "Option<u32>", range(min = 1, max = 1024))]
    pub threads: Option<Threads>,
    /// Layers of judged models on an accelerator, -1 for all. Default: 0.
    #[schemars(with = "Option<i32>", range(min = -1, max = 10000))]
    pub gpu_layers: Option<GpuLayers>,
    /// Memory that a worker may take, such as `"8GiB"`. Default: what is free.
    #[schemars(with = "Option<SizeText>")]
    pub max_memory: Option<ByteSize>,
    /// Memory that must stay free on the machine, such as `"2GiB"`. Default: 256 MiB.
    #[schemars(with = "Option<SizeText>")]
    pub min_free: Option<ByteSize>,
    /// How careful to be with the memory estimate of a model. Default: `balanced`.
    pub guardrail: Option<Guardrail>,
    /// How workers are held to their memory limit; a rung that is named must be there.
    /// Default: `auto`, everything that the machine has.
    pub enforcement: Option<Enforcement>,
    /// Disk space for the bundles of judged assays, such as `"10GiB"`: the oldest go first, and 0
    /// keeps none. Default: 2GiB.
    #[schemars(with = "Option<SizeText>")]
    pub bundles: Option<ByteSize>,
    /// Folder of plugins that add to the built-in ones or override them.
    pub plugins: Option<PathBuf>,
    /// File that holds the API key, one line of at least 16 characters.
    pub api_key_file: Option<PathBuf>,
    /// What hash checks hold every candidate to: their parameters, by plugin id. Rules, sidecars
    /// and requests may add checks that are not named here, and change none that are.
    #[serde(default)]
    pub hash_checks: BTreeMap<String, Value>,
    /// Which reference an artifact is compared with; the first rule that matches counts.
    #[serde(default, rename = "rule")]
    pub rules: Vec<RuleEntry>,
}

/// A rule: artifacts that match are compared with the reference.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleEntry {
    /// Glob over the artifact's name, or, if it contains a `/`, over its path relative to the
    /// watched folder (or its whole path, if it starts with one).
    #[serde(rename = "match")]
    #[schemars(with = "String")]
    pub pattern: Pattern,
    /// The trusted model.
    pub reference: PathBuf,
    /// Mode for these artifacts, instead of the general one.
    #[schemars(with = "Option<ModeText>")]
    pub mode: Option<ModeName>,
    /// What further hash checks hold these artifacts to.
    #[serde(default)]
    pub hash_checks: BTreeMap<String, Value>,
}

/// `NAME.assay.toml` beside an artifact `NAME`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// The trusted model, relative to the sidecar's folder.
    pub reference: PathBuf,
    #[schemars(with = "Option<ModeText>")]
    pub mode: Option<ModeName>,
    /// What further hash checks hold this artifact to.
    #[serde(default)]
    pub hash_checks: BTreeMap<String, Value>,
}

/// Mode names, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
enum ModeText {
    Quick,
    Audit,
    Extended,
}

/// A size, for the schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum SizeText {
    Bytes(u64),
    Text(String),
}

/// `ADDRESS:PORT`, or `localhost:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Listen(pub SocketAddr);

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        local
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .or_else(|| text.parse().ok())
            .map(Self)
            .ok_or_else(|| {
                format!("`{text}` is not an address with a port, such as 127.0.0.1:7478 or [::1]:7478")
            })
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A glob that compiles.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(pub globset::Glob);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        globset::GlobBuilder::new(&text)
            .literal_separator(true)
            .build()
            .map(Self)
            .map_err(|error| format!("`{text}` is not a glob: {}", error.kind()))
    }
}

macro_rules! bounded {
    ($name:ident, $number:ty, $range:expr) => {
        #[doc = concat!("A number within ", stringify!($range), ".")]
        #[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
        #[serde(try_from = "f64")]
        pub struct $name(pub $number);

        impl TryFrom<f64> for $name {
            type Error = String;

            fn try_from(value: f64) -> Result<Self, String> {
                let number = value as $number;
                // The second test refuses 1.5 threads; for fractions it always holds.
                if ($range).contains(&number) && f64::from(number) == value {
                    return Ok(Self(number));
                }
                Err(format!(
                    "{value} is outside {} to {} or no whole number where one is wanted",
                    ($range).start(),
                    ($range).end()
                ))
            }
        }
    };
}

bounded!(SettleSeconds, f64, 0.1..=3600.0);
bounded!(RescanSeconds, f64, 1.0..=86400.0);
bounded!(Threads, u32, 1..=1024);
bounded!(GpuLayers, i32, -1..=10000);

/// The published JSON schema of the configuration file.
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&schemars::schema_for!(ConfigFile)).unwrap_or_default();
    text.push('\n');
    text
}
