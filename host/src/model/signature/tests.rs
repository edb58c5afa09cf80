//! Signatures made here, with keys made here, and every way to bend them.

use std::collections::BTreeMap;
use std::io::Write as _;

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use p256::ecdsa::{Signature, SigningKey};
use sigstore_verify::types::encoding::{KeyId, PayloadBytes};
use sigstore_verify::types::{DsseSignature, SignatureBytes};

use super::*;
use crate::digest::{sha256, sha256_parts};
use crate::model::inspect::{InspectOptions, inspect};

/// 2026-07-01.
const NOW: i64 = 1_782_864_000;

fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 32]).unwrap()
}

// --- A writer of DER, just enough for certificates ---

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=127 => out.push(length as u8),
        128..=255 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

/// A key of either curve.
trait Signs {
    /// Names of the curve, and of the curve's signatures with its hash.
    const CURVE: &[u8];
    const ALGORITHM: &[u8];
    fn point(&self) -> Vec<u8>;
    fn der(&self, message: &[u8]) -> Vec<u8>;
}

impl Signs for SigningKey {
    const CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const ALGORITHM: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    fn point(&self) -> Vec<u8> {
        self.verifying_key().to_sec1_point(false).as_bytes().to_vec()
    }
    fn der(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.sign(message);
        signature.to_der().as_bytes().to_vec()
    }
}

impl Signs for p384::ecdsa::SigningKey {
    const CURVE: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
    const ALGORITHM: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
    fn point(&self) -> Vec<u8> {
        self.verifying_key().to_sec1_point(false).as_bytes().to_vec()
    }
    fn der(&self, message: &[u8]) -> Vec<u8> {
        let signature: p384::ecdsa::Signature = self.sign(message);
        signature.to_der().as_bytes().to_vec()
    }
}

/// A key of P-384 that hashes as those of P-256 do, as nobody should.
struct Halved(p384::ecdsa::SigningKey);

impl Signs for Halved {
    const CURVE: &[u8] = p384::ecdsa::SigningKey::CURVE;
    const ALGORITHM: &[u8] = SigningKey::ALGORITHM;
    fn point(&self) -> Vec<u8> {
        self.0.point()
    }
    fn der(&self, message: &[u8]) -> Vec<u8> {
        let signature: p384::ecdsa::Signature = self.0.sign_prehash(&sha256(message).0).unwrap();
        signature.to_der().as_bytes().to_vec()
    }
}

/// One that hashes as it should, and says that it did not.
struct Misnamed(p384::ecdsa::SigningKey);

impl Signs for Misnamed {
    const CURVE: &[u8] = p384::ecdsa::SigningKey::CURVE;
    const ALGORITHM: &[u8] = SigningKey::ALGORITHM;
    fn point(&self) -> Vec<u8> {
        self.0.point()
    }
    fn der(&self, message: &[u8]) -> Vec<u8> {
        self.0.der(message)
    }
}

fn key384(number: u8) -> p384::ecdsa::SigningKey {
    p384::ecdsa::SigningKey::from_slice(&[number; 48]).unwrap()
}

fn spki<K: Signs>(key: &K) -> Vec<u8> {
    let family = [0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let algorithm = tlv(0x30, &[&family, &tlv(0x06, &[K::CURVE])]);
    tlv(0x30, &[&algorithm, &tlv(0x03, &[&[0], &key.point()])])
}

fn name(text: &str) -> Vec<u8> {
    let attribute = tlv(0x30, &[&[0x06, 3, 0x55, 0x04, 0x03], &tlv(0x0c, &[text.as_bytes()])]);
    tlv(0x30, &[&tlv(0x31, &[&attribute])])
}

/// What a certificate says.
#[derive(Clone)]
struct Says<'a> {
    subject: &'a str,
    issuer: &'a str,
    /// An authority, and how many may stand below it.
    authority: Option<u8>,
    usage: Option<u8>,
    until: &'a str,
    critical: Option<&'a [u8]>,
}

