//! The only file with `unsafe`: thin owners over llama.cpp's C API.
//!
//! `llama-cpp-2` starts the back end and loads its kernel modules; models and contexts are
//! held through `llama-cpp-sys-2`, because the safe crate hides the fields that judged runs
//! must set (`use_extra_bufts`, abort callback) and offers no way to reach its pointers.
//! What C needs to be true is checked here before every call; what it returns is copied out
//! or borrowed for no longer than the owner. Threads: a model and its context stay on the
//! thread that made them.

use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use llama_cpp_2::llama_backend::{self, LlamaBackend};
use llama_cpp_sys_2 as sys;

use crate::engine::KvType;

mod dry;
pub(super) mod quantize;

/// Longest part of the engine's own log that is kept for error messages.
const LOG_BYTES: usize = 4096;

/// Last warnings and errors that llama.cpp logged.
static LOG: Mutex<String> = Mutex::new(String::new());
/// Counts computation steps; a worker that still computes keeps it moving.
static TICKS: AtomicU64 = AtomicU64::new(0);
/// Whether errors go to standard error as well, where they survive a crash.
static LOUD: AtomicBool = AtomicBool::new(false);

/// From now on the engine's errors are printed too: the parent of a worker keeps the last of them.
pub(super) fn print_errors() {
    LOUD.store(true, Ordering::Relaxed);
}

/// Steps the engine has computed so far in this process; only its changes mean anything.
pub(super) fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// The last lines that llama.cpp logged as warnings or errors, joined; empties the record.
pub(super) fn take_log() -> String {
    let mut log = LOG.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let text = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    log.clear();
    text
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _user: *mut c_void) {
    // The quantiser has no callback but tells of every tensor here.
    TICKS.fetch_add(1, Ordering::Relaxed);
    if text.is_null() || !(level == sys::GGML_LOG_LEVEL_ERROR || level == sys::GGML_LOG_LEVEL_WARN) {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives for this call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if LOUD.load(Ordering::Relaxed) {
        use std::io::Write as _;
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    let mut log = LOG.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // An error must find room.
    if log.len() + text.len() > LOG_BYTES && level == sys::GGML_LOG_LEVEL_ERROR {
        log.clear();
    }
    if log.len() + text.len() <= LOG_BYTES {
        log.push_str(&text);
    }
}

unsafe extern "C" fn on_compute(_user: *mut c_void) -> bool {
    TICKS.fetch_add(1, Ordering::Relaxed);
    false
}

unsafe extern "C" fn on_load(progress: f32, user: *mut c_void) -> bool {
    TICKS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: `Model::load` passes a pointer to its own `&mut dyn FnMut`, which outlives the
    // call into llama.cpp that calls back here, on the same thread.
    let report = unsafe { &mut *user.cast::<&mut dyn FnMut(f32)>() };
    // A panic must not unwind into C; it ends the load instead.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| report(progress))).is_ok()
}

/// Text of a C string that llama.cpp owns for the life of the process.
fn static_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the functions used here return NUL-terminated static strings.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
}

/// The started back end, once per process.
pub(super) fn backend() -> Result<&'static LlamaBackend, String> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    BACKEND
        .get_or_init(|| {
            // SAFETY: `on_log` matches the callback type and takes no user data.
            unsafe { sys::llama_log_set(Some(on_log), std::ptr::null_mut()) };
            let beside = std::env::current_exe()
                .ok()
                .and_then(|exe| exe.parent().map(|folder| folder.join("backends")))
                .filter(|folder| folder.is_dir());
            match beside {
                Some(folder) => llama_backend::load_backends_from_path(&folder),
                None => llama_backend::load_backends(),
            }
            // SAFETY: reads the registry that was filled above.
            if unsafe { sys::ggml_backend_dev_count() } == 0 {
                return Err(format!("no compute kernels found: {}", take_log()));
            }
            LlamaBackend::init().map_err(|error| error.to_string())
        })
        .as_ref()
        .map_err(Clone::clone)
}

/// Version of llama.cpp, e.g. `b1234 (abcdef)`.
pub(super) fn version() -> String {
    // SAFETY: takes nothing and returns a static string.
    static_text(unsafe { sys::llama_version() })
}

