//! What lies around the tensors of a file and is none of them.

use std::io;

use super::Header;
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};
use crate::model::sniff::sniff;
use crate::model::source::{ReadAt, first_nonzero};

/// Bytes between the table and the data, and behind the last tensor.
pub fn around(source: &dyn ReadAt, header: &Header, findings: &mut Findings) -> io::Result<()> {
    let size = source.size();
    let padded = header.data_end.checked_next_multiple_of(header.alignment).unwrap_or(u64::MAX);
    for (from, to, place) in [
        (header.table_end, header.data_offset, "before the first tensor"),
        (header.data_end, padded, "behind the last tensor"),
    ] {
        if let Some(at) = first_nonzero(source, from, to.min(size))? {
            let finding = Code::NonzeroPadding.finding(format!("bytes {place} are not zero"));
            findings.push(Finding { offset: Some(at), ..finding });
        }
    }
    if size > padded {
        let content = sniff(source, padded)?;
        let message =
            format!("{} bytes follow the last tensor; they look like {}", size - padded, content.name());
        findings.push(Finding { offset: Some(padded), ..Code::TrailingBytes.finding(message) });
    }
    Ok(())
}
