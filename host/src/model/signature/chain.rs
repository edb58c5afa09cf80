//! Certificates, and the way from the one that signed to a root that the user named
//! (RFC 5280, section 6, without policies, name constraints and revocation: a critical
//! extension that is not understood makes a certificate useless).

use super::der::{
    self, BIT_STRING, BOOLEAN, GENERAL_TIME, INTEGER, OCTET_STRING, OID, Reader, SEQUENCE, UTC_TIME, Value,
};
use super::key::Key;
use crate::domain::budget;

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];
const ANY_USE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
/// Bits of the key usage, from the first.
const DIGITAL_SIGNATURE: u32 = 0;
const CERTIFICATE_SIGN: u32 = 5;
/// Signatures looked at in search of a way.
const STEPS: usize = 256;

/// Why there is no way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// It does not lead to a root, or a certificate must not do what it did.
    Untrusted(String),
    /// It could not be judged.
    Unknown(String),
}

/// A certificate, taken apart.
#[derive(Debug, Clone)]
pub struct Certificate<'a> {
    whole: &'a [u8],
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
    key: &'a [u8],
    /// Seconds since 1970.
    valid: (i64, i64),
    /// From the first bit on; `None` if nothing is said.
    usage: Option<Vec<bool>>,
    extended_usage: Option<Vec<&'a [u8]>>,
    authority: bool,
    /// Authorities that may stand between this one and the signer.
    below: Option<u64>,
    /// There is a critical extension that is not understood.
    strange: bool,
}

impl<'a> Certificate<'a> {
    /// `None` if it is damaged.
    pub fn parse(whole: &'a [u8]) -> Option<Self> {
        let mut certificate = der::only(whole, SEQUENCE)?.inside();
        let signed = certificate.expect(SEQUENCE)?;
        let algorithm = certificate.expect(SEQUENCE)?.inside().expect(OID)?.content;
        let signature = certificate.expect(BIT_STRING)?.bits()?;
        let mut fields = signed.inside();
        fields.optional(0xa0);
        fields.expect(INTEGER)?;
        // The algorithm stands inside and outside of what is signed.
        if fields.expect(SEQUENCE)?.inside().expect(OID)?.content != algorithm {
            return None;
        }
        let issuer = fields.expect(SEQUENCE)?.whole;
        let mut validity = fields.expect(SEQUENCE)?.inside();
        let valid = (seconds(validity.any()?)?, seconds(validity.any()?)?);
        let subject = fields.expect(SEQUENCE)?.whole;
        let key = fields.expect(SEQUENCE)?.whole;
        let mut out = Self {
            whole,
            signed: signed.whole,
            algorithm,
            signature,
            issuer,
            subject,
            key,
            valid,
            usage: None,
            extended_usage: None,
            authority: false,
            below: None,
            strange: false,
        };
        fields.optional(0x81);
        fields.optional(0x82);
        if let Some(extensions) = fields.optional(0xa3) {
            out.extensions(der::only(extensions.content, SEQUENCE)?.inside())?;
        }
        fields.is_empty().then_some(out)
    }

