//! The texts beside weights: configuration, tokenizer, anything that must be JSON.
#![no_main]

use assayd_fuzz::model::finding::Findings;
use assayd_fuzz::model::{canonical, folder, likeness, template};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut findings = Findings::default();
    if let Ok(digest) = canonical::digest(text, &["version"]) {
        assert_eq!(canonical::digest(&format!(" {text}\n"), &["version"]).ok(), Some(digest));
    }
    if let Ok(config) = folder::Config::parse(text) {
        config.check("config.json", &mut findings);
        let _ = config.packed();
    }
    if let Ok(tokenizer) = likeness::Tokenizer::parse(text) {
        let _ = tokenizer.last();
    }
    if let Ok(value) = serde_json::from_str(text) {
        for (name, source) in template::of_config(&value) {
            template::check(&name, &source, &mut findings);
        }
    }
});
