//! safetensors headers; what is read without a complaint is laid out soundly.
#![no_main]

use assayd_fuzz::model::finding::Findings;
use assayd_fuzz::model::safetensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut findings = Findings::default();
    let Ok(Some(header)) = safetensors::read(&bytes, &mut findings) else { return };
    if findings.has_errors() {
        return;
    }
    let mut end = header.data_offset;
    for tensor in &header.tensors {
        assert_eq!(tensor.offset, end);
        end += tensor.bytes;
    }
    assert_eq!(end, bytes.len() as u64);
});
