//! An assay under which the daemon is killed goes on as the same assay.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::completions::example;
use super::http::{get, post, wait};
use super::{house, inspected, start};

/// Files of traces in the caches below `dir`, and the sets that they are in.
fn traces(dir: &Path) -> (usize, usize) {
    let within = |dir: &Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let sets: Vec<_> = within(&dir.join("state/traces/traces"));
    (sets.iter().map(|set| within(set).len()).sum(), sets.len())
}

#[test]
fn a_broken_off_assay_goes_on_with_the_same_challenges() {
    let house = house("measure = false\n");
    let dir = house.path();
    for name in ["reference", "reference-q8_0"] {
        let name = format!("{name}.gguf");
        std::fs::copy(example(&name), dir.join("models").join(name)).unwrap();
    }
    let mut daemon = start(dir);
    inspected(daemon.address, "reference-q8_0.gguf");
    let mut asked =
        json!({"candidate": "reference-q8_0.gguf", "reference": "reference.gguf", "mode": "extended"});
    let id = post(daemon.address, "/api/assays", &asked).json()["id"].as_str().unwrap().to_owned();
    // The reference has answered in part: challenges are drawn and in use.
    wait("traces", || (traces(dir).0 > 0).then_some(()));
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();

    let daemon = start(dir);
    let report = |id: &str| -> Value {
        let assay = wait("the verdict", || {
            let assay = get(daemon.address, &format!("/api/assays/{id}")).json();
            (assay["state"] == "done").then_some(assay)
        });
        let mut report = get(daemon.address, &format!("/api/assays/{id}/report")).json();
        report["attempts"] = assay["attempts"].clone();
        report
    };
    let resumed = report(&id);
    assert_eq!((&resumed["attempts"], &resumed["final_decision"]), (&json!(2), &json!("SAME")), "{resumed}");
    assert_eq!(traces(dir).1, 1, "one set of challenges, whatever happened in between");
    // The same as if nothing had happened.
    asked["key"] = resumed["challenges"]["key_revealed"].clone();
    let id = post(daemon.address, "/api/assays", &asked).json()["id"].as_str().unwrap().to_owned();
    let whole = report(&id);
    assert_eq!(whole["provenance"]["transcript_root"], resumed["provenance"]["transcript_root"]);
    assert_eq!(whole["enhanced_diff"]["n_effective"], resumed["enhanced_diff"]["n_effective"]);
    let mode =
        |name: &str| std::fs::metadata(dir.join("state").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("assayd.db"), mode("assayd.db-wal")), (0o600, 0o600), "keys are nobody else's business");
    assert_eq!(daemon.stop(), 0);
}
