//! The rules of the house, kept by reading the sources: which room may use which, where
//! each outside library lives, how long a file may be, what every folder must have.
//!
//! The order of the floors is read from `src/lib.rs`, so there is one list of them. Every
//! rule is a function from a path and a source to complaints, and is itself tested on a
//! planted violation. Not checked: circles between the files of one room.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use source::{Kind, paths, tokens};

#[path = "tidy/source.rs"]
mod source;

/// Lines of a file, its tests not counted, above which it must be split...
const LINES_MAX: usize = 600;
/// ...and above which it is mentioned.
const LINES_AIM: usize = 500;

/// Outside libraries and the folders or files of `host/src` that may name them.
const HOMES: &[(&[&str], &[&str])] = &[
    (&["wasmtime", "wit_component", "wit_parser", "wasmparser"], &["plugin/"]),
    (&["axum", "hyper", "hyper_util", "tower", "tower_service", "tower_http"], &["api/"]),
    (&["notify", "notify_debouncer_full"], &["watch/"]),
    (&["sysinfo"], &["governor/"]),
    (&["llama_cpp_2", "llama_cpp_sys_2"], &["engine/llama/"]),
    (&["candle_core", "candle_nn", "candle_transformers", "tokenizers"], &["engine/candle/"]),
    (&["sqlx"], &["store/"]),
    (&["landlock"], &["worker/", "governor/"]),
    (&["seccompiler", "libc", "minijinja", "minijinja_contrib"], &["worker/"]),
    (&["sha2", "sha1", "crc32fast", "md5", "blake3", "tlsh2", "xxhash_rust", "ed25519_dalek"], &["digest/"]),
    (&["hmac"], &["challenge/", "assay/"]),
    (&["p256", "p384", "sigstore_verify"], &["model/signature/"]),
    (&["ureq", "rustls"], &["engine/remote/", "cli/"]),
    (&["clap", "clap_complete", "indicatif", "comfy_table"], &["cli/"]),
];

/// Paths that a floor promises to do without: no clock, no files, no network.
const ABSENT: &[(&str, &[&str])] = &[
    ("domain/", &["std::fs", "std::net", "std::process", "Instant::now", "SystemTime::now", "tokio"]),
    ("model/", &["std::net", "std::process", "Instant::now", "SystemTime::now", "tokio"]),
    ("plugin/", &["std::net", "tokio"]),
];

/// Where `/proc` may be read.
const PROC_HOME: &str = "governor/";
/// Where `unsafe` may stand.
const UNSAFE_HOME: &str = "host/src/engine/llama/ffi.rs";
/// ...and the folder of its children.
const UNSAFE_HOMES: &str = "host/src/engine/llama/ffi/";

/// What may lie at the top of the repository, dotfiles apart.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "host",
    "plugin-sdk",
    "plugins",
    "wit",
    "examples",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "Makefile",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "clippy.toml",
    "deny.toml",
];

// --- The rules -----------------------------------------------------------------------

/// Floors of the house from the top: the blocks of `pub mod` lines in `lib.rs`.
fn floors(lib: &str) -> Vec<Vec<String>> {
    let mut out: Vec<Vec<String>> = vec![Vec::new()];
    for line in lib.lines().map(str::trim) {
        let module = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "));
        match (module.and_then(|m| m.strip_suffix(';')), out.last_mut()) {
            (Some(module), Some(floor)) => floor.push(module.to_owned()),
            (None, Some(floor)) if line.is_empty() && !floor.is_empty() => out.push(Vec::new()),
            _ => {}
        }
    }
    out.retain(|floor| !floor.is_empty());
    out
}

fn level(floors: &[Vec<String>], room: &str) -> Option<usize> {
    floors.iter().position(|floor| floor.iter().any(|r| r == room))
}