const LEAF: Says<'_> = Says {
    subject: "signer",
    issuer: "root",
    authority: None,
    usage: Some(0x80),
    until: "300101000000Z",
    critical: None,
};
const ROOT: Says<'_> = Says { subject: "root", authority: Some(1), usage: Some(0x04), ..LEAF };

fn certificate<K: Signs>(says: &Says<'_>, own: &impl Signs, issuer: &K) -> Vec<u8> {
    let algorithm = tlv(0x30, &[&tlv(0x06, &[K::ALGORITHM])]);
    let time = |text: &str| tlv(0x17, &[text.as_bytes()]);
    let extension = |oid: &[u8], critical: bool, value: &[u8]| {
        let critical: &[u8] = if critical { &[0x01, 1, 0xff] } else { &[] };
        tlv(0x30, &[&tlv(0x06, &[oid]), critical, &tlv(0x04, &[value])])
    };
    let mut extensions = Vec::new();
    if let Some(below) = says.authority {
        let value = tlv(0x30, &[&[0x01, 1, 0xff], &[0x02, 1, below]]);
        extensions.extend(extension(&[0x55, 0x1d, 0x13], true, &value));
    }
    if let Some(usage) = says.usage {
        extensions.extend(extension(&[0x55, 0x1d, 0x0f], true, &[0x03, 2, 0, usage]));
    }
    if let Some(oid) = says.critical {
        extensions.extend(extension(oid, true, &[0x05, 0]));
    }
    let signed = tlv(
        0x30,
        &[
            &tlv(0xa0, &[&[0x02, 1, 2]]),
            &[0x02, 1, 7],
            &algorithm,
            &name(says.issuer),
            &tlv(0x30, &[&time("260101000000Z"), &time(says.until)]),
            &name(says.subject),
            &spki(own),
            &tlv(0xa3, &[&tlv(0x30, &[&extensions])]),
        ],
    );
    tlv(0x30, &[&signed, &algorithm, &tlv(0x03, &[&[0], &issuer.der(&signed)])])
}

// --- Signatures of a folder ---

fn pem(kind: &str, der: &[u8]) -> String {
    let coded = SignatureBytes::new(der.to_vec()).to_base64();
    format!("-----BEGIN {kind}-----\n{coded}\n-----END {kind}-----\n")
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = [1u8; 256];
        let tensor = crate::model::gguf::write::TensorData {
            name: "t",
            kind: crate::model::gguf::GgmlType::F32,
            shape: &[64],
            data: &data,
        };
        fs::create_dir(folder.path().join("model")).unwrap();
        crate::model::gguf::write::write_file(&folder.path().join("model/m.gguf"), &[], &[tensor]).unwrap();
        fs::write(folder.path().join("model/README.md"), "read me").unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn digests(&self) -> BTreeMap<String, String> {
        ["README.md", "m.gguf"]
            .into_iter()
            .map(|name| {
                let bytes = fs::read(self.path("model").join(name)).unwrap();
                (name.to_owned(), sha256(&bytes).to_string())
            })
            .collect()
    }

    fn put(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.path(name);
        fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    }

    fn inspection(&self, path: &str) -> Inspection {
        inspect(&self.path(path), &InspectOptions { full: true }, &mut |_, _| {}).unwrap()
    }

    fn check(&self, path: &str, bundle: &str, trust: Trust<'_>) -> Result<Report, Problem> {
        let signature = self.put("model/model.sig", bundle);
        let mut inspection = self.inspection("model/m.gguf");
        inspection.path = self.path(path);
        check(bundle, &signature, Trust { now: NOW, ..trust }, &inspection)
    }
}

fn payload(digests: &BTreeMap<String, String>) -> serde_json::Value {
    let bytes: Vec<Vec<u8>> =
        digests.values().map(|digest| crate::domain::digest::from_hex(digest).unwrap()).collect();
    let parts: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    let resources: Vec<_> = digests
        .iter()
        .map(|(name, digest)| serde_json::json!({"name": name, "algorithm": "sha256", "digest": digest}))
        .collect();
    serde_json::json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": sha256_parts(&parts).to_string()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": "sha256", "allow_symlinks": false,
                "ignore_paths": ["model.sig", ".git"]
            },
            "resources": resources,
        },
    })
}

