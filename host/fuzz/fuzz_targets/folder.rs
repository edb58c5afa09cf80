//! Folders as they are downloaded: texts, headers and weights of any content under the names that
//! are read, wholly looked through; and two of them compared.
#![no_main]

use std::fs;
use std::path::Path;

use assayd_fuzz::model::{self, InspectOptions, likeness, lineage};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 16] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "m-00001-of-00002.gguf",
    "m-00002-of-00002.gguf",
    "README.md",
];

fuzz_target!(|bytes: &[u8]| {
    let [one, other] = [(), ()].map(|()| tempfile::tempdir().unwrap());
    // Of each file the number (and the folder), the length and the content.
    let mut rest = bytes;
    while let Some((&[number, low, high], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let (content, after) = after.split_at(length.min(after.len()));
        let folder = if number & 0x80 == 0 { &one } else { &other };
        fs::write(folder.path().join(NAMES[usize::from(number) % NAMES.len()]), content).unwrap();
        rest = after;
    }
    look(one.path());
    if look(other.path()) {
        let pair = (one.path(), other.path());
        let _ = likeness::compare(pair.0, pair.1);
        let _ = lineage::compare(pair.0, pair.1, None, &mut |done, all| assert!(done <= all));
    }
});

/// Is there something in it?
fn look(folder: &Path) -> bool {
    let found = model::discover(folder).unwrap();
    for artifact in &found.artifacts {
        let _ = model::inspect(&artifact.path, &InspectOptions { full: true }, &mut |_, _| {});
    }
    let _ = model::inspect(folder, &InspectOptions { full: false }, &mut |_, _| {});
    !found.artifacts.is_empty()
}
