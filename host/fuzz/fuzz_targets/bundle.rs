//! Bundles: records of any section and length with true digests, so that a fuzzer gets past
//! them, then a seal over them or whatever the input holds; what is read is read again.
#![no_main]

use std::io::Write;

use assayd_fuzz::bundle::{MAGIC, Section, scan, seal_body, write_record};
use libfuzzer_sys::fuzz_target;

const SECTIONS: [Section; 5] =
    [Section::Evidence, Section::Plugin, Section::Transcript, Section::Report, Section::Seal];

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let out = file.as_file_mut();
    out.write_all(MAGIC).unwrap();
    let (mut rest, mut digests) = (bytes, Vec::new());
    while let Some((&[section, low, high], after)) = rest.split_first_chunk()
        && let Some(&section) = SECTIONS.get(usize::from(section))
        && let Some((body, after)) = after.split_at_checked(usize::from(u16::from_le_bytes([low, high])))
    {
        // Seals are short; the writer says so, too.
        let Ok(digest) = write_record(out, section, body) else { return };
        digests.push(digest);
        rest = after;
    }
    if rest.is_empty() {
        write_record(out, Section::Seal, &seal_body(&digests, None)).unwrap();
    } else {
        out.write_all(rest).unwrap();
    }
    let Ok(mut scanned) = scan(file.path(), &mut |done, all| assert!(done <= all)) else { return };
    assert!(scanned.check_signature().is_ok_and(|signer| signer.is_none()), "nothing was signed");
    let mut end = MAGIC.len() as u64;
    for entry in scanned.entries.clone() {
        assert_eq!(entry.span().start, end);
        end = entry.span().end;
        scanned.body(&entry).unwrap();
    }
    assert_eq!(scanned.seal.span(), end..scanned.bytes);
});
