//! `assayd demo` through the real binary: every verdict is the expected one.

use std::process::Command;

#[test]
fn the_demo_judges_every_example_as_expected_and_leaves_its_reports() {
    let folder = tempfile::tempdir().unwrap();
    let keep = folder.path().join("demo");
    let run =
        || Command::new(env!("CARGO_BIN_EXE_assayd")).arg("demo").arg("--keep").arg(&keep).output().unwrap();
    let output = run();
    let screen = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{screen}{errors}");
    for words in ["every verdict is the expected one", "http://127.0.0.1:", "DIFFERENT", "REJECT", "SAME"] {
        assert!(screen.contains(words), "{words}\n{screen}");
    }
    for model in ["copy", "reference-f16", "reference-q8_0", "finetuned"] {
        let report = std::fs::read(keep.join(format!("reports/{model}.gguf.json"))).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report.pointer("/schema").unwrap(), "assayd.report/1");
        let page = std::fs::read_to_string(keep.join(format!("reports/{model}.gguf.html"))).unwrap();
        assert!(page.contains("<svg"), "{model}");
    }
    // A folder with something in it is somebody's.
    let again = run();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8(again.stderr).unwrap().contains("is not empty"));
}