/// The room of a file below `host/src`: its first folder, or its own name.
fn room(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// A room uses only rooms on floors below its own. `path` is relative to `host/src`.
fn upward(path: &str, source: &str, floors: &[Vec<String>]) -> Vec<String> {
    let own = room(path);
    let mut out = Vec::new();
    if ["lib", "main"].contains(&own) {
        return out;
    }
    let Some(own_level) = level(floors, own) else {
        return vec![format!("{path}: {own} is on no floor of lib.rs")];
    };
    for (line, name) in paths(source) {
        let mut words = name.split("::");
        let target = match words.next() {
            Some("crate") => words.next(),
            // The library's own name works inside it too, and is no way around the rule.
            Some("assayd") => words.next(),
            Some("super") => {
                // As many steps up as the file is deep end at the crate itself. Inside an
                // inline module one more step is needed; such a path is caught one level late
                // only if it names no room, which is harmless.
                let ups = 1 + words.clone().take_while(|w| *w == "super").count();
                let depth = path.matches('/').count() + usize::from(!path.ends_with("/mod.rs"));
                if ups >= depth { words.find(|w| *w != "super") } else { None }
            }
            _ => None,
        };
        let Some(target) = target.filter(|t| *t != own) else { continue };
        let Some(target_level) = level(floors, target) else { continue };
        if target_level <= own_level {
            let way = if target_level == own_level { "on the same floor" } else { "above" };
            out.push(format!("{path}:{line}: {own} uses {target}, which is {way} ({name})"));
        }
    }
    out
}

/// Each outside library has one home. `path` is relative to `host/src`.
fn homes(path: &str, source: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (line, name) in paths(source) {
        let first = name.split("::").next().unwrap_or(&name);
        // A lone word is a variable or a field, unless it is imported by itself.
        let imported = source.lines().nth(line - 1).is_some_and(|l| {
            let l = l.trim().trim_start_matches("pub ");
            l.starts_with(&format!("use {first};")) || l.starts_with(&format!("use {first} as "))
        });
        if !name.contains("::") && !imported {
            continue;
        }
        for (libraries, allowed) in HOMES {
            // Deriving ValueEnum on a type where it stands saves a copy of it in cli/.
            if name == "clap::ValueEnum" {
                continue;
            }
            if libraries.contains(&first) && !allowed.iter().any(|home| path.starts_with(home)) {
                out.push(format!("{path}:{line}: {first} belongs in {}", allowed.join(" or ")));
            }
        }
        for (floor, absent) in ABSENT {
            let hit = absent.iter().find(|a| {
                name == **a || name.starts_with(&format!("{a}::")) || name.ends_with(&format!("::{a}"))
            });
            if let Some(absent) = hit.filter(|_| path.starts_with(floor)) {
                out.push(format!("{path}:{line}: {floor} does without {absent}"));
            }
        }
    }
    for (line, kind) in tokens(source) {
        if matches!(&kind, Kind::Text(text) if text.starts_with("/proc")) && !path.starts_with(PROC_HOME) {
            out.push(format!("{path}:{line}: /proc is read in {PROC_HOME} only"));
        }
    }
    out
}

/// `unsafe` only at its home, `#[allow]` nowhere. `path` is relative to the repository.
fn words(path: &str, source: &str) -> Vec<String> {
    let mut out = Vec::new();
    let all = tokens(source);
    for (at, (line, kind)) in all.iter().enumerate() {
        let Kind::Word(word) = kind else { continue };
        let near = |step: usize| all.get(at + step).map(|(_, kind)| kind);
        // A named section runs no code; it is how a plugin carries its name.
        let section = near(2) == Some(&Kind::Word("link_section".to_owned()));
        if word == "unsafe" && path != UNSAFE_HOME && !path.starts_with(UNSAFE_HOMES) && !section {
            out.push(format!("{path}:{line}: unsafe belongs in {UNSAFE_HOME}"));
        }
        let before = at.checked_sub(1).and_then(|at| all.get(at)).map(|(_, kind)| kind);
        if word == "allow" && before == Some(&Kind::Sign('[')) {
            out.push(format!("{path}:{line}: write #[expect(..., reason)] instead of #[allow]"));
        }
    }
    out
}

/// Reminders belong in issues, not in the sources.
fn reminders(path: &str, text: &str) -> Vec<String> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let hit = |line: &str| marks.iter().any(|mark| line.contains(mark));
    let lines = text.lines().enumerate().filter(|(_, line)| hit(line));
    lines.map(|(at, line)| format!("{path}:{}: unfinished: {}", at + 1, line.trim())).collect()
}