fn bundle(payload: &serde_json::Value, key: &impl Signs, material: serde_json::Value) -> serde_json::Value {
    let bytes = payload.to_string().into_bytes();
    let pae = sigstore_verify::types::pae("application/vnd.in-toto+json", &bytes);
    let signature = SignatureBytes::new(key.der(&pae));
    let envelope = DsseEnvelope::new(
        "application/vnd.in-toto+json",
        PayloadBytes::new(bytes),
        DsseSignature::new(signature, KeyId::new("")),
    );
    serde_json::json!({
        "mediaType": BUNDLE,
        "verificationMaterial": material,
        "dsseEnvelope": envelope,
    })
}

fn hint() -> serde_json::Value {
    serde_json::json!({"publicKey": {"hint": "x"}, "tlogEntries": []})
}

fn chain(certificates: &[Vec<u8>]) -> serde_json::Value {
    let list: Vec<_> = certificates
        .iter()
        .map(|der| serde_json::json!({"rawBytes": SignatureBytes::new(der.clone()).to_base64()}))
        .collect();
    serde_json::json!({"x509CertificateChain": {"certificates": list}, "tlogEntries": []})
}

fn outcomes(report: &Report) -> Vec<(&str, crate::model::manifest::Outcome)> {
    report
        .checked
        .iter()
        .filter(|checked| checked.outcome != crate::model::manifest::Outcome::Ok)
        .map(|checked| (checked.name.as_str(), checked.outcome))
        .collect()
}

