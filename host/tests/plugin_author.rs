//! The life of a plugin through the binary: new, built, packed, checked, run, trusted, listed,
//! used. New plugins are built as their README says, with the crates that are there already.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs assayd in a folder; exit code, standard output, standard error.
fn assayd(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_assayd")).current_dir(folder).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn json(folder: &Path, args: &[&str]) -> Value {
    let (code, out, err) = assayd(folder, args);
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// Builds a new plugin; gives the core module that cargo wrote.
fn build(folder: &Path, target: &Path, name: &str) -> std::path::PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What the outer cargo was told is not meant for this one.
    for (key, _) in std::env::vars_os() {
        let outer = key.to_str().is_some_and(|key| key.starts_with("CARGO_") || key.starts_with("RUST"));
        if outer && key != "CARGO_HOME" && key != "RUSTUP_HOME" && key != "RUSTUP_TOOLCHAIN" {
            cargo.env_remove(key);
        }
    }
    let output = cargo
        .current_dir(folder)
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .args(["build", "--offline", "--release", "--target", "wasm32-unknown-unknown", "--target-dir"])
        .arg(target)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("wasm32-unknown-unknown/release").join(format!("{}.wasm", name.replace('-', "_")))
}

#[test]
fn a_new_plugin_of_every_kind_builds_packs_checks_and_runs() {
    let home = tempfile::tempdir().unwrap();
    let (home, target) = (home.path(), home.path().join("target"));
    let mut packed = Vec::new();
    for kind in ["scorer", "decider", "hash-check", "report"] {
        let name = format!("my-{kind}");
        assert_eq!(assayd(home, &["plugin", "new", kind, &name]).0, 0);
        let (code, _, err) = assayd(home, &["plugin", "new", kind, &name]);
        assert!(code == 2 && err.contains("there already"), "nothing is overwritten: {err}");
        let folder = home.join(&name);
        let module = build(&folder, &target, &name);

        let core = module.to_str().unwrap();
        let (code, _, err) = assayd(&folder, &["plugin", "check", core]);
        assert!(code == 1 && err.contains("a core module") && err.contains("plugin pack"), "{err}");
        let (code, out, err) = assayd(&folder, &["plugin", "pack", core]);
        assert!(code == 0 && out.contains("sha256"), "{err}");
        let component = format!("{name}.wasm");
        let (code, _, err) = assayd(&folder, &["plugin", "pack", &component]);
        assert!(code == 1 && err.contains("component already"), "{err}");

        let checked = json(&folder, &["plugin", "check", &component, "--json"]);
        assert_eq!(
            (&checked["plugin"]["id"], &checked["plugin"]["kind"]),
            (&name.as_str().into(), &kind.into())
        );
        assert!(checked["limits"]["fuel"].as_u64().unwrap() > checked["describe"]["fuel"].as_u64().unwrap());
        let imports = checked["imports"].as_array().unwrap();
        assert!(
            imports.iter().all(|name| name.as_str().unwrap().starts_with("assay:plugin/")),
            "{imports:?}"
        );

        let run = ["plugin", "run", kind, &component, "--evidence", "examples/evidence.json", "--json"];
        let answer = json(&folder, &run);
        assert!(answer["usage"]["fuel"].as_u64().unwrap() > 0);
        let result = &answer["result"];
        match kind {
            // One of three positions is preferred differently.
            "scorer" => assert!((result["value"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12, "{result}"),
            "decider" => assert_eq!(result["steps"][39]["decision"], "SAME"),
            "hash-check" => assert_eq!(result["outcome"], "not-applicable"),
            _ => assert_eq!(result["files"][0]["body"], "SAME: candidate.gguf against reference.gguf\n"),
        }
        packed.push((name, folder.join(component)));
    }

    // Nothing of a folder is used before it is trusted, all of it afterwards.
    let plugins = home.join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    for (name, component) in &packed {
        std::fs::copy(component, plugins.join(format!("{name}.wasm"))).unwrap();
    }
    let list = || json(home, &["plugin", "list", "--plugins", "plugins", "--json"]);
    let ours = |listed: &Value| {
        let all = listed["plugins"].as_array().unwrap();
        all.iter().filter(|plugin| plugin["id"].as_str().unwrap().starts_with("my-")).count()
    };
    let before = list();
    assert_eq!((ours(&before), before["skipped"].as_array().unwrap().len()), (0, 4));
    assert!(before["skipped"][0]["hint"].as_str().unwrap().contains("plugin trust"));
    for (name, _) in &packed {
        let (code, _, err) = assayd(home, &["plugin", "trust", &format!("plugins/{name}.wasm")]);
        assert_eq!(code, 0, "{err}");
    }
    let after = list();
    assert_eq!((ours(&after), after["skipped"].as_array().unwrap().len()), (4, 0));

    std::fs::write(
        home.join("scores.json"),
        "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]",
    )
    .unwrap();
    let decided =
        json(home, &["decide", "scores.json", "--decider", "my-decider", "--plugins", "plugins", "--json"]);
    assert_eq!(decided["decision"], "SAME");
}

#[test]
fn built_in_plugins_run_on_evidence_and_refuse_what_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert_eq!(assayd(folder, &["plugin", "new", "scorer", "x"]).0, 0);
    let evidence = "x/examples/evidence.json";
    // Values of the three rows of the example, computed apart from this code.
    for (id, value) in [("top1", 1.0 / 3.0), ("exact-text", 1.0), ("kl", 1.0)] {
        let answer = json(folder, &["plugin", "run", "scorer", id, "--evidence", evidence, "--json"]);
        assert!((answer["result"]["value"].as_f64().unwrap() - value).abs() < 1e-9, "{id}: {answer}");
    }
    std::fs::write(folder.join("bad.json"), r#"{"challenge":"c"}"#).unwrap();
    for (args, code, says) in [
        (["scorer", "kl", "bad.json"], 4, "missing field"),
        (["scorer", "kl", "none.json"], 4, "none.json"),
        (["scorer", "nothing", evidence], 2, "there is no scorer"),
        (["decider", "hedged", evidence], 4, "unknown field"),
        (["scorer", "./none.wasm", evidence], 4, "none.wasm"),
    ] {
        let [kind, plugin, file] = args;
        let (exit, _, err) = assayd(folder, &["plugin", "run", kind, plugin, "--evidence", file]);
        assert!(exit == code && err.contains(says), "{args:?}: {exit} {err}");
    }
    let (exit, _, err) = assayd(
        folder,
        &["plugin", "run", "scorer", "kl", "--evidence", evidence, "--params", r#"{"clip_nats":0}"#],
    );
    assert!(exit == 4 && err.contains("invalid parameters"), "{err}");
    for name in ["Bad", "../x", ""] {
        assert_eq!(assayd(folder, &["plugin", "new", "scorer", name]).0, 2, "{name}");
    }
}