/// Every file says at its top what it is for.
fn module_doc(path: &str, source: &str) -> Vec<String> {
    let first = source.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if first.is_some_and(|line| line.starts_with("//!")) {
        return Vec::new();
    }
    vec![format!("{path}: no module doc (//!) at the top")]
}

/// Lines of a source before its inline tests.
fn length(source: &str) -> usize {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    lines
        .windows(2)
        .position(|pair| matches!(pair, [a, b] if a.starts_with("#[cfg(test)]") && b.starts_with("mod ") && b.ends_with('{')))
        .unwrap_or(lines.len())
}

// --- The repository ------------------------------------------------------------------

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files of the repository: those git knows or would take; without git, all but build output.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    if let Ok(listed) = listed
        && listed.status.success()
    {
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        return text.lines().filter(|path| root().join(path).is_file()).map(str::to_owned).collect();
    }
    let mut out = Vec::new();
    collect(&root(), "", &mut out);
    out
}

fn collect(folder: &Path, prefix: &str, out: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "target" || name == ".git" {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{path}/"), out);
        } else {
            out.push(path);
        }
    }
}

/// Runs `rule` over the files that `wanted` takes, and fails with all complaints at once.
#[track_caller]
fn check(wanted: impl Fn(&str) -> bool, rule: impl Fn(&str, &str) -> Vec<String>) {
    let mut complaints = String::new();
    let mut seen = 0;
    for path in files().iter().filter(|path| wanted(path)) {
        let Ok(source) = fs::read_to_string(root().join(path)) else {
            let _ = writeln!(complaints, "{path}: cannot be read as text");
            continue;
        };
        seen += 1;
        for complaint in rule(path, &source) {
            let _ = writeln!(complaints, "{complaint}");
        }
    }
    assert!(seen > 0, "no file was looked at");
    assert!(complaints.is_empty(), "\n{complaints}");
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

fn is_host(path: &str) -> bool {
    path.starts_with("host/src/") && is_rust(path)
}

fn in_src(path: &str) -> &str {
    path.strip_prefix("host/src/").unwrap_or(path)
}

#[test]
fn rooms_use_only_floors_below() {
    let lib = fs::read_to_string(root().join("host/src/lib.rs")).unwrap();
    let floors = floors(&lib);
    assert!(floors.len() >= 8, "lib.rs lists the floors: {floors:?}");
    check(is_host, |path, source| upward(in_src(path), source, &floors));
}

#[test]
fn libraries_stay_at_home() {
    check(is_host, |path, source| homes(in_src(path), source));
}

#[test]
fn guests_do_not_know_the_host() {
    let guest = |path: &str| {
        path.ends_with("Cargo.toml") && (path.starts_with("plugin-sdk/") || path.starts_with("plugins/"))
    };
    check(guest, |path, text| {
        let lines = text.lines().filter(|line| line.split(['=', '.', ' ']).next() == Some("assayd"));
        lines.map(|line| format!("{path}: a guest must not depend on the host: {line}")).collect()
    });
}

#[test]
fn no_unsafe_no_allow() {
    check(is_rust, words);
}

#[test]
fn no_reminders() {
    check(
        |path| [".rs", ".toml", ".md", ".wit", ".html", "Makefile"].iter().any(|end| path.ends_with(end)),
        reminders,
    );
}

#[test]
fn files_say_what_they_are_for() {
    check(|path| is_rust(path) && !path.ends_with("tests.rs"), module_doc);
}

#[test]
fn files_stay_readable() {
    check(
        |path| is_rust(path) && !path.contains("tests"),
        |path, source| {
            let lines = length(source);
            if lines > LINES_AIM {
                println!("{path}: {lines} lines, aim at {LINES_AIM}");
            }
            if lines > LINES_MAX {
                vec![format!("{path}: {lines} lines, more than {LINES_MAX}")]
            } else {
                Vec::new()
            }
        },
    );
}

#[test]
fn the_top_level_is_fixed() {
    let tops: BTreeSet<String> =
        files().iter().filter_map(|path| path.split('/').next().map(str::to_owned)).collect();
    let strays: Vec<&String> =
        tops.iter().filter(|t| !t.starts_with('.') && !TOP.contains(&t.as_str())).collect();
    assert!(strays.is_empty(), "these have no place at the top level: {strays:?}");
    for needed in ["README.md", "LICENSE", "CHANGELOG.md", "Makefile", "deny.toml", "Cargo.lock"] {
        assert!(tops.contains(needed), "{needed} is missing");
    }
}

#[test]
fn every_plugin_has_a_readme() {
    let files: BTreeSet<String> = files().into_iter().collect();
    let plugins: BTreeSet<&str> = files
        .iter()
        .filter_map(|path| path.strip_prefix("plugins/")?.split_once('/'))
        .map(|(name, _)| name)
        .collect();
    assert!(!plugins.is_empty());
    let bare: Vec<&&str> =
        plugins.iter().filter(|name| !files.contains(&format!("plugins/{name}/README.md"))).collect();
    assert!(bare.is_empty(), "without a README: {bare:?}");
}

#[test]
fn the_changelog_names_every_plugin_interface() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(changelog.contains("## [Unreleased]"));
    assert!(changelog.contains("Plugin interface"));
    for entry in fs::read_dir(root().join("wit/deps")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let version =
            name.strip_prefix("plugin-").unwrap_or_else(|| panic!("wit/deps/{name}: not plugin-VERSION"));
        assert!(changelog.contains(&format!("assay:plugin@{version}")), "CHANGELOG does not name {version}");
    }
}

