//! Pickles and the archives that hold them, followed without being run.
#![no_main]

use assayd_fuzz::model::finding::Findings;
use assayd_fuzz::model::pickle;
use assayd_fuzz::model::sniff::sniff;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(content) = sniff(&bytes, 0) else { return };
    let mut findings = Findings::default();
    let _ = pickle::check(&bytes, content, &mut findings);
});
