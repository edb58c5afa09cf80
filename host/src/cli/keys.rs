//! `assayd keys`: the local signing key, and the public keys of people whose bundles are trusted.

use std::path::PathBuf;

use clap::Subcommand;
use comfy_table::{Table, presets};
use serde_json::json;

use super::screen;
use crate::assay::bundle::Trust;
use crate::digest::{PublicKey, SigningKey};
use crate::domain::Problem;
use crate::store::keyring::{Keyring, read_signing_key};

/// Makes and shows the key that signs bundles here, and pins other people's public keys
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  assayd keys new                           make the local key; `verify --bundle` signs with it from then on
  assayd keys show                          the public key, to give to others
  assayd keys pin alice ed25519:8a88e3dd…   trust bundles that alice signed
  assayd keys list

Exit codes: 0 done, 2 a key that is there already or cannot be used, 4 the machine refused.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    folder: KeysArg,
}

/// Where the keys are.
#[derive(Debug, Clone, clap::Args)]
pub struct KeysArg {
    /// Folder of the keys [default: $XDG_CONFIG_HOME/assayd/keys]
    #[arg(long = "keys", value_name = "DIR", env = "ASSAYD_KEYS", global = true)]
    folder: Option<PathBuf>,
}

impl KeysArg {
    pub fn ring(&self) -> Keyring {
        self.folder.as_ref().map_or_else(|| Keyring::of_user(|name| std::env::var_os(name)), Keyring::at)
    }

    /// The keys as a verification looks at them.
    ///
    /// # Errors
    /// Usage: a file of keys is there and cannot be used.
    pub fn trust(&self) -> Result<Trust, Problem> {
        let ring = self.ring();
        let own = ring.own()?.map(|key| key.public());
        Ok(Trust { pinned: ring.pinned()?, own, ..Trust::default() })
    }
}

/// With which key a bundle is signed.
#[derive(Debug, Clone, clap::Args)]
pub struct SigningArgs {
    /// Sign the bundle with this private key [default: the local one, if `assayd keys new` made one]
    #[arg(long, value_name = "FILE", requires = "bundle", conflicts_with = "unsigned")]
    signing_key: Option<PathBuf>,
    /// Do not sign the bundle
    #[arg(long, requires = "bundle")]
    unsigned: bool,
    #[command(flatten)]
    keys: KeysArg,
}

impl SigningArgs {
    /// # Errors
    /// Usage: the key cannot be used. It is never left out silently.
    pub fn signer(&self) -> Result<Option<SigningKey>, Problem> {
        match &self.signing_key {
            Some(file) => read_signing_key(file).map(Some),
            None if self.unsigned => Ok(None),
            None => self.keys.ring().own(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the local key; refuses if there is one
    New,
    /// Prints the public half of the local key
    Show {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Trusts bundles that are signed by a key
    Pin {
        /// What to call it here
        name: String,
        /// The public key, `ed25519:` and 64 hexadecimal digits
        key: String,
    },
    /// Takes that trust back
    Unpin { name: String },
    /// Lists the local key and the pinned ones
    List {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// A key that is there already, cannot be used, or cannot be written.
pub fn run(args: &Args) -> Result<u8, Problem> {
    let ring = args.folder.ring();
    match &args.command {
        Command::New => {
            let public = ring.create()?;
            let place = ring.secret_path();
            screen::print(&format!(
                "{public}\nThe private key is in {}, for you alone. Others pin the line above:\n  \
                 assayd keys pin NAME {public}\n",
                screen::shown_path(&place)
            ))?;
        }
        Command::Show { json } => {
            let public = ring.own()?.map(|key| key.public()).ok_or_else(|| {
                Problem::usage(format!("there is no signing key at {}", ring.secret_path().display()))
                    .hint("make one with: assayd keys new")
            })?;
            if *json {
                screen::print_json(&json!({"key": public, "file": ring.secret_path()}))?;
            } else {
                screen::print(&format!("{public}\n"))?;
            }
        }
        Command::Pin { name, key } => {
            let key: PublicKey = key.parse().map_err(|error| {
                Problem::usage(format!("{key:?} is {error}"))
                    .hint("the signer prints it with: assayd keys show")
            })?;
            ring.pin(name, key)?;
            screen::print(&format!(
                "pinned in {}: {name} is {key}\n",
                screen::shown_path(&ring.pinned_path())
            ))?;
        }
        Command::Unpin { name } => {
            ring.unpin(name)?;
            screen::print(&format!("{name} is not pinned any more\n"))?;
        }
        Command::List { json } => list(&ring, *json)?,
    }
    Ok(0)
}

fn list(ring: &Keyring, json: bool) -> Result<(), Problem> {
    let (own, pinned) = (ring.own()?.map(|key| key.public()), ring.pinned()?);
    if json {
        return screen::print_json(&json!({"own": own, "pinned": pinned}));
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["name", "public key"]);
    let own = own.map_or_else(|| "none; make one with: assayd keys new".to_owned(), |key| key.to_string());
    table.add_row(["(your own)".to_owned(), own]);
    for pinned in pinned {
        table.add_row([screen::shown(&pinned.name), pinned.key.to_string()]);
    }
    screen::print(&format!("{table}\n"))
}
