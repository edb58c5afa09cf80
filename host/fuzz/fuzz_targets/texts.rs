//! The texts beside weights: configuration, tokenizer, anything that must be JSON; and documents.
#![no_main]

use assayd_fuzz::model::finding::Findings;
use assayd_fuzz::model::{canonical, document, folder, likeness, template};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut findings = Findings::default();
    let _ = document::check(&bytes, &mut findings);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(digest) = canonical::digest(text, &["version"]) {
        assert_eq!(canonical::digest(&format!(" {text}\n"), &["version"]).ok(), Some(digest));
    }
    if let Ok(config) = folder::Config::parse(text) {
        config.check("config.json", &mut findings);
        let _ = (config.packed(), config.hash());
    }
    if let Ok(tokenizer) = likeness::Tokenizer::parse(text.as_bytes()) {
        let _ = (tokenizer.last_trained(), tokenizer.last_added());
        let settings = serde_json::from_str(text).ok();
        let _ = likeness::tokenizer_hash(tokenizer, settings.as_ref(), settings.as_ref());
    }
    if let Ok(value) = serde_json::from_str(text) {
        for (name, source) in template::of_config(&value) {
            template::check(&name, &source, &mut findings);
        }
    }
});
