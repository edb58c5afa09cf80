//! Lists of digests and signatures. The first byte chooses: any list; a statement that was truly
//! signed, so that a fuzzer gets past the signature; certificates that nobody signed; a key.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use assayd_fuzz::domain::inspection::Inspection;
use assayd_fuzz::model::gguf::{
    GgmlType,
    write::{TensorData, write_file},
};
use assayd_fuzz::model::manifest::List;
use assayd_fuzz::model::signature::{self, Trust};
use assayd_fuzz::model::{InspectOptions, inspect};
use libfuzzer_sys::fuzz_target;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{EncodePublicKey as _, LineEnding};
use sigstore_verify::types::encoding::{KeyId, PayloadBytes};
use sigstore_verify::types::{DsseEnvelope, DsseSignature, SignatureBytes};

const PAYLOAD: &str = "application/vnd.in-toto+json";

/// What lists are compared with, and a key pair.
struct World {
    _folder: tempfile::TempDir,
    root: PathBuf,
    model: Inspection,
    key: SigningKey,
    public: PathBuf,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    std::fs::create_dir(root.join("model")).unwrap();
    let tensor = TensorData { name: "t", kind: GgmlType::F32, shape: &[64], data: &[1; 256] };
    write_file(&root.join("model/m.gguf"), &[], &[tensor]).unwrap();
    std::fs::write(root.join("model/README.md"), "read me").unwrap();
    let options = InspectOptions { full: true };
    let mut model = inspect(&root.join("model/m.gguf"), &options, &mut |_, _| {}).unwrap();
    // Signatures are of whole folders.
    model.path = root.join("model");
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    let public = root.join("key.pub");
    std::fs::write(&public, key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap()).unwrap();
    World { _folder: folder, root, model, key, public }
});

fn bundle(payload: &[u8], material: serde_json::Value) -> String {
    let pae = sigstore_verify::types::pae(PAYLOAD, payload);
    let signature: Signature = WORLD.key.sign(&pae);
    let signature =
        DsseSignature::new(SignatureBytes::new(signature.to_der().as_bytes().to_vec()), KeyId::new(""));
    serde_json::json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": material,
        "dsseEnvelope": DsseEnvelope::new(PAYLOAD, PayloadBytes::new(payload.to_vec()), signature),
    })
    .to_string()
}

fn check(text: &str, trust: Trust<'_>) {
    if let Ok(report) = signature::check(text, &WORLD.root.join("model.sig"), trust, &WORLD.model) {
        assert!(report.exit_code() != 0 || report.checked.len() > 1, "nothing was checked, and all is well");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((way, bytes)) = bytes.split_first() else { return };
    let file = WORLD.root.join("pem");
    let own = Trust { key: Some(&WORLD.public), ..Trust::default() };
    let roots = Trust { roots: Some(&file), now: 1_782_864_000, ..Trust::default() };
    let hint = serde_json::json!({"publicKey": {"hint": "x"}, "tlogEntries": []});
    match way % 4 {
        0 => {
            let Ok(list) = String::from_utf8(bytes.to_vec())
                .map_err(drop)
                .and_then(|text| List::parse(text).map_err(drop))
            else {
                return;
            };
            let _ = list.kinds();
            match list {
                List::Digests(list) => drop(list.check(&WORLD.root.join("list"), &WORLD.model)),
                List::Registry(list) => drop(list.check(&WORLD.model)),
                List::Formats(list) => drop(list.check(&WORLD.model)),
                List::Signature(text) => check(&text, own),
            }
        }
        1 => check(&bundle(bytes, hint), own),
        2 => {
            // The last of the certificates is the root that is trusted.
            let (mut rest, mut certificates) = (bytes, Vec::new());
            while let Some((&[low, high], after)) = rest.split_first_chunk() {
                let length = usize::from(u16::from_le_bytes([low, high]));
                let (der, after) = after.split_at(length.min(after.len()));
                certificates.push(SignatureBytes::new(der.to_vec()).to_base64());
                rest = after;
            }
            let root = certificates.last().cloned().unwrap_or_default();
            let pem = format!("-----BEGIN CERTIFICATE-----\n{root}\n-----END CERTIFICATE-----\n");
            std::fs::write(&file, pem).unwrap();
            let list: Vec<_> = certificates.iter().map(|der| serde_json::json!({"rawBytes": der})).collect();
            let chain =
                serde_json::json!({"x509CertificateChain": {"certificates": list}, "tlogEntries": []});
            check(&bundle(b"{}", chain), roots);
        }
        _ => {
            let der = SignatureBytes::new(bytes.to_vec()).to_base64();
            std::fs::write(&file, format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n"))
                .unwrap();
            check(&bundle(b"{}", hint), Trust { key: Some(&file), ..Trust::default() });
        }
    }
});
