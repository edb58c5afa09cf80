use std::path::{Path, PathBuf};

use super::file::ConfigFile;
use super::*;

fn errors(text: &str) -> (String, String) {
    let problem = parse::<ConfigFile>(Path::new("c.toml"), text).unwrap_err();
    assert_eq!(problem.exit_code(), 2);
    (problem.message, problem.hint.unwrap_or_default())
}

#[test]
fn broken_files_name_the_line_and_the_remedy() {
    for (text, message, hint) in [
        (
            "listen = \"127.0.0.1:1\"\nmodles = [\"a\"]\n",
            "c.toml:2:1: unknown key `modles`",
            "did you mean `models`?",
        ),
        ("# c\n\nsettle_seconds = 0.0\n", "c.toml:3:18: 0 is outside 0.1 to 3600", ""),
        ("threads = 1.5", "c.toml:1:11: 1.5 is outside 1 to 1024", ""),
        ("mode = \"hasty\"", "c.toml:1:8: unknown variant `hasty`", ""),
        ("listen = \"nowhere\"", "c.toml:1:10: `nowhere` is not an address", ""),
        ("max_memory = \"lots\"", "c.toml:1:14: ", ""),
        ("\n\n[[rule]]\nmatch = \"a[\"\nreference = \"r\"", "c.toml:4:9: `a[` is not a glob", ""),
        ("[[rule]]\nmatch = \"a\"\n", "c.toml:1:1: missing field `reference`", ""),
        (
            "[[rule]]\nmatch = \"a\"\nreferense = \"r\"\n",
            "c.toml:3:1: unknown key `referense`",
            "`reference`",
        ),
        ("models = [\n\"a\"\nlisten = 3", "c.toml:3:", ""),
        ("xyzzy = 1", "c.toml:1:1: unknown key `xyzzy`", "known keys here: `models`"),
    ] {
        let (said, hinted) = errors(text);
        assert!(said.starts_with(message), "{text:?}: {said}");
        assert!(hinted.contains(hint), "{text:?}: {hinted}");
    }
}

/// An environment with only a home.
fn home(dir: &Path) -> impl Fn(&str) -> Option<String> {
    let dir = dir.to_str().unwrap().to_owned();
    move |name: &str| (name == "HOME").then(|| dir.clone())
}

#[test]
fn nothing_at_all_is_a_sensible_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let env = home(dir.path());
    let config = load(&Overrides::default(), &env).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:7478");
    assert_eq!(config.state, dir.path().join(".local/state/assayd"));
    assert_eq!(config.models, [dir.path().join(".local/share/assayd/models").canonicalize().unwrap()]);
    assert_eq!(config.settle, Duration::from_secs(2));
    assert!(config.file.is_none() && config.api_key.is_none() && config.rules.is_empty());
    assert!(load(&Overrides::default(), &|_| None).unwrap_err().hint.unwrap().contains("DIR"));
}

#[test]
fn the_file_counts_where_the_command_line_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for sub in ["etc", "etc/in", "other", ".config/assayd"] {
        std::fs::create_dir_all(root.join(sub)).unwrap();
    }
    let file = root.join("etc/c.toml");
    std::fs::write(
        &file,
        "models = [\"in\", \"in/../in\"]\nlisten = \"localhost:0\"\nstate = \"st\"\nsettle_seconds = 1\nthreads = 3\ngpu_layers = -1\n\
         max_memory = \"2GiB\"\nmode = \"quick\"\n[[rule]]\nmatch = \"*.gguf\"\nreference = \"refs/base.gguf\"\n",
    )
    .unwrap();
    let named = Overrides { config: Some(file), ..Overrides::default() };
    let config = load(&named, &home(&root)).unwrap();
    assert_eq!(config.models, [root.join("etc/in")]);
    assert_eq!(config.state, root.join("etc/st"));
    assert_eq!((config.threads, config.gpu_layers), (Some(3), Some(-1)));
    assert_eq!(config.max_memory, Some(ByteSize(2 << 30)));
    assert_eq!(config.rules.references().collect::<Vec<_>>(), [root.join("etc/refs/base.gguf")]);
    let over = Overrides {
        models: vec![root.join("other")],
        listen: Some("[::1]:9".to_owned()),
        state: Some(root.join("s2")),
        ..named
    };
    let config = load(&over, &home(&root)).unwrap();
    assert_eq!(config.models, [root.join("other")]);
    assert_eq!((config.listen.to_string(), config.state), ("[::1]:9".to_owned(), root.join("s2")));
    // The usual place is read without being named.
    std::fs::write(root.join(".config/assayd/config.toml"), "threads = 7").unwrap();
    assert_eq!(load(&Overrides::default(), &home(&root)).unwrap().threads, Some(7));
}