/// Instruction sets and options of the kernels in use.
pub(super) fn system_info() -> String {
    // SAFETY: returns a string in a static buffer; called from one thread.
    static_text(unsafe { sys::llama_print_system_info() })
}

/// Names of the devices that the loaded kernels can use.
pub(super) fn devices() -> Vec<String> {
    // SAFETY: indices below the count are valid device handles; names are static strings.
    unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|i| static_text(sys::ggml_backend_dev_description(sys::ggml_backend_dev_get(i))))
            .collect()
    }
}

/// How many devices with memory and kernels of their own there are.
pub(super) fn accelerators() -> u32 {
    let own = [sys::GGML_BACKEND_DEVICE_TYPE_GPU, sys::GGML_BACKEND_DEVICE_TYPE_IGPU];
    // SAFETY: indices below the count are valid device handles; their type is read only.
    let count = unsafe {
        let kinds = (0..sys::ggml_backend_dev_count())
            .map(|i| sys::ggml_backend_dev_type(sys::ggml_backend_dev_get(i)));
        kinds.filter(|kind| own.contains(kind)).count()
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Loading options that the trait's `LoadSpec` decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelParams<'a> {
    pub(super) gpu_layers: i32,
    pub(super) extra_buffers: bool,
    /// Expressions for names of tensors that stay in the CPU's plain buffers.
    pub(super) cpu_patterns: &'a [CString],
    /// Read the header alone and only count what would be allocated.
    pub(super) dry: bool,
}

/// A loaded model; freed on drop.
#[derive(Debug)]
pub(super) struct Model {
    ptr: NonNull<sys::llama_model>,
    vocab: NonNull<sys::llama_vocab>,
    /// Belongs to the model, which frees it.
    adapter: Option<NonNull<sys::llama_adapter_lora>>,
}

impl Model {
    /// Loads one file, or the parts of a split set in order.
    pub(super) fn load(
        paths: &[&Path],
        params: ModelParams<'_>,
        mut progress: &mut dyn FnMut(f32),
    ) -> Result<Self, String> {
        backend()?;
        take_log();
        let names = paths
            .iter()
            .map(|path| CString::new(path.as_os_str().as_encoded_bytes()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "a path contains a NUL byte".to_owned())?;
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: takes nothing and returns plain data.
        let mut raw = unsafe { sys::llama_model_default_params() };
        raw.n_gpu_layers = params.gpu_layers;
        raw.use_extra_bufts = params.extra_buffers;
        // Without layers on it an accelerator would still be handed the large products.
        let mut no_devices = [std::ptr::null_mut()];
        if params.gpu_layers == 0 {
            raw.devices = no_devices.as_mut_ptr();
        }
        // SAFETY: takes nothing and returns a static handle.
        let cpu = unsafe { sys::ggml_backend_cpu_buffer_type() };
        let end = (std::ptr::null(), std::ptr::null_mut());
        let overrides = params.cpu_patterns.iter().map(|pattern| (pattern.as_ptr(), cpu)).chain([end]);
        let overrides: Vec<sys::llama_model_tensor_buft_override> = overrides
            .map(|(pattern, buft)| sys::llama_model_tensor_buft_override { pattern, buft })
            .collect();
        if !params.cpu_patterns.is_empty() {
            raw.tensor_buft_overrides = overrides.as_ptr();
        }
        if params.dry {
            raw.no_alloc = true;
            raw.load_mode = sys::LLAMA_LOAD_MODE_NONE;
        }
        raw.progress_callback = Some(on_load);
        raw.progress_callback_user_data = std::ptr::from_mut(&mut progress).cast();
        // SAFETY: the C strings, the pointer array, the list of devices and the overrides, which end
        // with null, and `progress` live across the call;
        // the remaining parameters are llama.cpp's own defaults.
        let ptr = unsafe {
            match pointers.as_slice() {
                [] => return Err("no files given".to_owned()),
                [one] => sys::llama_model_load_from_file(*one, raw),
                _ => sys::llama_model_load_from_splits(pointers.as_mut_ptr(), pointers.len(), raw),
            }
        };
        let ptr = NonNull::new(ptr).ok_or_else(take_log)?;
        // SAFETY: `ptr` is a loaded model; its vocabulary lives as long as the model.
        let vocab = NonNull::new(unsafe { sys::llama_model_get_vocab(ptr.as_ptr()) }.cast_mut());
        match vocab {
            Some(vocab) => Ok(Self { ptr, vocab, adapter: None }),
            None => {
                // SAFETY: `ptr` came from a load call and is not used again.
                unsafe { sys::llama_model_free(ptr.as_ptr()) };
                Err("the model has no vocabulary".to_owned())
            }
        }
    }

    /// Reads a LoRA adapter for this model. Contexts made afterwards have room for it, and use
    /// it once [`Context::use_adapter`] is called.
    pub(super) fn load_adapter(&mut self, path: &Path) -> Result<(), String> {
        take_log();
        let name = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| "a path contains a NUL byte".to_owned())?;
        // SAFETY: the model is loaded and the C string lives across the call.
        let ptr = unsafe { sys::llama_adapter_lora_init(self.ptr.as_ptr(), name.as_ptr()) };
        self.adapter = Some(NonNull::new(ptr).ok_or_else(take_log)?);
        Ok(())
    }

    pub(super) fn vocab_size(&self) -> u32 {
        // SAFETY: the vocabulary lives as long as `self`.
        let n = unsafe { sys::llama_vocab_n_tokens(self.vocab.as_ptr()) };
        u32::try_from(n).unwrap_or(0)
    }

    pub(super) fn context_train(&self) -> u32 {
        // SAFETY: the model is loaded.
        u32::try_from(unsafe { sys::llama_model_n_ctx_train(self.ptr.as_ptr()) }).unwrap_or(0)
    }

    pub(super) fn size_bytes(&self) -> u64 {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_size(self.ptr.as_ptr()) }
    }

    pub(super) fn parameters(&self) -> u64 {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_n_params(self.ptr.as_ptr()) }
    }

    /// Whether the model only predicts from left to right and has something to predict with.
    pub(super) fn is_plain_decoder(&self) -> bool {
        // SAFETY: the model is loaded.
        unsafe {
            sys::llama_model_has_decoder(self.ptr.as_ptr())
                && !sys::llama_model_has_encoder(self.ptr.as_ptr())
                && !sys::llama_model_is_diffusion(self.ptr.as_ptr())
        }
    }

    pub(super) fn description(&self) -> String {
        let mut buffer = [0u8; 256];
        // SAFETY: the buffer is writable for the given length; llama.cpp NUL-terminates.
        unsafe { sys::llama_model_desc(self.ptr.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
        CStr::from_bytes_until_nul(&buffer)
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    pub(super) fn bos(&self) -> Option<u32> {
        // SAFETY: the vocabulary lives as long as `self`; -1 means there is none.
        u32::try_from(unsafe { sys::llama_vocab_bos(self.vocab.as_ptr()) }).ok()
    }

    pub(super) fn eos(&self) -> Option<u32> {
        // SAFETY: as for `bos`.
        u32::try_from(unsafe { sys::llama_vocab_eos(self.vocab.as_ptr()) }).ok()
    }

    pub(super) fn adds_bos(&self) -> bool {
        // SAFETY: the vocabulary lives as long as `self`.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab.as_ptr()) }
    }

    /// Whether a token ends generation.
    pub(super) fn ends_generation(&self, token: u32) -> bool {
        match i32::try_from(token) {
            // SAFETY: the token is checked to be in the vocabulary.
            Ok(id) if token < self.vocab_size() => unsafe {
                sys::llama_vocab_is_eog(self.vocab.as_ptr(), id)
            },
            _ => false,
        }
    }

    /// Token ids; with `marked`, names of control tokens in the text are those tokens.
    pub(super) fn tokenize(&self, text: &str, add_special: bool, marked: bool) -> Result<Vec<u32>, String> {
        let length = i32::try_from(text.len()).map_err(|_| "text is too long".to_owned())?;
        let mut room = text.len() + 16;
        for _ in 0..2 {
            let mut tokens = vec![0i32; room];
            let max = i32::try_from(room).map_err(|_| "text is too long".to_owned())?;
            // SAFETY: text and token buffers are valid for the lengths passed.
            let n = unsafe {
                sys::llama_tokenize(
                    self.vocab.as_ptr(),
                    text.as_ptr().cast(),
                    length,
                    tokens.as_mut_ptr(),
                    max,
                    add_special,
                    marked,
                )
            };
            match usize::try_from(n) {
                Ok(n) => {
                    tokens.truncate(n);
                    return tokens
                        .into_iter()
                        .map(|id| u32::try_from(id).map_err(|_| "a token id is negative".to_owned()))
                        .collect();
                }
                Err(_) => room = usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX),
            }
        }
        Err("the tokenizer gave no tokens".to_owned())
    }

    pub(super) fn detokenize(&self, tokens: &[u32]) -> Result<String, String> {
        let ids = tokens
            .iter()
            .map(|&token| i32::try_from(token).ok().filter(|_| token < self.vocab_size()))
            .collect::<Option<Vec<i32>>>()
            .ok_or("a token is not in the vocabulary")?;
        let count = i32::try_from(ids.len()).map_err(|_| "too many tokens".to_owned())?;
        let mut room = ids.len() * 8 + 16;
        for _ in 0..2 {
            let mut text = vec![0u8; room];
            let max = i32::try_from(room).map_err(|_| "too many tokens".to_owned())?;
            // SAFETY: ids are in the vocabulary; both buffers are valid for the lengths passed.
            let n = unsafe {
                sys::llama_detokenize(
                    self.vocab.as_ptr(),
                    ids.as_ptr(),
                    count,
                    text.as_mut_ptr().cast(),
                    max,
                    false,
                    true,
                )
            };
            match usize::try_from(n) {
                Ok(n) => {
                    text.truncate(n);
                    return Ok(String::from_utf8_lossy(&text).into_owned());
                }
                Err(_) => room = usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX),
            }
        }
        Err("the tokens have no text".to_owned())
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a load call; every `Context` borrowed `self` and is gone.
        unsafe { sys::llama_model_free(self.ptr.as_ptr()) };
    }
}

/// Context options that the trait's `LoadSpec` decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct ContextParams {
    /// Tokens per sequence.
    pub(super) context: u32,
    pub(super) parallel: u32,
    /// Tokens per `decode` call at most.
    pub(super) batch: u32,
    /// Tokens computed at once.
    pub(super) micro_batch: u32,
    /// Rows of logits per `decode` call at most.
    pub(super) outputs: u32,
    pub(super) threads: u32,
    pub(super) kv_type: KvType,
}

