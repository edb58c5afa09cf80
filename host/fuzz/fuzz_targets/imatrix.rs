//! Importance matrices of both forms: the index, and every number it points to.
#![no_main]

use std::path::Path;

use assayd_fuzz::model::imatrix::Imatrix;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(read) = Imatrix::of_source(Path::new("imatrix"), bytes) else { return };
    for tensor in read.tensors() {
        if let Ok(importance) = read.of(tensor) {
            assert!(importance.is_some_and(|list| !list.is_empty() && list.len() * 4 <= bytes.len()));
        }
    }
});