// --- The rules, on planted violations --------------------------------------------------

fn house() -> Vec<Vec<String>> {
    floors(
        "//! doc\n\n// Floors.\npub mod cli;\n\npub mod api;\n\npub mod plugin;\npub mod store;\n\npub mod domain;\n",
    )
}

#[test]
fn floors_are_blocks_of_modules() {
    let names: Vec<String> = house().iter().map(|floor| floor.join("+")).collect();
    assert_eq!(names, ["cli", "api", "plugin+store", "domain"]);
}

#[test]
fn planted_imports_are_found() {
    for (path, source, complaints) in [
        ("store/mod.rs", "use crate::domain::Problem;", 0),
        ("store/mod.rs", "use crate::store::row::Row; fn f() { super::domain::x() }", 0),
        ("store/mod.rs", "use crate::api::Server;", 1),
        ("store/mod.rs", "use crate::plugin::PluginSet;", 1),
        ("store/mod.rs", "use crate::{domain::{self, Sha256}, api, plugin::{A, B}};", 3),
        ("store/mod.rs", "fn f() -> crate::cli::Exit { todo() }", 1),
        ("store/mod.rs", "use super::api;", 1),
        ("store/rows/old.rs", "use super::super::super::api::X;", 1),
        ("store/rows.rs", "use super::api::X; // the room's own api", 0),
        ("store/mod.rs", "use assayd::api::X;", 1),
        (
            "store/mod.rs",
            "// use crate::api::X;\n/* crate::api /* nested */ crate::api */ const A: &str = \"crate::api::X\";",
            0,
        ),
        (
            "store/mod.rs",
            "const A: &str = r#\"a \" crate::api::X\"#; const B: char = '\"'; use crate::cli::X;",
            1,
        ),
        ("attic/mod.rs", "", 1),
        ("main.rs", "fn main() { assayd::cli::main() }", 0),
    ] {
        let found = upward(path, source, &house());
        assert_eq!(found.len(), complaints, "{path}: {source}: {found:?}");
    }
}

