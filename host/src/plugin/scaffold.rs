//! The files of a new plugin: a working one of the kind, with tests, evidence to try it on,
//! and the SDK that this binary serves, so that nothing else has to be fetched to build it
//! but crates.

use std::borrow::Cow;

use super::load::{PluginKind, is_id};
use crate::domain::Problem;

mod sdk {
    //! The sources of `plugin-sdk/` and of the interfaces, from the build script.
    include!(concat!(env!("OUT_DIR"), "/sdk.rs"));
}

/// What becomes `src/lib.rs` and `examples/evidence.json`.
fn parts(kind: PluginKind) -> (&'static str, &'static str, &'static str) {
    match kind {
        PluginKind::Scorer => (
            include_str!("template/scorer.rs.txt"),
            include_str!("template/scorer.json"),
            "Share of scored positions at which the two models prefer different tokens",
        ),
        PluginKind::Decider => (
            include_str!("template/decider.rs.txt"),
            include_str!("template/decider.json"),
            "Two betting e-processes with a fixed bet, valid at every stopping time",
        ),
        PluginKind::HashCheck => (
            include_str!("template/hash-check.rs.txt"),
            include_str!("template/hash-check.json"),
            "Compares the first file with a SHA-256 given as a parameter",
        ),
        PluginKind::Report => (
            include_str!("template/report.rs.txt"),
            include_str!("template/report.json"),
            "The verdict in one line of text",
        ),
    }
}

/// Relative paths and texts of a new plugin called `name`.
///
/// # Errors
/// The name is no id of a plugin, or no name of a crate.
pub fn scaffold(kind: PluginKind, name: &str) -> Result<Vec<(String, Cow<'static, str>)>, Problem> {
    if !is_id(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.ends_with('-') {
        return Err(Problem::usage(format!("{name:?} cannot be the name of a plugin"))
            .hint("use lower-case letters, digits and dashes, a letter first"));
    }
    if ["test", "core", "std", "alloc", "serde", "sdk"].contains(&name) || name.starts_with("assayd-") {
        return Err(Problem::usage(format!("{name:?} is the name of something else")).hint("choose another"));
    }
    let (source, evidence, summary) = parts(kind);
    let fill = |text: &str| {
        let text = text.replace("SDK_VERSION", env!("CARGO_PKG_VERSION")).replace("NAME", name);
        let text = text.replace("SUMMARY", summary).replace("KIND", kind.as_str());
        Cow::Owned(text.replace("CRATE", &name.replace('-', "_")))
    };
    let mut files = vec![
        ("Cargo.toml".to_owned(), fill(include_str!("template/Cargo.toml.txt"))),
        ("README.md".to_owned(), fill(include_str!("template/README.md.txt"))),
        (".gitignore".to_owned(), Cow::Borrowed("/target\n")),
        ("src/lib.rs".to_owned(), fill(source)),
        ("examples/evidence.json".to_owned(), Cow::Borrowed(evidence)),
    ];
    files.extend(sdk::SDK.iter().map(|(path, text)| (format!("sdk/{path}"), Cow::Borrowed(*text))));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_files_and_no_gap_is_left_open() {
        for kind in PluginKind::ALL {
            let files = scaffold(kind, "my-own").unwrap();
            let text = |path: &str| &files.iter().find(|(name, _)| name == path).unwrap().1;
            assert!(
                text("src/lib.rs").contains("(\"my-own\"") || text("src/lib.rs").contains("\"my-own\",\n")
            );
            assert!(text("sdk/plugin-sdk/src/lib.rs").contains("export_scorer"));
            assert!(text("sdk/wit/deps/plugin-0.1.0/worlds.wit").contains("world"));
            for (path, text) in files.iter().filter(|(path, _)| !path.starts_with("sdk/")) {
                for gap in ["NAME", "SUMMARY", "KIND", "CRATE", "SDK_VERSION"] {
                    assert!(!text.contains(gap), "{path} still says {gap}");
                }
            }
        }
    }

    /// Checkouts may share a target folder, and the one that filled it may be gone.
    #[test]
    fn the_table_of_sources_names_no_checkout() {
        let table = include_str!(concat!(env!("OUT_DIR"), "/sdk.rs"));
        let checkout = env!("CARGO_MANIFEST_DIR").trim_end_matches("host");
        assert!(table.contains("lib.rs") && !table.contains(checkout), "{checkout}");
    }

    #[test]
    fn names_that_no_plugin_can_have_are_refused() {
        for name in ["", "My", "a b", "../a", "a/b", "1a", "-a", "a-", "std", "assayd-x", "ä"] {
            assert!(scaffold(PluginKind::Scorer, name).is_err(), "{name}");
        }
    }
}