/// One token of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchEntry {
    pub(super) token: u32,
    pub(super) position: u32,
    pub(super) sequence: u32,
    /// Whether logits are wanted after this token.
    pub(super) output: bool,
}

/// An evaluation context over a model; freed on drop.
#[derive(Debug)]
pub(super) struct Context<'model> {
    ptr: NonNull<sys::llama_context>,
    params: ContextParams,
    vocab: u32,
    /// Tokens in the last `decode` call, so that `logits` stays in range.
    decoded: usize,
    model: PhantomData<&'model Model>,
}

impl<'model> Context<'model> {
    pub(super) fn new(model: &'model Model, params: ContextParams) -> Result<Self, String> {
        take_log();
        let threads = i32::try_from(params.threads).map_err(|_| "too many threads".to_owned())?;
        let total = params.context.checked_mul(params.parallel).ok_or("context is too large")?;
        let kv_type = match params.kv_type {
            KvType::F32 => sys::GGML_TYPE_F32,
            KvType::F16 => sys::GGML_TYPE_F16,
            KvType::Q8_0 => sys::GGML_TYPE_Q8_0,
        };
        // SAFETY: takes nothing and returns plain data.
        let mut raw = unsafe { sys::llama_context_default_params() };
        raw.n_ctx = total;
        raw.n_batch = params.batch;
        raw.n_ubatch = params.micro_batch;
        raw.n_seq_max = params.parallel;
        raw.n_outputs_max = params.outputs;
        raw.n_threads = threads;
        raw.n_threads_batch = threads;
        raw.type_k = kv_type;
        raw.type_v = kv_type;
        raw.kv_unified = false;
        raw.flash_attn_type = match params.kv_type {
            // The flash-attention kernels round an F32 cache on the way.
            KvType::F32 => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            KvType::F16 | KvType::Q8_0 => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
        };
        raw.no_perf = true;
        raw.abort_callback = Some(on_compute);
        // SAFETY: the model outlives the context through 'model.
        let ptr = unsafe { sys::llama_init_from_model(model.ptr.as_ptr(), raw) };
        let ptr = NonNull::new(ptr).ok_or_else(take_log)?;
        Ok(Self { ptr, params, vocab: model.vocab_size(), decoded: 0, model: PhantomData })
    }

