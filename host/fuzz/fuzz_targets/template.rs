//! Chat templates: every text is looked at in bounded time and depth.
#![no_main]

use assayd_fuzz::model::finding::Findings;
use assayd_fuzz::model::template;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut findings = Findings::default();
    template::check("default", &String::from_utf8_lossy(bytes), &mut findings);
    let _ = findings.finish();
});
