//! Just enough DER (X.690) to take certificates and keys apart. Every length is checked
//! against what is there, nothing is copied, and nothing is understood that is not needed.

/// Tags, class and number in one byte.
pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OID: u8 = 0x06;
pub const UTC_TIME: u8 = 0x17;
pub const GENERAL_TIME: u8 = 0x18;
pub const SEQUENCE: u8 = 0x30;

/// One value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    /// With tag and length.
    pub whole: &'a [u8],
}

/// Values one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next value; `None` at the end and where there is no well-formed one.
    pub fn any(&mut self) -> Option<Value<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        // Numbers above 30 take further bytes; certificates have none.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (digits.iter().fold(0usize, |length, &digit| length << 8 | usize::from(digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Value { tag, content, whole })
    }

    /// The next value, which must have this tag.
    pub fn expect(&mut self, tag: u8) -> Option<Value<'a>> {
        self.any().filter(|value| value.tag == tag)
    }

    /// The next value, if it has this tag; else nothing is taken.
    pub fn optional(&mut self, tag: u8) -> Option<Value<'a>> {
        let mut ahead = *self;
        let value = ahead.expect(tag)?;
        *self = ahead;
        Some(value)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> Value<'a> {
    pub fn inside(&self) -> Reader<'a> {
        Reader(self.content)
    }

    /// The bits of a bit string of whole bytes.
    pub fn bits(&self) -> Option<&'a [u8]> {
        match self.content.split_first()? {
            (0, bits) if self.tag == BIT_STRING => Some(bits),
            _ => None,
        }
    }
}

/// The only value of `bytes`, with this tag.
pub fn only(bytes: &[u8], tag: u8) -> Option<Value<'_>> {
    let mut reader = Reader(bytes);
    let value = reader.expect(tag)?;
    reader.is_empty().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_refusals() {
        let mut reader = Reader(&[0x02, 0x01, 0x05, 0x04, 0x81, 0x02, 0xaa, 0xbb, 0x05, 0x00]);
        assert_eq!(reader.optional(OCTET_STRING), None);
        assert_eq!(reader.expect(INTEGER).unwrap().content, [5]);
        let text = reader.any().unwrap();
        assert_eq!((text.tag, text.content, text.whole.len()), (OCTET_STRING, [0xaa, 0xbb].as_slice(), 5));
        assert!(reader.any().unwrap().content.is_empty() && reader.is_empty());
        for bad in [
            &[0x30][..],
            &[0x30, 0x01],
            &[0x30, 0x80, 0x00, 0x00],
            &[0x30, 0x85, 1, 1, 1, 1, 1],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x1f, 0x01, 0x00],
            &[],
        ] {
            assert_eq!(Reader(bad).any(), None, "{bad:?}");
        }
        assert_eq!(only(&[0x02, 0x01, 0x05, 0x00], INTEGER), None, "something follows");
        assert_eq!(Value { tag: BIT_STRING, content: &[1, 0xff], whole: &[] }.bits(), None);
    }
}