    /// Puts the model's adapter, if it has one, over its weights.
    pub(super) fn use_adapter(&mut self, model: &'model Model) -> Result<(), String> {
        let Some(adapter) = model.adapter else { return Ok(()) };
        let (mut adapters, mut scales) = ([adapter.as_ptr()], [1.0f32]);
        // SAFETY: the context is live; both arrays have one element and live across the call;
        // the adapter lives as long as the model, which outlives the context.
        let status = unsafe {
            sys::llama_set_adapters_lora(self.ptr.as_ptr(), adapters.as_mut_ptr(), 1, scales.as_mut_ptr())
        };
        if status == 0 { Ok(()) } else { Err(format!("the adapter was refused, status {status}")) }
    }

    /// Tokens per `decode` call at most.
    pub(super) fn batch(&self) -> u32 {
        self.params.batch
    }

    /// Forgets all sequences.
    pub(super) fn clear(&mut self) {
        self.decoded = 0;
        // SAFETY: the context is live; its memory handle is valid or null, and null is checked.
        unsafe {
            let memory = sys::llama_get_memory(self.ptr.as_ptr());
            if !memory.is_null() {
                sys::llama_memory_clear(memory, false);
            }
        }
    }

    /// Evaluates a batch. Positions of a sequence must continue where it stopped.
    pub(super) fn decode(&mut self, entries: &[BatchEntry]) -> Result<(), String> {
        let outputs = entries.iter().filter(|entry| entry.output).count();
        if entries.is_empty()
            || entries.len() > self.params.batch as usize
            || outputs > self.params.outputs as usize
        {
            return Err(format!("a batch of {} tokens and {outputs} outputs is not allowed", entries.len()));
        }
        let in_range = |entry: &BatchEntry| {
            entry.token < self.vocab
                && entry.sequence < self.params.parallel
                && entry.position < self.params.context
        };
        if !entries.iter().all(in_range) {
            return Err("a batch entry is out of range".to_owned());
        }
        let mut tokens: Vec<i32> = entries.iter().map(|entry| entry.token.cast_signed()).collect();
        let mut positions: Vec<i32> = entries.iter().map(|entry| entry.position.cast_signed()).collect();
        let mut sequences: Vec<i32> = entries.iter().map(|entry| entry.sequence.cast_signed()).collect();
        let mut sequence_counts = vec![1i32; entries.len()];
        let mut sequence_pointers: Vec<*mut i32> = sequences.iter_mut().map(std::ptr::from_mut).collect();
        let mut wanted: Vec<i8> = entries.iter().map(|entry| i8::from(entry.output)).collect();
        let batch = sys::llama_batch {
            n_tokens: i32::try_from(entries.len()).map_err(|_| "batch too large".to_owned())?,
            token: tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: positions.as_mut_ptr(),
            n_seq_id: sequence_counts.as_mut_ptr(),
            seq_id: sequence_pointers.as_mut_ptr(),
            logits: wanted.as_mut_ptr(),
        };
        take_log();
        self.decoded = 0;
        // SAFETY: every array has `n_tokens` elements and lives across the call; tokens,
        // sequences and positions were checked against the context's own limits.
        let status = unsafe { sys::llama_decode(self.ptr.as_ptr(), batch) };
        if status != 0 {
            return Err(format!("decode status {status}: {}", take_log()));
        }
        self.decoded = entries.len();
        Ok(())
    }

    /// Logits after entry `index` of the last batch; `None` if that entry wanted none.
    pub(super) fn logits(&self, index: usize) -> Option<&[f32]> {
        if index >= self.decoded {
            return None;
        }
        let index = i32::try_from(index).ok()?;
        // SAFETY: the context is live and the index is within the last batch; llama.cpp
        // returns null for an entry without logits.
        let row = NonNull::new(unsafe { sys::llama_get_logits_ith(self.ptr.as_ptr(), index) })?;
        // SAFETY: a row holds one f32 per token of the vocabulary and stays valid until the
        // next decode, which needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(row.as_ptr(), self.vocab as usize) })
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `llama_init_from_model` and is not used again.
        unsafe { sys::llama_free(self.ptr.as_ptr()) };
    }
}
