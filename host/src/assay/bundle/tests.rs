//! The container alone: what is written is read, and every damaged byte is in the place named.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::container::*;
use super::write::BundleWriter;
use crate::assay::AssayRequest;
use crate::assay::draft::Draft;
use crate::digest::SigningKey;
use crate::domain::Sha256;
use crate::domain::modes::MODES;
use crate::plugin::PluginSet;

const BODIES: [(Section, &[u8]); 6] = [
    (Section::Evidence, b"first"),
    (Section::Evidence, b""),
    (Section::Plugin, b"component"),
    (Section::Transcript, b"{}"),
    (Section::Transcript, b"[]"),
    (Section::Report, b"report"),
];

fn write(folder: &Path, signer: Option<&SigningKey>) -> PathBuf {
    let path = folder.join("bundle");
    let mut file = File::create(&path).unwrap();
    file.write_all(MAGIC).unwrap();
    let digests: Vec<_> =
        BODIES.iter().map(|(section, body)| write_record(&mut file, *section, body).unwrap()).collect();
    write_record(&mut file, Section::Seal, &seal_body(&digests, signer)).unwrap();
    path
}

fn read(path: &Path) -> Result<Scanned, Fault> {
    scan(path, &mut |_, _| {})
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::from_seed(&[7; 32]);
    for signer in [None, Some(&key)] {
        let mut scanned = read(&write(folder.path(), signer)).unwrap();
        let found: Vec<(Section, u64, Vec<u8>)> = scanned
            .entries
            .clone()
            .iter()
            .map(|entry| (entry.section, entry.record, scanned.body(entry).unwrap()))
            .collect();
        let expected: Vec<(Section, u64, Vec<u8>)> = BODIES
            .iter()
            .zip([0, 1, 0, 0, 1, 0])
            .map(|((section, body), record)| (*section, record, body.to_vec()))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(scanned.check_signature().unwrap(), signer.map(SigningKey::public));
    }
}

/// An attempt that counts for nothing leaves no trace behind, and what it shared with the next
/// attempt is kept for that.
#[test]
fn what_is_rewound_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle");
    let writer = BundleWriter::create(&path, 1 << 20).unwrap();
    let put = |name: u8, body: &[u8]| writer.trace(&Sha256([name; 32]), body);
    put(1, b"calibration");
    let mark = writer.mark();
    put(2, b"first attempt");
    put(3, b"both");
    writer.rewind(mark);
    put(3, b"both");
    put(1, b"calibration");
    let report = Draft::new(&AssayRequest::new(Path::new("x"), None), &MODES[1].params).report;
    writer.finish(&report, &PluginSet::builtin().unwrap(), None).unwrap();
    let mut scanned = read(&path).unwrap();
    let traces: Vec<_> = scanned.section(Section::Evidence).cloned().collect();
    let bodies: Vec<_> = traces.iter().map(|entry| scanned.body(entry).unwrap()).collect();
    assert_eq!(bodies, [&b"calibration"[..], b"both"]);
}

/// Every bit pattern of every byte, and every length of the file.
#[test]
fn every_damage_is_found_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), Some(&SigningKey::from_seed(&[7; 32])));
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            std::fs::write(&path, &damaged).unwrap();
            match read(&path).unwrap_err() {
                Fault::Mismatch(place) => {
                    let named = place.offset..place.end;
                    assert!(named.contains(&(at as u64)), "byte {at} ^ {flip:#x}: {place:?}");
                }
                Fault::CannotJudge(problem) => {
                    assert!(
                        at < MAGIC.len() && problem.message.contains(&format!("byte {at} ")),
                        "{at} {problem}"
                    );
                }
            }
        }
        std::fs::write(&path, &whole[..at]).unwrap();
        match read(&path).unwrap_err() {
            Fault::Mismatch(place) => {
                assert!(place.what.contains(&format!("ends at byte {at}")), "cut at {at}: {place:?}");
                assert!(place.offset <= at as u64 && place.end >= at as u64, "cut at {at}: {place:?}");
            }
            Fault::CannotJudge(_) => assert!(at < MAGIC.len()),
        }
    }
    std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    let Err(Fault::Mismatch(place)) = read(&path) else { panic!("a byte too many") };
    assert_eq!((place.offset, place.end), (whole.len() as u64, whole.len() as u64 + 1));
}

/// A length far beyond the file's is refused before anything of it is allocated or read.
#[test]
fn lengths_are_checked_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), None);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[MAGIC.len() + 1..MAGIC.len() + 5].copy_from_slice(&u32::MAX.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let Err(Fault::Mismatch(place)) = read(&path) else { panic!("taken") };
    assert_eq!((place.section, place.record, place.offset), (Some(Section::Evidence), 0, 17));
    assert!(place.what.contains("at most"), "{}", place.what);
    let mut file = File::create(&path).unwrap();
    assert!(write_record(&mut file, Section::Seal, &[0; 200]).is_err(), "no reader would take it");
    assert!(read(folder.path()).is_err() && read(&folder.path().join("none")).is_err());
}

/// Records whose digests are right, in the wrong order or under the wrong seal.
#[test]
fn a_seal_is_for_its_records_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle");
    let build = |bodies: &[(Section, &[u8])], sealed: &[(Section, &[u8])]| {
        let mut other = File::create(folder.path().join("other")).unwrap();
        let digests: Vec<_> =
            sealed.iter().map(|(s, body)| write_record(&mut other, *s, body).unwrap()).collect();
        let mut file = File::create(&path).unwrap();
        file.write_all(MAGIC).unwrap();
        for (section, body) in bodies {
            write_record(&mut file, *section, body).unwrap();
        }
        write_record(&mut file, Section::Seal, &seal_body(&digests, None)).unwrap();
        read(&path)
    };
    assert!(build(&BODIES, &BODIES).is_ok());
    for sealed in [&BODIES[..5], &BODIES[1..]] {
        let Err(Fault::Mismatch(place)) = build(&BODIES, sealed) else { panic!("another seal") };
        assert_eq!((place.section, place.end), (Some(Section::Seal), place.offset + 1));
    }
    let mut turned = BODIES;
    turned.swap(0, 2);
    let Err(Fault::Mismatch(place)) = build(&turned, &turned) else { panic!("another order") };
    assert!(place.what.contains("after the plugin section"), "{}", place.what);
}