#[test]
fn a_key_and_every_way_to_fail() {
    use crate::model::manifest::Outcome::{Changed, Extra, Missing};
    let folder = Folder::new();
    let own = key(1);
    let public = folder.put("own.pub", &pem("PUBLIC KEY", &spki(&own)));
    let trust = Trust { key: Some(&public), ..Trust::default() };
    let good = bundle(&payload(&folder.digests()), &own, hint()).to_string();

    let report = folder.check("model", &good, trust).unwrap();
    assert_eq!((report.exit_code(), report.checked.len()), (0, 4), "{report:?}");
    let report = folder.check("model/m.gguf", &good, trust).unwrap();
    assert_eq!(report.exit_code(), 0, "{report:?}");
    assert!(report.remarks[0].contains("1 more"), "{report:?}");

    // Another key, and no key.
    let other = folder.put("other.pub", &pem("PUBLIC KEY", &spki(&key(2))));
    let report = folder.check("model", &good, Trust { key: Some(&other), ..Trust::default() }).unwrap();
    assert_eq!(outcomes(&report), [("signature", Changed)]);
    assert_eq!(report.checked.len(), 1, "nothing is said about files nobody vouches for");
    assert_eq!(folder.check("model", &good, Trust::default()).unwrap_err().exit_code(), 2);

    // A payload that was changed after signing.
    let mut forged: serde_json::Value = serde_json::from_str(&good).unwrap();
    let mut digests = folder.digests();
    digests.insert("m.gguf".into(), sha256(b"evil").to_string());
    forged["dsseEnvelope"]["payload"] =
        PayloadBytes::new(payload(&digests).to_string().into_bytes()).to_base64().into();
    let report = folder.check("model", &forged.to_string(), trust).unwrap();
    assert_eq!((outcomes(&report), report.exit_code()), (vec![("signature", Changed)], 1));
    let mut retyped: serde_json::Value = serde_json::from_str(&good).unwrap();
    retyped["dsseEnvelope"]["payloadType"] = "text/plain".into();
    assert_eq!(folder.check("model", &retyped.to_string(), trust).unwrap().exit_code(), 1);

    // A wrong digest, properly signed; and lists that miss a file or have one too many.
    let report = folder.check("model", &bundle(&payload(&digests), &own, hint()).to_string(), trust).unwrap();
    assert_eq!((outcomes(&report), report.exit_code()), (vec![("m.gguf", Changed)], 1));
    let mut fewer = folder.digests();
    fewer.remove("README.md");
    let report = folder.check("model", &bundle(&payload(&fewer), &own, hint()).to_string(), trust).unwrap();
    assert_eq!((outcomes(&report), report.exit_code()), (vec![("README.md", Extra)], 1));
    let mut more = folder.digests();
    more.insert("z.txt".into(), sha256(b"").to_string());
    let report = folder.check("model", &bundle(&payload(&more), &own, hint()).to_string(), trust).unwrap();
    assert_eq!((outcomes(&report), report.exit_code()), (vec![("z.txt", Missing)], 1));

    // The subject speaks about other digests than the list.
    let mut torn = payload(&folder.digests());
    torn["subject"][0]["digest"]["sha256"] = sha256(b"").to_string().into();
    let report = folder.check("model", &bundle(&torn, &own, hint()).to_string(), trust).unwrap();
    assert_eq!(outcomes(&report), [("all files together", Changed)]);

    // What cannot be judged is no pass.
    type Edit = fn(&mut serde_json::Value);
    let cases: [(&str, Edit); 6] = [
        ("trees", |p| p["predicate"]["serialization"]["method"] = "trees".into()),
        ("shards without a size", |p| p["predicate"]["serialization"]["method"] = "shards".into()),
        ("blake3", |p| p["predicate"]["resources"][0]["algorithm"] = "blake3".into()),
        ("predicate", |p| p["predicateType"] = "https://example.com".into()),
        ("leads out", |p| p["predicate"]["resources"][0]["name"] = "../secret".into()),
        ("no list", |p| p["predicate"] = serde_json::json!({})),
    ];
    for (what, edit) in cases {
        let mut payload = payload(&folder.digests());
        edit(&mut payload);
        let report = folder.check("model", &bundle(&payload, &own, hint()).to_string(), trust).unwrap();
        assert!(!report.unchecked.is_empty(), "{what}");
        assert_ne!(report.exit_code(), 0, "{what}");
    }
    std::os::unix::fs::symlink("m.gguf", folder.path("model/link.gguf")).unwrap();
    let report = folder.check("model", &good, trust).unwrap();
    assert_ne!(report.exit_code(), 0, "a link that was not signed");

    let old = good.replace("bundle.v0.3+json", "bundle+json;version=0.1");
    assert!(folder.check("model", &old, trust).is_err());
    assert!(folder.check("model", "{\"mediaType\":\"x\"}", trust).is_err());
}

/// What is ignored lies below the folder, whatever the folder's name and however it was given.
#[test]
fn ignored_paths_are_places_in_the_folder() {
    use crate::model::manifest::Outcome::Extra;
    let folder = Folder::new();
    let own = key(1);
    let public = folder.put("own.pub", &pem("PUBLIC KEY", &spki(&own)));
    let trust = Trust { key: Some(&public), now: NOW, ..Trust::default() };
    fs::write(folder.path("model/evil.py"), "x").unwrap();
    fs::create_dir(folder.path("model/docs")).unwrap();
    fs::write(folder.path("model/docs/a.txt"), "x").unwrap();
    let relative = Path::new("..").join(folder.0.path().file_name().unwrap()).join("model");
    let absolute = folder.path("model").display().to_string();
    for (ignored, left) in [
        (&["docs", "evil.py"][..], &[][..]),
        (&["./docs/", "./evil.py"], &[]),
        (&["docs/a.txt", "evil.py"], &[]),
        (&["docs"], &["evil.py"]),
        (&["model"], &["docs/a.txt", "evil.py"]),
        (&[&absolute, relative.to_str().unwrap()], &["docs/a.txt", "evil.py"]),
        (&["", ".", "..", "/", "./", "evil", "*"], &["docs/a.txt", "evil.py"]),
    ] {
        let mut payload = payload(&folder.digests());
        payload["predicate"]["serialization"]["ignore_paths"] = ignored.into();
        let bundle = bundle(&payload, &own, hint()).to_string();
        let signature = folder.put("model.sig", &bundle);
        let mut inspection = folder.inspection("model/m.gguf");
        inspection.path = folder.path("model");
        let report = check(&bundle, &signature, trust, &inspection).unwrap();
        let expected: Vec<_> = left.iter().map(|name| (*name, Extra)).collect();
        assert_eq!(outcomes(&report), expected, "{ignored:?}");
    }
}