#[test]
fn impossible_demands_are_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let check = |text: &str, expected: &str| {
        let file = root.join("c.toml");
        std::fs::write(&file, text).unwrap();
        let overrides = Overrides { config: Some(file), ..Overrides::default() };
        let problem = load(&overrides, &home(root)).unwrap_err();
        assert_eq!(problem.exit_code(), 2, "{text}");
        assert!(problem.message.contains(expected), "{text}: {problem}");
        assert!(problem.hint.is_some(), "{text}");
    };
    check("models = [\"missing\"]", "missing");
    check("listen = \"0.0.0.0:1\"", "needs an API key");
    check("api_key_file = \"nokey\"", "nokey");
    check("plugins = \"noplugins\"", "noplugins");
    std::fs::write(root.join("short"), "abc\n").unwrap();
    check("api_key_file = \"short\"", "at least 16");
    std::fs::write(root.join("key"), "0123456789abcdef\n").unwrap();
    std::fs::write(root.join("c.toml"), "listen = \"0.0.0.0:1\"\napi_key_file = \"key\"").unwrap();
    let overrides = Overrides { config: Some(root.join("c.toml")), ..Overrides::default() };
    let config = load(&overrides, &home(root)).unwrap();
    assert!(!format!("{config:?}").contains("0123456789abcdef"), "a key is never printed");
    let overrides = Overrides { config: Some(root.join("none.toml")), ..Overrides::default() };
    assert_eq!(load(&overrides, &home(root)).unwrap_err().exit_code(), 2);
}

#[test]
fn rules_match_names_inner_paths_and_whole_paths() {
    let text = "[[rule]]\nmatch = \"qwen*.gguf\"\nreference = \"q\"\n[[rule]]\nmatch = \"sub/*/x.gguf\"\n\
                reference = \"/s\"\nmode = \"quick\"\n[[rule]]\nmatch = \"/abs/**\"\nreference = \"a\"\n";
    let file: ConfigFile = parse(Path::new("c.toml"), text).unwrap();
    let rules = Rules::new(file.rules, Path::new("/base"));
    let folders = [PathBuf::from("/m"), PathBuf::from("/n")];
    for (artifact, expected) in [
        ("/m/qwen2.gguf", Some("/base/q")),
        ("/m/deep/down/qwen2.gguf", Some("/base/q")),
        ("/m/qwen2.bin", None),
        ("/n/sub/1/x.gguf", Some("/s")),
        ("/n/sub/1/2/x.gguf", None),
        ("/abs/deep/y.gguf", Some("/base/a")),
    ] {
        let chosen = rules.choose(Path::new(artifact), &folders, None).unwrap();
        assert_eq!(chosen.map(|chosen| chosen.reference), expected.map(PathBuf::from), "{artifact}");
    }
}

#[test]
fn a_sidecar_wins_and_a_broken_one_is_no_silence() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = dir.path().join("a.gguf.assay.toml");
    let rules = Rules::default();
    let choose = || rules.choose(&dir.path().join("a.gguf"), &[], Some(&sidecar));
    std::fs::write(&sidecar, "reference = \"../ref.gguf\"\nmode = \"extended\"").unwrap();
    let chosen = choose().unwrap().unwrap();
    assert_eq!(chosen.reference, dir.path().join("../ref.gguf"));
    assert_eq!(chosen.mode, Some(ModeName::Extended));
    std::fs::write(&sidecar, "\nrefrence = \"x\"").unwrap();
    let problem = choose().unwrap_err();
    assert!(problem.message.contains("a.gguf.assay.toml:2:1: unknown key `refrence`"), "{problem}");
}

#[test]
fn the_published_schema_is_the_one_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.schema.json");
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("ASSAYD_UPDATE_DOCS").is_some() {
        std::fs::write(&path, schema()).unwrap();
        return;
    }
    assert_eq!(published, schema(), "run the tests once with ASSAYD_UPDATE_DOCS=1 and commit the change");
}
