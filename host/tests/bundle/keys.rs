//! Keys of one's own, pinned ones, and who signed a bundle.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use super::*;

#[test]
fn keys_are_made_once_pinned_by_name_and_tell_who_signed() {
    let (alice, bob) = (Place::new(), Place::new());
    let line = |output: Output| {
        String::from_utf8(output.stdout).unwrap().lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(alice.run(&["keys", "show"]).status.code(), Some(2), "there is none yet");
    let public = line(alice.run(&["keys", "new"]));
    assert!(public.starts_with("ed25519:") && public.len() == 72, "{public}");
    assert_eq!(line(alice.run(&["keys", "show"])), public);
    let again = alice.run(&["keys", "new"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8(again.stderr).unwrap().contains("never overwritten"));
    assert_eq!(alice.path("keys/signing.key").metadata().unwrap().permissions().mode() & 0o777, 0o600);

    assay(&alice, "copy.gguf", "a.bundle", &["--mode", "quick"]);
    fs::copy(alice.path("a.bundle"), bob.path("a.bundle")).unwrap();
    let by = |place: &Place, more: &[&str]| {
        let (code, found) = place.json(&[&["bundle", "verify", "a.bundle", "--json"], more].concat());
        (code, found["signature"]["by"].as_str().unwrap().to_owned(), found)
    };
    assert_eq!(by(&alice, &["--require-signed"]).1, "own");
    let (code, who, found) = by(&bob, &[]);
    assert_eq!(
        (code, who.as_str(), found["signature"]["key"].as_str()),
        (0, "unknown", Some(public.as_str()))
    );
    let (code, _, found) = by(&bob, &["--require-signed"]);
    assert!(
        code == 1 && found["reason"].as_str().unwrap().contains("not signed by a trusted key"),
        "{found:#}"
    );
    assert_eq!(
        bob.run(&["bundle", "verify", "a.bundle", "--signed-by", "alice"]).status.code(),
        Some(2),
        "who?"
    );
    assert_eq!(bob.run(&["keys", "pin", "alice", "ed25519:00"]).status.code(), Some(2));
    assert_eq!(bob.run(&["keys", "pin", "alice", &public]).status.code(), Some(0));
    for more in [&["--require-signed"][..], &["--signed-by", "alice"]] {
        let (code, who, found) = by(&bob, more);
        assert_eq!((code, who.as_str(), found["signature"]["name"].as_str()), (0, "pinned", Some("alice")));
    }
    let (_, list) = bob.json(&["keys", "list", "--json"]);
    assert_eq!((&list["own"], list["pinned"][0]["key"].as_str()), (&Value::Null, Some(public.as_str())));

    // The same evidence under another's signature, and under none.
    bob.run(&["keys", "new"]);
    let parts = Parts::read(&bob.path("a.bundle"));
    assert_eq!(parts.signature.len(), 96);
    let mallory = Place::new();
    mallory.run(&["keys", "new"]);
    assay(&mallory, "copy.gguf", "a.bundle", &["--mode", "quick"]);
    fs::copy(mallory.path("a.bundle"), bob.path("a.bundle")).unwrap();
    let (code, who, _) = by(&bob, &["--signed-by", "alice"]);
    assert_eq!((code, who.as_str()), (1, "unknown"));
    // Alice's signature on what Mallory made.
    let mut moved = Parts::read(&mallory.path("a.bundle"));
    moved.signature.clone_from(&parts.signature);
    moved.write(&bob.path("a.bundle"));
    let (code, who, found) = by(&bob, &[]);
    assert_eq!((code, who.as_str(), found["mismatch"]["section"].as_str()), (1, "not-checked", Some("seal")));
    // Mallory's key in front of Alice's signature.
    let theirs = Parts::read(&mallory.path("a.bundle")).signature;
    let mut mixed = parts.clone();
    mixed.signature[..32].copy_from_slice(&theirs[..32]);
    mixed.write(&bob.path("a.bundle"));
    assert_eq!(by(&bob, &[]).0, 1);
    let mut stripped = parts;
    stripped.signature.clear();
    stripped.write(&bob.path("a.bundle"));
    assert_eq!((by(&bob, &[]).0, by(&bob, &["--require-signed"]).0), (0, 1));

    // A key that others may read is not used, and never left out silently.
    fs::set_permissions(alice.path("keys/signing.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let (copy, reference) = (example("copy.gguf"), example("reference.gguf"));
    let arguments = [
        "verify",
        copy.to_str().unwrap(),
        "--reference",
        reference.to_str().unwrap(),
        "--bundle",
        "c.bundle",
    ];
    let output = alice.run(&arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("others may read"));
    assert!(!alice.path("c.bundle").exists());
    let (code, _) = assay(&alice, "copy.gguf", "c.bundle", &["--mode", "quick", "--unsigned"]);
    assert_eq!((code, check(&alice.path("c.bundle"), &Trust::default()).signature.by), (0, SignedBy::Nobody));
}
