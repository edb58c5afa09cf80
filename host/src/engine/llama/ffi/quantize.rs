//! llama.cpp's quantiser of files, and ggml's of rows.

use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering;

use llama_cpp_sys_2 as sys;

use super::{TICKS, backend, take_log};

/// Writes a copy of a model; each override is an expression for names, and a type's id.
pub fn file(source: &CStr, target: &CStr, overrides: &[(CString, u32)], threads: u32) -> Result<(), String> {
    backend()?;
    take_log();
    let entry = |pattern, type_| sys::llama_model_tensor_override { pattern, type_ };
    let list = overrides.iter().map(|(pattern, id)| entry(pattern.as_ptr(), *id));
    let list: Vec<_> = list.chain([entry(std::ptr::null(), sys::GGML_TYPE_COUNT)]).collect();
    // SAFETY: takes nothing and returns plain data.
    let mut raw = unsafe { sys::llama_model_quantize_default_params() };
    raw.nthread = i32::try_from(threads).map_err(|_| "too many threads".to_owned())?;
    // Overrides count only beside a quantised default; every tensor's type is overridden.
    raw.ftype = sys::LLAMA_FTYPE_MOSTLY_Q8_0;
    raw.allow_requantize = true;
    raw.tt_overrides = list.as_ptr();
    // SAFETY: both paths, the patterns and the list, which ends with a null pattern, live
    // across the call; llama.cpp turns its own exceptions into the status.
    let status = unsafe { sys::llama_model_quantize(source.as_ptr(), target.as_ptr(), &raw) };
    if status == 0 { Ok(()) } else { Err(take_log()) }
}

/// Rows of weights in a block type, by ggml's own quantiser. `importance` has a number for every
/// column.
///
/// # Errors
/// The lengths do not fit together, or the quantiser cannot do it, with the reason.
pub fn rows(id: u32, columns: usize, values: &[f32], importance: Option<&[f32]>) -> Result<Vec<u8>, String> {
    let bad = |what: &str| Err(what.to_owned());
    if id >= sys::GGML_TYPE_COUNT {
        return bad("no such type");
    }
    // SAFETY: it is the id of a type, and both only read tables.
    let (block, needs) = unsafe { (sys::ggml_blck_size(id), sys::ggml_quantize_requires_imatrix(id)) };
    let block = usize::try_from(block).unwrap_or(0);
    if block == 0 || columns == 0 || !columns.is_multiple_of(block) || !values.len().is_multiple_of(columns) {
        return bad("the weights are not whole blocks and rows");
    }
    if importance.is_some_and(|list| list.len() != columns) || needs && importance.is_none() {
        return bad("it takes the importance of every column");
    }
    let rows = values.len() / columns;
    let (Ok(wide), Ok(high)) = (i64::try_from(columns), i64::try_from(rows)) else {
        return bad("too many weights");
    };
    // SAFETY: as above; the columns are whole blocks.
    let row_bytes = unsafe { sys::ggml_row_size(id, wide) };
    let mut bytes = vec![0u8; row_bytes.saturating_mul(rows)];
    let weights = importance.map_or(std::ptr::null(), <[f32]>::as_ptr);
    // SAFETY: `values` has `rows * columns` numbers, `bytes` room for as many rows of that type, and
    // `weights` is null or has a number for every column; all live across the call.
    let written = unsafe {
        sys::ggml_quantize_chunk(id, values.as_ptr(), bytes.as_mut_ptr().cast(), 0, high, wide, weights)
    };
    // Counted as a step: nothing else tells that the quantiser goes on.
    TICKS.fetch_add(1, Ordering::Relaxed);
    if written == bytes.len() { Ok(bytes) } else { bad("the quantiser wrote less than whole rows") }
}
