//! OpenSSF model signatures (OMS 1.0, `model.sig`): a list of files and their digests in an
//! in-toto statement, signed as a DSSE envelope in a sigstore bundle of version 0.3. Offline:
//! the key or the roots are those that the user names, and nothing is fetched. Files are signed
//! whole, or in shards of a size that the signer chose.
//!
//! Deliberately absent: signatures that rest on a transparency log or a time stamp (they
//! need keys of a service), digests other than SHA-256, and any trust in a key that comes with
//! the signature.

mod chain;
mod der;
mod key;
mod statement;

use std::fs;
use std::io::Read as _;
use std::path::Path;

use sigstore_verify::types::bundle::VerificationMaterialContent;
use sigstore_verify::types::{Bundle, DerCertificate, DerPublicKey, DsseEnvelope, SignatureContent};

use super::manifest::{Report, What};
use crate::domain::inspection::Inspection;
use crate::domain::{Problem, ProblemKind, budget};
use chain::{Broken, Certificate};
use key::Key;

/// The only version whose rules are implemented.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD: &str = "application/vnd.in-toto+json";

/// What the user trusts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust<'a> {
    /// A file with a public key (PEM).
    pub key: Option<&'a Path>,
    /// A file with root certificates (PEM).
    pub roots: Option<&'a Path>,
    /// Seconds since 1970.
    pub now: i64,
}

/// Verifies a signature and compares the artifact with what was signed. `signature` is the
/// file that `text` was read from, which nobody can sign.
///
/// # Errors
/// The signature or a key cannot be read, no key was named, or a file cannot be read.
pub fn check(
    text: &str,
    signature: &Path,
    trust: Trust<'_>,
    inspection: &Inspection,
) -> Result<Report, Problem> {
    let bad = |why: String| Problem::input(format!("{}: {why}", signature.display()));
    let bundle =
        Bundle::from_json(text).map_err(|error| bad(format!("it is no sigstore bundle: {error}")))?;
    if bundle.media_type.as_str() != BUNDLE {
        return Err(bad(format!("it is of the version {}, not {BUNDLE}", bundle.media_type)));
    }
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err(bad("it signs a message; a model's signature is a DSSE envelope".to_owned()));
    };
    let mut report = Report::default();
    let sure = match verify(&bundle.verification_material.content, envelope, trust)? {
        Ok(()) => true,
        Err(Broken::Untrusted(why)) => {
            report.digest((What::Signature, "signature"), &why, Some("valid".into()), Some("invalid".into()));
            false
        }
        Err(Broken::Unknown(why)) => {
            report.unchecked.push(format!("the signature: {why}"));
            false
        }
    };
    // What nobody vouches for is not even looked at.
    if sure {
        let valid = Some("valid".to_owned());
        report.digest((What::Signature, "signature"), "dsse", valid.clone(), valid);
        if envelope.payload_type != PAYLOAD {
            report.unchecked.push(format!("what was signed is of the type {}", envelope.payload_type));
        } else {
            statement::check(envelope.payload.as_bytes(), signature, inspection, &mut report)?;
        }
    }
    Ok(report)
}

fn verify(
    material: &VerificationMaterialContent,
    envelope: &DsseEnvelope,
    trust: Trust<'_>,
) -> Result<Result<(), Broken>, Problem> {
    let signed = |key: &Key| {
        let valid = key.verifies(&envelope.pae(), envelope.signature.sig.as_bytes());
        valid.then_some(()).ok_or_else(|| Broken::Untrusted("the key did not make this signature".to_owned()))
    };
    if let Some(path) = trust.key {
        let pem = pem(path)?;
        let key = DerPublicKey::from_pem(&pem)
            .map_err(|error| Problem::input(format!("{}: {error}", path.display())))?;
        return Ok(Key::from_der(key.as_bytes()).map_err(Broken::Unknown).and_then(|key| signed(&key)));
    }
    let Some(path) = trust.roots else {
        return Err(Problem::new(
            ProblemKind::Usage,
            "a signature proves nothing without a key that you trust",
        )
        .hint("name the signer's public key with --key, or root certificates with --roots"));
    };
    let roots = certificates(path)?;
    let roots: Vec<Certificate<'_>> =
        roots.iter().filter_map(|root| Certificate::parse(root.as_bytes())).collect();
    if roots.is_empty() {
        return Err(Problem::input(format!("{} holds no certificate", path.display())));
    }
    let brought: Vec<&DerCertificate> = match material {
        VerificationMaterialContent::Certificate(certificate) => vec![&certificate.raw_bytes],
        VerificationMaterialContent::X509CertificateChain { certificates } => {
            certificates.iter().map(|certificate| &certificate.raw_bytes).collect()
        }
        _ => Vec::new(),
    };
    let chain: Option<Vec<Certificate<'_>>> =
        brought.iter().map(|certificate| Certificate::parse(certificate.as_bytes())).collect();
    let Some(chain) = chain else {
        return Ok(Err(Broken::Untrusted("a certificate of the signature is damaged".to_owned())));
    };
    Ok(chain::trust(&chain, &roots, trust.now).and_then(|()| {
        let leaf = chain.first().ok_or_else(|| Broken::Unknown("there is no certificate".to_owned()))?;
        signed(&leaf.key().map_err(Broken::Unknown)?)
    }))
}

fn pem(path: &Path) -> Result<String, Problem> {
    let mut text = String::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(budget::KEY_PEM_BYTES).read_to_string(&mut text));
    read.map_err(|error| Problem::io("read", path, &error))?;
    Ok(text)
}

fn certificates(path: &Path) -> Result<Vec<DerCertificate>, Problem> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = pem(path)?;
    let blocks = text.split_inclusive(END).filter(|block| block.contains("-----BEGIN CERTIFICATE-----"));
    let parse = |block: &str| {
        DerCertificate::from_pem(block)
            .map_err(|error| Problem::input(format!("{}: {error}", path.display())))
    };
    blocks.map(parse).collect()
}

#[cfg(test)]
mod tests;