    fn extensions(&mut self, mut list: Reader<'a>) -> Option<()> {
        while !list.is_empty() {
            let mut extension = list.expect(SEQUENCE)?.inside();
            let oid = extension.expect(OID)?.content;
            let critical = extension.optional(BOOLEAN).is_some_and(|value| value.content != [0]);
            let value = extension.expect(OCTET_STRING)?.content;
            match oid {
                KEY_USAGE => {
                    let bits = der::only(value, BIT_STRING)?.content.get(1..)?;
                    let each = |byte: &u8| (0..8).map(|bit| byte << bit & 0x80 != 0).collect::<Vec<_>>();
                    self.usage = Some(bits.iter().flat_map(each).collect());
                }
                EXTENDED_KEY_USAGE => {
                    let mut uses = der::only(value, SEQUENCE)?.inside();
                    let mut found = Vec::new();
                    while !uses.is_empty() {
                        found.push(uses.expect(OID)?.content);
                    }
                    self.extended_usage = Some(found);
                }
                BASIC_CONSTRAINTS => {
                    let mut constraints = der::only(value, SEQUENCE)?.inside();
                    self.authority = constraints.optional(BOOLEAN).is_some_and(|value| value.content != [0]);
                    self.below = match constraints.optional(INTEGER) {
                        Some(number) if number.content.len() <= 4 => {
                            Some(number.content.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
                        }
                        Some(_) => return None,
                        None => None,
                    };
                }
                ALTERNATIVE_NAME => {}
                _ => self.strange |= critical,
            }
        }
        Some(())
    }

    /// Its public key.
    pub fn key(&self) -> Result<Key, String> {
        Key::from_der(self.key)
    }

    fn may(&self, bit: u32) -> Option<bool> {
        let usage = self.usage.as_ref()?;
        Some(usage.get(bit as usize).copied().unwrap_or(false))
    }

    /// May it sign what is no certificate?
    fn may_sign(&self) -> bool {
        let signs = self.may(DIGITAL_SIGNATURE);
        let code =
            self.extended_usage.as_ref().map(|uses| uses.contains(&CODE_SIGNING) || uses.contains(&ANY_USE));
        signs != Some(false) && code != Some(false) && (signs, code) != (None, None)
    }

    /// May it sign certificates that lead to a signer over `between` others?
    fn may_certify(&self, between: u64) -> bool {
        self.authority
            && self.may(CERTIFICATE_SIGN) != Some(false)
            && self.below.is_none_or(|most| between <= most)
    }

    fn signed_by(&self, other: &Self) -> Result<bool, String> {
        if self.issuer != other.subject {
            return Ok(false);
        }
        let key = other.key()?;
        Ok(key.goes_with(self.algorithm) && key.verifies(self.signed, self.signature))
    }
}

/// Finds a way from the first of `chain` to one of `roots` that is valid at `now` (seconds
/// since 1970) in every step.
///
/// # Errors
/// There is none.
pub fn trust(chain: &[Certificate<'_>], roots: &[Certificate<'_>], now: i64) -> Result<(), Broken> {
    let untrusted = |why: &str| Broken::Untrusted(why.to_owned());
    let leaf = chain.first().ok_or_else(|| untrusted("the signature brings no certificate"))?;
    if chain.len() > budget::CHAIN_CERTIFICATES {
        return Err(untrusted("the signature brings too many certificates"));
    }
    if !leaf.may_sign() {
        return Err(untrusted("the certificate must not be used to sign files"));
    }
    let mut search = Search { chain, roots, now, steps: STEPS, why: None };
    if search.go(leaf, 0) {
        return Ok(());
    }
    Err(search.why.unwrap_or_else(|| untrusted("the certificate does not lead to a root that was named")))
}

struct Search<'a> {
    chain: &'a [Certificate<'a>],
    roots: &'a [Certificate<'a>],
    now: i64,
    steps: usize,
    /// The best reason so far.
    why: Option<Broken>,
}

impl Search<'_> {
    /// Is there a way from `at`, which has `between` authorities below it?
    fn go(&mut self, at: &Certificate<'_>, between: u64) -> bool {
        if at.strange {
            self.why =
                Some(Broken::Unknown("a certificate makes a demand that is not understood".to_owned()));
            return false;
        }
        let (from, to) = at.valid;
        if self.now < from || self.now > to {
            let why = if self.now < from { "is not valid yet" } else { "has expired" };
            let why = format!("a certificate {why}, and nothing says when the signature was made");
            self.why = Some(Broken::Unknown(why));
            return false;
        }
        if self.roots.iter().any(|root| root.whole == at.whole) {
            return true;
        }
        let (roots, chain) = (self.roots, self.chain);
        for next in roots.iter().chain(chain.iter().skip(1)) {
            let Some(left) = self.steps.checked_sub(1) else { return false };
            self.steps = left;
            if next.whole == at.whole {
                continue;
            }
            match at.signed_by(next) {
                Ok(true) if next.may_certify(between) => {
                    if between < budget::CHAIN_CERTIFICATES as u64 && self.go(next, between + 1) {
                        return true;
                    }
                }
                Ok(true) => {
                    self.why =
                        Some(Broken::Untrusted("a certificate was issued by one that must not".to_owned()));
                }
                Ok(false) => {}
                Err(why) => self.why = Some(Broken::Unknown(why)),
            }
        }
        false
    }
}

/// Seconds since 1970 of a UTCTime (of 1950 to 2049) or a GeneralizedTime.
fn seconds(time: Value<'_>) -> Option<i64> {
    let text = std::str::from_utf8(time.content).ok()?.strip_suffix('Z')?;
    let (year, rest) = match (time.tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i16 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        (GENERAL_TIME, 14) => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let field = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let time =
        jiff::civil::DateTime::new(year, field(0)?, field(2)?, field(4)?, field(6)?, field(8)?, 0).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}
