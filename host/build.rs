//! Builds the first-party plugins into the binary, compiles the shim over the engine's
//! accounting of memory, and tells the linker where the inference libraries lie.
//!
//! A nested cargo compiles every crate under `plugins/` for wasm32-unknown-unknown in a
//! target folder of its own (sharing one would wait for ever on cargo's lock), each core
//! module is packed as a component, and `OUT_DIR/builtin.rs` embeds the bytes. The SDK's
//! sources are embedded too (`OUT_DIR/sdk.rs`), for `assayd plugin new`.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";

fn main() -> Result<(), Box<dyn Error>> {
    let host = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = host.parent().ok_or("the host crate lies in a workspace")?.to_owned();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Relative: where checkouts share a target folder, it is this one's plugins that count.
    for watched in ["plugins", "plugin-sdk", "wit", "Cargo.lock"] {
        println!("cargo:rerun-if-changed=../{watched}");
    }
    if env::var("CARGO_CFG_TARGET_OS")? == "linux" {
        // An installed binary has the inference libraries beside it or in lib/; one that was
        // just built, and the tests, find them where the engine's build left them.
        let engine = env::var("DEP_LLAMA_BACKENDS_DIR")?;
        let built = Path::new(&engine).with_file_name("lib");
        shim(&Path::new(&engine).with_file_name("include"));
        for place in ["$ORIGIN", "$ORIGIN/lib", &built.display().to_string()] {
            println!("cargo:rustc-link-arg=-Wl,-rpath,{place}");
        }
    }

    fs::write(out.join("sdk.rs"), sdk(&root)?)?;

    let names = plugin_names(&root.join("plugins"))?;
    let target_dir = out.join("plugins");
    build(&root, &names, &target_dir)?;

    let mut table = String::from("pub(crate) const BUILTIN: &[(&str, &[u8])] = &[\n");
    for name in &names {
        let module = target_dir.join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_")));
        let component = pack(&fs::read(&module)?).map_err(|error| format!("{name}: {error}"))?;
        let path = out.join(format!("{name}.wasm"));
        fs::write(&path, component)?;
        writeln!(table, "    ({name:?}, include_bytes!({path:?})),")?;
    }
    table.push_str("];\n");
    fs::write(out.join("builtin.rs"), table)?;
    Ok(())
}

/// The C++ that reads the engine's accounting of memory; see `engine/llama/ffi/dry.rs`.
fn shim(include: &Path) {
    let source = "src/engine/llama/ffi/shim.cpp";
    println!("cargo:rerun-if-changed={source}");
    cc::Build::new().cpp(true).std("c++17").include(include).file(source).compile("assayd_shim");
}

/// The plugin SDK and the interfaces as a table of paths and texts, for new plugins: they
/// build against what this binary serves, wherever it runs.
fn sdk(root: &Path) -> Result<String, Box<dyn Error>> {
    let (mut folders, mut files) =
        (vec![root.join("plugin-sdk"), root.join("wit/deps/plugin-0.1.0")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let wanted = path.extension().is_some_and(|end| end == "rs" || end == "wit" || end == "toml");
            if path.is_dir() {
                folders.push(path);
            } else if wanted {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut table = String::from("pub(crate) const SDK: &[(&str, &str)] = &[\n");
    for file in files {
        let file = file.strip_prefix(root)?;
        // Another checkout may compile this table from the same target folder when the first is gone.
        let from_host = Path::new("/..").join(file);
        let path = format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), {from_host:?})");
        writeln!(table, "    ({file:?}, include_str!({path})),")?;
    }
    table.push_str("];\n");
    Ok(table)
}

/// Names of the crates under `plugins/`, sorted.
fn plugin_names(folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let manifest = entry?.path().join("Cargo.toml");
        let Ok(text) = fs::read_to_string(&manifest) else { continue };
        let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        names.push(
            name.ok_or_else(|| format!("{} has no line name = \"...\"", manifest.display()))?.to_owned(),
        );
    }
    names.sort();
    Ok(names)
}

/// One cargo run for all plugins.
fn build(root: &Path, names: &[String], target_dir: &Path) -> Result<(), Box<dyn Error>> {
    let cargo = env::var_os("CARGO").ok_or("cargo did not say where it is")?;
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--release", "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    if root.join("Cargo.lock").exists() {
        command.arg("--locked");
    }
    for name in names {
        command.args(["-p", name]);
    }
    // What the outer build was told is not meant for the guests.
    for (key, _) in env::vars_os() {
        let Some(name) = key.to_str() else { continue };
        let keep = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_CAINFO"].contains(&name);
        let outer =
            name.starts_with("CARGO") || ["RUSTFLAGS", "RUSTDOCFLAGS", "RUSTC_WRAPPER"].contains(&name);
        let clippy = ["RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "RUSTC", "RUSTDOC"].contains(&name);
        if (outer || clippy) && !keep {
            command.env_remove(&key);
        }
    }
    // Paths of this machine would make the plugins' digests differ from machine to machine.
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![remap(root, "assayd")];
    flags.extend(home.map(|home| remap(&home, "cargo")));
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    // Function names are kept for backtraces, everything else is for size and speed.
    for (key, value) in [
        ("STRIP", "debuginfo"),
        ("LTO", "fat"),
        ("CODEGEN_UNITS", "1"),
        ("INCREMENTAL", "false"),
        ("PANIC", "abort"),
        ("OPT_LEVEL", "3"),
    ] {
        command.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("can't find crate for `core`") || said.contains("can't find crate for `std`") {
        return Err(format!("the plugins need the {TARGET} target: run `rustup target add {TARGET}`").into());
    }
    Err(format!("the plugins do not build:\n{said}").into())
}

/// A core module as a component that imports nothing but `assay:plugin`.
fn pack(module: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let component = wit_component::ComponentEncoder::default().module(module)?.validate(true).encode()?;
    let decoded = wit_component::decode(&component)?;
    let resolve = decoded.resolve();
    let wit_component::DecodedWasm::Component(_, world) = &decoded else {
        return Err("packing gave no component".into());
    };
    let world = resolve.worlds.get(*world).ok_or("the component has no world")?;
    for key in world.imports.keys() {
        let name = resolve.name_world_key(key);
        if !name.starts_with("assay:plugin/") {
            return Err(format!("it imports {name}; a plugin may only import assay:plugin interfaces").into());
        }
    }
    Ok(component)
}
