//! What a context takes, by buffer type, through a small shim over llama.cpp's own accounting.
//!
//! The accounting is C++ (`shim.cpp` beside this file); the shim copies it into plain records.

use std::ffi::{CStr, c_char};

use llama_cpp_sys_2 as sys;

use super::Context;

/// One buffer type, as the shim writes it; the layouts must agree.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Record {
    name: [c_char; 64],
    model: u64,
    context: u64,
    compute: u64,
    free: u64,
    host: bool,
}

unsafe extern "C" {
    /// Writes up to `room` records and returns how many there are, or -1 for a failure.
    fn assayd_memory_breakdown(context: *const sys::llama_context, records: *mut Record, room: usize) -> i32;
}

/// Memory in one type of buffer, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine::llama) struct BufferBytes {
    /// As llama.cpp names it: `CPU`, `CPU_REPACK`, `CUDA0`.
    pub(in crate::engine::llama) name: String,
    /// Whether it is in the machine's own memory.
    pub(in crate::engine::llama) host: bool,
    pub(in crate::engine::llama) model: u64,
    /// Key-value cache or recurrent state.
    pub(in crate::engine::llama) context: u64,
    /// Scratch of the compute graphs.
    pub(in crate::engine::llama) compute: u64,
    /// What its device says is free on it.
    pub(in crate::engine::llama) free: u64,
}

/// Buffer types that are looked at.
const ROOM: usize = 64;

impl Context<'_> {
    /// What this context and its model take, or would take if they are dry.
    pub(in crate::engine::llama) fn breakdown(&self) -> Result<Vec<BufferBytes>, String> {
        let blank = Record { name: [0; 64], model: 0, context: 0, compute: 0, free: 0, host: false };
        let mut records = vec![blank; ROOM];
        // SAFETY: the context is live, and the shim writes at most as many records as there is
        // room for, each with a NUL within its name.
        let count = unsafe { assayd_memory_breakdown(self.ptr.as_ptr(), records.as_mut_ptr(), ROOM) };
        let count =
            usize::try_from(count).map_err(|_| "the engine could not say what it takes".to_owned())?;
        if count > ROOM {
            return Err(format!("the engine has {count} types of buffers"));
        }
        let text = |name: &[c_char; 64]| {
            // SAFETY: the shim ends every name with a NUL within its 64 bytes.
            unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned()
        };
        let read = |record: &Record| BufferBytes {
            name: text(&record.name),
            host: record.host,
            model: record.model,
            context: record.context,
            compute: record.compute,
            free: record.free,
        };
        Ok(records.iter().take(count).map(read).collect())
    }
}