#[test]
fn certificates_lead_to_a_root_or_nowhere() {
    let folder = Folder::new();
    let (leaf, middle, root, stranger) = (key(1), key(2), key(3), key(4));
    let payload = payload(&folder.digests());
    let root_certificate = certificate(&ROOT, &root, &root);
    let roots = folder.put("roots.pem", &pem("CERTIFICATE", &root_certificate));
    let trust = Trust { roots: Some(&roots), ..Trust::default() };
    let check = |certificates: &[Vec<u8>], key: &SigningKey| {
        let report =
            folder.check("model", &bundle(&payload, key, chain(certificates)).to_string(), trust).unwrap();
        report.exit_code()
    };
    let middle_says = Says { subject: "middle", authority: Some(0), usage: Some(0x04), ..LEAF };
    let under = Says { issuer: "middle", ..LEAF };
    let straight = certificate(&LEAF, &leaf, &root);
    let between = certificate(&middle_says, &middle, &root);
    let lower = certificate(&under, &leaf, &middle);

    assert_eq!(check(std::slice::from_ref(&straight), &leaf), 0);
    assert_eq!(check(&[straight.clone(), root_certificate.clone()], &leaf), 0);
    assert_eq!(check(&[lower.clone(), between.clone()], &leaf), 0);
    let single = serde_json::json!({
        "certificate": {"rawBytes": SignatureBytes::new(straight.clone()).to_base64()}, "tlogEntries": []
    });
    let report = folder.check("model", &bundle(&payload, &leaf, single).to_string(), trust).unwrap();
    assert_eq!(report.exit_code(), 0);

    assert_eq!(check(std::slice::from_ref(&straight), &stranger), 1, "signed with another key");
    assert_eq!(check(&[], &leaf), 1, "no certificate");
    assert_eq!(check(std::slice::from_ref(&lower), &leaf), 1, "the one between is missing");
    assert_eq!(check(&[certificate(&LEAF, &leaf, &stranger)], &leaf), 1, "not the root's signature");
    let own_root = certificate(&ROOT, &stranger, &stranger);
    assert_eq!(
        check(&[certificate(&LEAF, &leaf, &stranger), own_root], &leaf),
        1,
        "a root that nobody named"
    );
    let mut bent = straight.clone();
    let last = bent.len() - 1;
    bent[last] ^= 1;
    assert_eq!(check(&[bent], &leaf), 1, "a bent signature");
    assert_eq!(check(&[vec![0x30, 0x00]], &leaf), 1, "not a certificate");

    let no_authority = Says { authority: None, usage: Some(0x84), ..middle_says.clone() };
    assert_eq!(check(&[lower.clone(), certificate(&no_authority, &middle, &root)], &leaf), 1, "no authority");
    let no_certifying = Says { usage: Some(0x80), ..middle_says.clone() };
    assert_eq!(
        check(&[lower.clone(), certificate(&no_certifying, &middle, &root)], &leaf),
        1,
        "must not certify"
    );
    let no_signing = Says { usage: Some(0x20), ..LEAF };
    assert_eq!(check(&[certificate(&no_signing, &leaf, &root)], &leaf), 1, "must not sign");
    // The one between allows none below it.
    let third = key(5);
    let low = Says { subject: "low", issuer: "middle", authority: Some(0), usage: Some(0x04), ..LEAF };
    let lowest = Says { issuer: "low", ..LEAF };
    let deep = [
        certificate(&lowest, &leaf, &third),
        certificate(&low, &third, &middle),
        certificate(&middle_says, &middle, &root),
    ];
    assert_eq!(check(&deep, &leaf), 1, "too many authorities");

    let expired = Says { until: "260201000000Z", ..LEAF };
    assert_eq!(check(&[certificate(&expired, &leaf, &root)], &leaf), 4, "expired");
    let strange = Says { critical: Some(&[0x55, 0x1d, 0x1e]), ..LEAF };
    assert_eq!(check(&[certificate(&strange, &leaf, &root)], &leaf), 4, "a demand that is not understood");

    let empty = folder.put("empty.pem", "");
    let trust = Trust { roots: Some(&empty), ..Trust::default() };
    let good = bundle(&payload, &leaf, chain(&[straight])).to_string();
    assert!(folder.check("model", &good, trust).is_err());
}

