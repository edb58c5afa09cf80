//! Checksums of the members of an archive, worked out as its bytes come by.

use serde::{Deserialize, Serialize};

use crate::digest::crc32;
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};

/// Bytes of a file that have a checksum of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    pub name: String,
    pub offset: u64,
    pub bytes: u64,
    pub crc32: u32,
}

/// How far they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Checksums {
    /// The member whose end has not been seen.
    next: usize,
    /// Of its bytes so far.
    crc32: u32,
}

impl Checksums {
    /// Looks at the next bytes. `members` lie one behind the other.
    pub fn see(&mut self, members: &[Member], offset: u64, bytes: &[u8], findings: &mut Findings) {
        let end = offset + bytes.len() as u64;
        while let Some(member) = members.get(self.next).filter(|member| member.offset < end) {
            let member_end = member.offset + member.bytes;
            let place = |at: u64| usize::try_from(at.clamp(offset, end) - offset).unwrap_or(0);
            let part = bytes.get(place(member.offset)..place(member_end)).unwrap_or_default();
            self.crc32 = crc32(self.crc32, part);
            if member_end > end {
                return;
            }
            if std::mem::take(&mut self.crc32) != member.crc32 {
                let message =
                    format!("the bytes of {} do not have the checksum that the archive gives", member.name);
                let offset = Some(member.offset);
                findings.push(Finding { offset, ..Code::ArchiveInconsistent.finding(message) });
            }
            self.next += 1;
        }
    }
}