#[test]
fn planted_libraries_are_found() {
    for (path, source, complaints) in [
        ("plugin/mod.rs", "use wasmtime::Engine;", 0),
        ("store/mod.rs", "use wasmtime::Engine;", 1),
        ("store/mod.rs", "use {sqlx::Row, axum::Router};", 1),
        ("assay/mod.rs", "use hmac;", 0),
        ("api/mod.rs", "use sha2 as s;", 1),
        ("api/mod.rs", "let clap = 1; clap + self.notify", 0),
        ("engine/mod.rs", "fn f(x: llama_cpp_2::Model) {}", 1),
        ("engine/llama/mod.rs", "fn f(x: llama_cpp_2::Model) {}", 0),
        ("domain/modes.rs", "#[derive(clap::ValueEnum)] struct A;", 0),
        ("domain/modes.rs", "#[derive(clap::Args)] struct A;", 1),
        ("domain/modes.rs", "use std::fs::File; let t = std::time::Instant::now();", 2),
        ("worker/mod.rs", "let x = open(\"/proc/self/status\");", 1),
        ("governor/mod.rs", "let x = open(\"/proc/self/status\");", 0),
    ] {
        let found = homes(path, source);
        assert_eq!(found.len(), complaints, "{path}: {source}: {found:?}");
    }
}

/// The libraries that the rooms in the fuzz workspace name, asked for as the host asks for them:
/// nothing that builds every day would notice that a fuzzer no longer does.
#[test]
fn the_fuzz_workspace_has_the_libraries_of_its_rooms() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_default();
    let table = |path: &str| read(path).parse::<toml::Table>().unwrap_or_default();
    let (host, fuzz, all) = (table("host/Cargo.toml"), table("host/fuzz/Cargo.toml"), table("Cargo.toml"));
    let taken = |path: &str| {
        [
            "domain/",
            "digest/",
            "model/",
            "governor/cgroup.rs",
            "governor/memory.rs",
            "assay/bundle/container.rs",
            "worker/chat/render/",
        ]
        .iter()
        .any(|place| path.strip_prefix("host/src/").is_some_and(|path| path.starts_with(place)))
    };
    let words = files().into_iter().filter(|path| taken(path)).flat_map(|path| paths(&read(&path)));
    let named: BTreeSet<String> =
        words.filter_map(|(_, path)| path.split_once("::").map(|(first, _)| first.to_owned())).collect();
    let mut found = 0;
    for (library, wanted) in host.get("dependencies").and_then(toml::Value::as_table).into_iter().flatten() {
        if !named.contains(&library.replace('-', "_")) {
            continue;
        }
        let mut wanted = wanted.clone();
        if wanted.get("workspace").is_some() {
            let shared = all.get("workspace").and_then(|workspace| workspace.get("dependencies"));
            wanted = shared.and_then(|shared| shared.get(library)).cloned().unwrap_or(wanted);
        }
        let asked = fuzz.get("dependencies").and_then(|asked| asked.get(library));
        assert_eq!(asked, Some(&wanted), "{library} in host/fuzz/Cargo.toml");
        found += 1;
    }
    assert!(found > 10, "{named:?}");
}

#[test]
fn planted_words_are_found() {
    let block = concat!("un", "safe { f() }");
    assert_eq!(words("host/src/cli/mod.rs", block).len(), 1);
    assert_eq!(words(UNSAFE_HOME, block).len(), 0);
    let attribute = |name: &str| format!("#[{}({name})] fn f() {{}}", concat!("un", "safe"));
    assert_eq!(words("a.rs", &attribute("link_section = \"x\"")).len(), 0);
    assert_eq!(words("a.rs", &attribute("no_mangle")).len(), 1);
    assert_eq!(words("a.rs", concat!("#[al", "low(dead_code)] fn f() {}")).len(), 1);
    assert_eq!(words("a.rs", "fn allow(x: u8) {} // unsafe\nconst S: &str = \"unsafe\";").len(), 0);
    assert_eq!(
        reminders("a.rs", concat!("fine\n// TO", "DO later")),
        [concat!("a.rs:2: unfinished: // TO", "DO later")]
    );
    assert_eq!(module_doc("a.rs", "#![no_std]\n//! Fine.\n").len(), 0);
    assert_eq!(module_doc("a.rs", "fn main() {}\n").len(), 1);
    assert_eq!(length("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2);
    assert_eq!(length("a\n#[cfg(test)]\nmod tests;\nb"), 4);
}