/// Cutting and bending a certificate anywhere never panics, and never makes it trusted.
#[test]
fn damaged_certificates() {
    let (leaf, root) = (key(1), key(3));
    let (good, root_certificate) = (certificate(&LEAF, &leaf, &root), certificate(&ROOT, &root, &root));
    let roots = [Certificate::parse(&root_certificate).unwrap()];
    let parsed = Certificate::parse(&good).unwrap();
    assert!(chain::trust(&[parsed], &roots, NOW).is_ok());
    for at in 0..good.len() {
        assert!(Certificate::parse(&good[..at]).is_none(), "cut at {at}");
        for bit in 0..8 {
            let mut bent = good.clone();
            bent[at] ^= 1 << bit;
            if let Some(certificate) = Certificate::parse(&bent) {
                assert!(chain::trust(&[certificate], &roots, NOW).is_err(), "bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn ed25519_keys_verify_too() {
    let secret = crate::digest::SigningKey::from_seed(&[9; 32]);
    let public = secret.public();
    let algorithm = tlv(0x30, &[&[0x06, 3, 0x2b, 0x65, 0x70]]);
    let der = tlv(0x30, &[&algorithm, &tlv(0x03, &[&[0], &public.0])]);
    let key = Key::from_der(&der).unwrap();
    let signature = secret.sign(b"message");
    assert!(key.verifies(b"message", &signature));
    assert!(!key.verifies(b"massage", &signature));
    assert!(!key.verifies(b"message", &signature[1..]));
    let rsa = tlv(0x30, &[&tlv(0x30, &[&[0x06, 3, 0x2a, 0x86, 0x48]]), &tlv(0x03, &[&[0, 1]])]);
    assert!(Key::from_der(&rsa).unwrap_err().contains("not supported"));
    assert!(Key::from_der(&der[1..]).is_err());
}

/// Keys and certificates of P-384 beside those of P-256; each curve goes with one hash.
#[test]
fn keys_and_certificates_of_p384() {
    use crate::model::manifest::Outcome::Changed;
    let folder = Folder::new();
    let payload = payload(&folder.digests());
    let (own, small, root) = (key384(1), key(1), key384(3));
    let by_key = |public: &[u8], bundle: serde_json::Value| {
        let public = folder.put("own.pub", &pem("PUBLIC KEY", public));
        let trust = Trust { key: Some(&public), ..Trust::default() };
        folder.check("model", &bundle.to_string(), trust).unwrap()
    };
    let report = by_key(&spki(&own), bundle(&payload, &own, hint()));
    assert_eq!((report.exit_code(), report.checked.len()), (0, 4), "{report:?}");
    for (what, public, signed) in [
        ("another key", spki(&key384(2)), bundle(&payload, &own, hint())),
        ("a key of P-256", spki(&small), bundle(&payload, &own, hint())),
        ("a signature of P-256", spki(&own), bundle(&payload, &small, hint())),
        ("the hash of P-256", spki(&own), bundle(&payload, &Halved(key384(1)), hint())),
    ] {
        assert_eq!(outcomes(&by_key(&public, signed)), [("signature", Changed)], "{what}");
    }
    // A point of one curve under the name of the other.
    let mut renamed = spki(&small);
    let at = renamed.windows(8).position(|window| window == SigningKey::CURVE).unwrap();
    renamed.splice(at - 1..at + 8, [5].into_iter().chain(p384::ecdsa::SigningKey::CURVE.iter().copied()));
    let end = renamed.len() as u8;
    (renamed[1], renamed[3]) = (end - 2, renamed[3] - 3);
    assert_eq!(Key::from_der(&renamed).unwrap_err(), "the public key is no point of P-384");

    let root_certificate = certificate(&ROOT, &root, &root);
    let roots = folder.put("roots.pem", &pem("CERTIFICATE", &root_certificate));
    let trust = Trust { roots: Some(&roots), ..Trust::default() };
    let check = |certificate: Vec<u8>, signed: serde_json::Value| {
        let mut signed = signed;
        signed["verificationMaterial"] = chain(&[certificate]);
        folder.check("model", &signed.to_string(), trust).unwrap().exit_code()
    };
    assert_eq!(check(certificate(&LEAF, &own, &root), bundle(&payload, &own, hint())), 0);
    // A signer of the smaller curve below a root of the larger.
    assert_eq!(check(certificate(&LEAF, &small, &root), bundle(&payload, &small, hint())), 0);
    assert_eq!(check(certificate(&LEAF, &own, &key384(4)), bundle(&payload, &own, hint())), 1, "a stranger");
    let halved = certificate(&LEAF, &own, &Halved(key384(3)));
    assert_eq!(check(halved, bundle(&payload, &own, hint())), 1, "the hash of the other curve");
    let misnamed = certificate(&LEAF, &own, &Misnamed(key384(3)));
    assert_eq!(check(misnamed, bundle(&payload, &own, hint())), 1, "the name of the other hash");
}

/// Signatures that the reference implementation made, of shards and below a certificate.
#[test]
fn signatures_of_the_reference_implementation() {
    use crate::model::manifest::Outcome::{Changed, Extra, Missing};
    // Certificates of the day they were made on.
    const NOW: i64 = 1_800_000_000;
    let made: serde_json::Value = serde_json::from_str(include_str!("peer.json")).unwrap();
    let folder = Folder::new();
    let model = folder.path("peer");
    let put = |name: &str, bytes: &[u8]| fs::write(model.join(name), bytes).unwrap();
    let restore = || {
        let _ = fs::remove_dir_all(&model);
        fs::create_dir(&model).unwrap();
        put("weights.bin", &(0..300u32).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>());
        put("config.json", b"{\"hidden_size\": 64}\n");
        put("a b.txt", &[b'x'; 128]);
    };
    let mut inspection = folder.inspection("model/m.gguf");
    inspection.path.clone_from(&model);
    let public = folder.put("own.pub", made["key"].as_str().unwrap());
    let roots = folder.put("roots.pem", made["roots"].as_str().unwrap());
    let text = made["shards"].to_string();
    let signature = folder.put("model.sig", &text);
    let by_key = || {
        let trust = Trust { key: Some(&public), roots: None, now: NOW };
        check(&text, &signature, trust, &inspection).unwrap()
    };
    restore();
    let report = by_key();
    assert_eq!((report.exit_code(), report.checked.len()), (0, 7), "{report:?}");
    let trust = Trust { key: None, roots: Some(&roots), now: NOW };
    let report = check(&made["certificate"].to_string(), &signature, trust, &inspection).unwrap();
    assert_eq!((report.exit_code(), report.checked.len()), (0, 5), "{report:?}");

    // One byte changes one shard, which is named with its file.
    let mut weights = fs::read(model.join("weights.bin")).unwrap();
    weights[130] ^= 1;
    put("weights.bin", &weights);
    let report = by_key();
    assert_eq!((outcomes(&report), report.exit_code()), (vec![("weights.bin:128:256", Changed)], 1));
    weights[130] ^= 1;
    // Bytes that follow the last shard, or are not there.
    weights.push(0);
    put("weights.bin", &weights);
    assert_eq!(outcomes(&by_key()), [("weights.bin", Changed)], "a byte too many");
    put("weights.bin", &weights[..299]);
    assert_eq!(outcomes(&by_key()), [("weights.bin:256:300", Missing)], "a byte too few");
    restore();
    fs::remove_file(model.join("config.json")).unwrap();
    put("more.txt", b"");
    assert_eq!(outcomes(&by_key()), [("config.json:0:20", Missing), ("more.txt", Extra)]);
}

/// Lists of shards, properly signed, that do not say what every byte of a file must be.
#[test]
fn shards_that_cannot_be_judged() {
    let folder = Folder::new();
    fs::write(folder.path("model/README.md"), b"0123456789").unwrap();
    let own = key(1);
    let public = folder.put("own.pub", &pem("PUBLIC KEY", &spki(&own)));
    let trust = Trust { key: Some(&public), ..Trust::default() };
    // Names of shards of the ten bytes, with their true digests.
    let check = |names: &[&str], edit: &dyn Fn(&mut serde_json::Value)| {
        let digest = |name: &str| {
            let mut numbers = name.split(':').skip(1).filter_map(|number| number.parse().ok());
            let (from, to) = (numbers.next().unwrap_or(0usize), numbers.next().unwrap_or(0));
            sha256(b"0123456789".get(from..to).unwrap_or_default()).0
        };
        let all: Vec<[u8; 32]> = names.iter().map(|name| digest(name)).collect();
        let resources: Vec<_> = (names.iter().zip(&all))
            .map(|(name, digest)| {
                let digest = crate::domain::digest::hex(digest);
                serde_json::json!({"name": name, "algorithm": "sha256-sharded-4", "digest": digest})
            })
            .collect();
        let parts: Vec<&[u8]> = all.iter().map(<[u8; 32]>::as_slice).collect();
        let mut payload = payload(&folder.digests());
        payload["subject"][0]["digest"]["sha256"] = sha256_parts(&parts).to_string().into();
        let ignored = ["m.gguf", "model.sig"];
        payload["predicate"] = serde_json::json!({
            "serialization": {"method": "shards", "shard_size": 4.0, "ignore_paths": ignored},
            "resources": resources,
        });
        edit(&mut payload);
        folder.check("model", &bundle(&payload, &own, hint()).to_string(), trust).unwrap().exit_code()
    };
    let whole = ["README.md:0:4", "README.md:4:8", "README.md:8:10"];
    let as_is = |_: &mut serde_json::Value| {};
    assert_eq!(check(&whole, &as_is), 0);
    assert_eq!(check(&whole, &|p| p["predicate"]["serialization"]["shard_size"] = 4.into()), 0, "no point");
    assert_eq!(check(&whole[..2], &as_is), 1, "the end is not signed");
    for (what, names) in [
        ("a gap", vec!["README.md:0:4", "README.md:8:10"]),
        ("the beginning is missing", vec!["README.md:4:8", "README.md:8:10"]),
        ("twice", vec!["README.md:0:4", "README.md:0:4", "README.md:4:8", "README.md:8:10"]),
        ("out of order", vec!["README.md:4:8", "README.md:0:4", "README.md:8:10"]),
        ("longer than a shard", vec!["README.md:0:8", "README.md:8:10"]),
        ("backwards", vec!["README.md:4:0"]),
        ("no range", vec!["README.md"]),
        ("no number", vec!["README.md:0:x"]),
        ("leads out", vec!["../README.md:0:4"]),
    ] {
        assert_ne!(check(&names, &as_is), 0, "{what}");
    }
    for size in
        [0.0, -4.0, 4.5, 1e300].map(serde_json::Value::from).into_iter().chain([serde_json::Value::Null])
    {
        let resized = |p: &mut serde_json::Value| {
            p["predicate"]["serialization"]["shard_size"] = size.clone();
            for resource in p["predicate"]["resources"].as_array_mut().unwrap() {
                resource["algorithm"] = "sha256".into();
            }
        };
        assert_eq!(check(&whole, &resized), 4, "{size}");
    }
    let other = |p: &mut serde_json::Value| {
        p["predicate"]["resources"][1]["algorithm"] = "sha256-sharded-8".into();
    };
    assert_eq!(check(&whole, &other), 4, "shards of another size");
}
