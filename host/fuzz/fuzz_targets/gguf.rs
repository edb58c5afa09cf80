//! GGUF headers: read, judged, hashed; what is read strictly is laid out soundly.
#![no_main]

use assayd_fuzz::model::consistency::{self, Model};
use assayd_fuzz::model::finding::Findings;
use assayd_fuzz::model::{facts, gguf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok((header, _)) = gguf::read(&bytes) else { return };
    let model = Model::single(&header);
    let mut findings = Findings::default();
    consistency::check(&model, &mut findings);
    let _ = facts::quantization(&model);
    let _ = facts::config_hash(&header.metadata);
    let _ = facts::tokenizer_hash(&header.metadata);
    let _ = facts::parameters(&model);
    let _ = assayd_fuzz::model::scan::weights_of(&header, bytes.len() as u64);
    if gguf::read_strict(&bytes).is_ok() {
        let mut end = header.data_offset;
        for tensor in &header.tensors {
            assert_eq!(tensor.offset, end.next_multiple_of(header.alignment));
            end = tensor.offset + tensor.bytes;
            assert!(end <= bytes.len() as u64);
        }
    }
});
