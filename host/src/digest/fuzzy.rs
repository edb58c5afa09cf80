//! TLSH (Oliver, Cheng and Chen, "TLSH - A Locality Sensitive Hash", 2013; the variant with
//! 128 buckets and a checksum of one byte): digests whose distance is small for similar
//! bytes. A distance is a hint for people, never evidence of where something comes from.

use std::fmt;

use tlsh2::{TlshDefault, TlshDefaultBuilder};

/// Distances up to this are those of local edits: damage, a truncation, a few bytes.
pub const LOCAL_EDITS: u32 = 30;

/// Bytes on their way to a digest.
pub struct TlshStream(TlshDefaultBuilder);

impl Default for TlshStream {
    fn default() -> Self {
        Self(TlshDefaultBuilder::new())
    }
}

impl fmt::Debug for TlshStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlshStream")
    }
}

impl TlshStream {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// `T1` and 70 hexadecimal digits; `None` for fewer than 50 bytes or too little variety.
    pub fn finish(self) -> Option<String> {
        let digest = self.0.build()?.hash();
        Some(String::from_utf8_lossy(&digest).into_owned())
    }
}

/// The distance of two digests, lengths included; `None` if one of them is no digest.
pub fn tlsh_distance(a: &str, b: &str) -> Option<u32> {
    let digest = |text: &str| text.parse::<TlshDefault>().ok();
    u32::try_from(digest(a)?.diff(&digest(b)?, true)).ok()
}

/// A distance as a share of likeness, for people: 1 for equal digests, 0 from 300 on, where
/// nothing is alike any more.
pub fn tlsh_similarity(distance: u32) -> f64 {
    1.0 - f64::from(distance.min(300)) / 300.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Option<String> {
        let mut stream = TlshStream::default();
        bytes.chunks(7).for_each(|piece| stream.update(piece));
        stream.finish()
    }

    const SMALL: &str = "T1F8A0220C0F8C0023CB880800CA33E88B8F0C022AB302C2008A030300300E8A00C83AAC";
    const SMALL2: &str = "T1C6A022A2E0008CC320C083A3E20AA888022A00000A0AB0088828022A0008A00022F22A";

    /// From the test data of the reference implementation (`example_data`, 128 buckets, one
    /// byte of checksum, with lengths).
    #[test]
    fn official_vectors() {
        assert_eq!(of(b"bfghjdbkfdj376t4en, i7e2w 8o\tq22we ,9wq12q ,32qTE$#!#$%^I&*\n").unwrap(), SMALL);
        let second = "'Type \"copyright\", \"credits\" or \"license\" for more information.\u{2019}\n";
        assert_eq!(of(second.as_bytes()).unwrap(), SMALL2);
        let alice = "T145D18407A78523B35A030267671FA2C2F725402973629B25545EB43C3356679477F7FC";
        let street = "T14221519BD71126276E6282B9668A6A81FF08C5293735431AA0CE50002B17DAE67FA7D4";
        let yossi = "T11FA1B357F78913B236924271569EA6D1FB2C451C33668484552C812D33138B8C73FFCE";
        for (a, b, distance) in [
            (SMALL, SMALL2, 221),
            (alice, street, 288),
            (yossi, SMALL, 473),
            (yossi, SMALL2, 455),
            (alice, SMALL, 496),
            (alice, SMALL2, 500),
            (alice, alice, 0),
        ] {
            assert_eq!(tlsh_distance(a, b), Some(distance));
            assert_eq!(tlsh_distance(b, a), Some(distance));
        }
    }

    #[test]
    fn what_has_no_digest_has_none() {
        assert_eq!(of(&[7; 49]), None, "too short");
        assert_eq!(of(&[0; 100_000]), None, "no variety");
        assert_eq!(tlsh_distance(SMALL, ""), None);
        assert_eq!(tlsh_distance(SMALL, "TNULL"), None);
        assert_eq!(tlsh_distance(&SMALL[2..], SMALL), None, "without its version");
        assert_eq!(tlsh_distance(SMALL, &SMALL.replace('F', "é")), None);
    }

    #[test]
    fn likeness_falls_with_distance() {
        assert_eq!(tlsh_similarity(0), 1.0);
        assert_eq!(tlsh_similarity(150), 0.5);
        assert_eq!(tlsh_similarity(4000), 0.0);
    }
}
