//! Every limit in one place: what hostile files, plugins, workers and clients may take.
//! Raising one means looking at the hostile test that guards it.

use std::time::Duration;

/// Bytes of GGUF header (metadata and tensor table) read before giving up.
/// Vocabularies of 262,144 tokens with merges take some 15 MiB.
pub const GGUF_HEADER_BYTES: u64 = 128 << 20;
/// Bytes of one metadata string.
pub const GGUF_STRING_BYTES: u64 = 16 << 20;
/// Bytes of a metadata key (the specification's limit is 65,535).
pub const GGUF_KEY_BYTES: u64 = 65_535;
/// Elements of one metadata array.
pub const GGUF_ARRAY_ELEMENTS: u64 = 16 << 20;
/// Metadata entries of one file.
pub const GGUF_METADATA_ENTRIES: u64 = 65_536;
/// Tensors of one file; those of a mixture of 384 experts in one safetensors file, with their
/// scales and shapes, are some 210,000.
pub const FILE_TENSORS: u64 = 262_144;
/// Bytes of a tensor name (llama.cpp's GGML_MAX_NAME is 64, with the NUL).
pub const TENSOR_NAME_BYTES: u64 = 64;
/// Stretches of unused tokens of a vocabulary; real ones have a handful.
pub const IDLE_STRETCHES: usize = 1_024;
/// Files of one split set.
pub const SPLIT_PARTS: u64 = 1_024;
/// Names of missing parts that are listed; of each set of a search at least one.
pub const PARTS_WANTED: usize = 100_000;
/// Bytes of one file of weights: the largest file that ext4 can hold, several times a model of a
/// trillion parameters in F32. A header that declares more is wrong, not that of a file cut short.
pub const WEIGHTS_FILE_BYTES: u64 = 16 << 40;
/// Bytes of a safetensors header (the specification's limit is 100 MB).
pub const SAFETENSORS_HEADER_BYTES: u64 = 64 << 20;
/// Bytes of config.json, of a shard index, and of tokenizer.json.
pub const CONFIG_BYTES: u64 = 1 << 20;
pub const INDEX_BYTES: u64 = 16 << 20;
pub const JSON_FILE_BYTES: u64 = 64 << 20;
/// Ids without a token that a tokenizer.json may have; lists by id are made this much longer at most.
pub const TOKEN_GAPS: u64 = 65_536;
/// Names in a list of an adapter's configuration that are looked for in those of its tensors; a longer
/// list may name any.
pub const ADAPTER_MODULES: usize = 256;
/// Factors in a table of rotary frequencies.
pub const ROPE_FACTORS: u64 = 4_096;
/// Bytes of one pickle that are followed, and objects it may put on its stack or memo.
pub const PICKLE_BYTES: u64 = 64 << 20;
pub const PICKLE_OBJECTS: usize = 1 << 18;
/// Numbers that an importance matrix has of one tensor (columns times experts), and bytes of a
/// tensor's name in the older form of such files.
pub const IMATRIX_VALUES: u64 = 16 << 20;
pub const IMATRIX_NAME_BYTES: u64 = 256;
/// Entries of an archive.
pub const ARCHIVE_ENTRIES: u64 = 65_535;
/// Bytes of one chat template; the longest published ones have some 20 KiB.
pub const TEMPLATE_BYTES: usize = 256 << 10;
/// Pickles beside the weights of one folder that are looked at; checkpoints of a training have some
/// ten each.
pub const PICKLES_BESIDE: usize = 1000;
/// Times that the values of a chat template's variables are followed to other variables;
/// published ones need three.
pub const TEMPLATE_PASSES: usize = 16;
/// How large a text of a conversation is taken for, and how long a list of it, when a template's
/// output is estimated; what that may come to, and loops of fixed length around each other.
pub const TEMPLATE_GIVEN_BYTES: usize = 256;
pub const TEMPLATE_ROUNDS: usize = 8;
pub const TEMPLATE_MADE_BYTES: usize = 256 << 20;
pub const TEMPLATE_LOOPS: usize = 100_000;
/// Steps of that estimate, and how deep they go through macros.
pub const TEMPLATE_STEPS: usize = 1_000_000;
pub const TEMPLATE_DEPTH: usize = 600;
/// Bytes of a document (README, model card) that are looked at, documents of one folder, and
/// findings of one kind in each; published model cards have some 100 KiB.
pub const DOCUMENT_BYTES: u64 = 4 << 20;
pub const DOCUMENTS: usize = 32;
pub const DOCUMENT_FINDINGS: usize = 64;
/// Depth of folders searched for models, and entries looked at before giving up.
pub const DISCOVER_DEPTH: usize = 16;
pub const DISCOVER_ENTRIES: usize = 100_000;
/// Characters of one text from a file, a path or a log that people are shown, and bytes of one
/// (a message, a name in it) in JSON; the rest is cut off.
pub const SHOWN_CHARS: usize = 1_000;
pub const TEXT_BYTES: usize = 4 << 10;
/// Findings listed per artifact; further ones are counted in a last finding.
pub const FINDINGS: usize = 1_000;

/// One frame on the worker's pipe.
pub const WORKER_FRAME_BYTES: usize = 256 << 20;
/// Bytes of logits in one part of a whole distribution, from which on it is handed over; a
/// part may be larger by less than one row. Some dozen of them wait in queues at most.
pub const TRACE_PART_BYTES: usize = 2 << 20;
/// Bytes of whole distributions that a comparison may leave in a temporary file.
pub const SPOOL_BYTES: u64 = 64 << 30;
/// Bytes that such a file must leave free on its disk.
pub const SPOOL_SPARE_BYTES: u64 = 1 << 30;
/// Positions of one comparison; what is kept of each stays in memory.
pub const COMPARED_POSITIONS: usize = 4_000_000;
/// Characters of the text in the record of a benchmark.
pub const BENCH_OUTPUT_CHARS: usize = 2_000;
/// A log of llama.cpp that sizes of buffers are read from.
pub const ENGINE_LOG_BYTES: u64 = 16 << 20;
/// A record of a bench that another is compared with.
pub const BENCH_RECORD_BYTES: u64 = 1 << 20;
/// Tokens of context of a run that is measured for repeatability.
pub const MEASURED_CONTEXT: u32 = 1024;
/// Silence from a worker after which it is STALLED: no progress of any kind.
pub const WORKER_STALL: Duration = Duration::from_secs(120);
/// Bytes of a worker's standard error that are kept, from the end.
pub const WORKER_LOG_BYTES: usize = 64 << 10;

/// Challenges of one assay, and scores of one `assayd decide`.
pub const CHALLENGES: u64 = 100_000;
/// Bytes of a file of scores that a user brings.
pub const SCORES_FILE_BYTES: u64 = 4 << 20;
/// Bytes of a file that holds a challenge key.
pub const KEY_FILE_BYTES: u64 = 4 << 10;
/// Bytes of a file of the user's own prompts, prompts in it, and bytes of one.
pub const PROBE_FILE_BYTES: u64 = 1 << 20;
pub const PROBES: usize = 1_000;
pub const PROBE_BYTES: usize = 16 << 10;
/// Bytes of the reference quantised for calibration, beyond those of the candidate's tensors:
/// its header, and tensors that the quantiser leaves as they are.
pub const CALIBRATION_EXTRA_BYTES: u64 = 256 << 20;
/// Outliers listed in a report, and tensors named in a note.
pub const REPORT_OUTLIERS: usize = 5;
/// Bytes of one cached reference trace.
pub const CACHED_TRACE_BYTES: u64 = 512 << 20;
/// Bytes of all cached reference traces; the oldest sets go first.
pub const TRACE_CACHE_BYTES: u64 = 4 << 30;
/// Bytes of reference traces kept in memory when the cache cannot be written.
pub const TRACES_IN_MEMORY_BYTES: usize = 1 << 30;
/// Bytes of a file of pinned public keys.
pub const KEYRING_BYTES: u64 = 1 << 20;
/// Bytes of a bundle, and records in it.
pub const BUNDLE_BYTES: u64 = 4 << 30;
pub const BUNDLE_RECORDS: usize = 4 * CHALLENGES as usize;
/// Bytes of one record of a bundle, by section: a trace, a leaf of the transcript.
pub const BUNDLE_TRACE_BYTES: u64 = 64 << 20;
pub const BUNDLE_LEAF_BYTES: u64 = 4 << 20;
/// Plugins in a bundle.
pub const BUNDLE_PLUGINS: usize = 8;
/// Bytes of a bundle's transcript and report together, which a verification holds in memory.
pub const BUNDLE_HELD_BYTES: u64 = 256 << 20;
/// Bytes of all bundles that a daemon keeps unless its configuration says otherwise.
pub const KEPT_BUNDLE_BYTES: u64 = 2 << 30;
/// Entries of a report's error list; further ones are counted in a last entry.
pub const REPORT_ERRORS: usize = 200;
/// Bytes of one checksum manifest beside an artifact, and how many of them are read.
pub const MANIFEST_BYTES: u64 = 1 << 20;
pub const MANIFESTS: usize = 64;

/// Passes kept in the cache of digests, and bytes of one.
pub const PASS_ENTRIES: usize = 4_096;
pub const PASS_ENTRY_BYTES: u64 = 128 << 20;
/// Bytes of a line of a list that names a file or a tensor, and colons of it at which the name of the
/// one may end and that of the other begin.
pub const LISTED_LINE_BYTES: usize = 64 << 10;
pub const LISTED_COLONS: usize = 16;
/// Bytes of a signature, of a key, and of a file of certificates.
pub const SIGNATURE_BYTES: u64 = 16 << 20;
pub const KEY_PEM_BYTES: u64 = 1 << 20;
/// Certificates from a signature to a root.
pub const CHAIN_CERTIFICATES: usize = 8;

/// Bytes of a plugin file.
pub const PLUGIN_FILE_BYTES: u64 = 8 << 20;

/// Bytes of a file of token sequences.
pub const TOKEN_FILE_BYTES: u64 = 256 << 20;

/// Plugin files in one folder; further ones are ignored with a warning.
pub const PLUGIN_FOLDER_FILES: usize = 256;
/// Bytes of the lock of a plugin folder, and of the evidence file of `plugin run`.
pub const PLUGIN_LOCK_BYTES: u64 = 1 << 20;
pub const PLUGIN_EVIDENCE_BYTES: u64 = 256 << 20;
/// Plugin calls that may wait for a thread; one more is refused.
pub const PLUGIN_QUEUE: usize = 64;
/// Threads that run plugin code.
pub const PLUGIN_THREADS: usize = 4;
/// Stack of such a thread; wasmtime takes 512 KiB of it for the guest and does not check that it is there.
pub const PLUGIN_STACK_BYTES: usize = 4 << 20;
/// Period of the clock that enforces deadlines of plugin calls.
pub const PLUGIN_TICK: Duration = Duration::from_millis(10);
/// Resource handles a plugin may hold.
pub const PLUGIN_HANDLES: usize = 1_024;
/// Elements of all tables of one plugin call.
pub const PLUGIN_TABLE_ELEMENTS: usize = 65_536;
/// Core instances, memories and tables of one plugin call.
pub const PLUGIN_INSTANCES: usize = 64;
/// Bytes of one log line or panic message of a plugin; the rest is cut off.
pub const PLUGIN_LOG_LINE_BYTES: usize = 4 << 10;
/// Log lines kept per plugin call.
pub const PLUGIN_LOG_LINES: usize = 64;
/// Values of one read of evidence.
pub const PLUGIN_READ_VALUES: u32 = 262_144;
/// Notes of a score, and bytes of the name of one.
pub const SCORE_NOTES: usize = 16;
pub const SCORE_NOTE_NAME_BYTES: usize = 64;
/// Bytes of a decider's state.
pub const DECIDER_STATE_BYTES: usize = 64 << 10;
/// Scores handed to a decider at once; more are handed over in several calls.
pub const DECIDER_SCORES: usize = 16;
/// Digests a hash check may ask for, and ranges of one.
pub const HASH_REQUESTS: usize = 4_096;
pub const HASH_RANGES: usize = 1_024;
/// Bytes of one header read, and of all of one hash check call.
pub const HASH_HEADER_BYTES: u32 = 1 << 20;
pub const HASH_HEADERS_BYTES: u64 = 8 << 20;
/// Bytes of a fuzzy digest, and of the list of an artifact's tensors, for one hash check.
pub const TLSH_BYTES: u64 = 64 << 20;
pub const HASH_LIST_BYTES: usize = 8 << 20;
/// Findings of one hash check, and bytes of the code and message of one.
pub const HASH_FINDING_BYTES: usize = 4 << 10;
/// Files of a rendered report, and bytes of all of them.
pub const REPORT_FILES: usize = 16;
pub const REPORT_BYTES: usize = 8 << 20;

/// What one plugin call may take. Fuel counts executed instructions and is what bounds a
/// call in the same way on every machine; the deadline is for what fuel cannot see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluginLimits {
    pub fuel: u64,
    pub deadline: Duration,
    pub memory_bytes: usize,
    /// Bytes that one call across the border may carry from the plugin to the host.
    pub transfer_bytes: usize,
}

/// `describe`, right after loading.
pub const PROBE_LIMITS: PluginLimits = PluginLimits {
    fuel: 10_000_000,
    deadline: Duration::from_secs(2),
    memory_bytes: 16 << 20,
    transfer_bytes: 1 << 20,
};
/// One challenge scored; the fuel is for the call, [`SCORER_FUEL_PER_VALUE`] comes on top.
pub const SCORER_LIMITS: PluginLimits = PluginLimits {
    fuel: 500_000_000,
    deadline: Duration::from_secs(10),
    memory_bytes: 64 << 20,
    transfer_bytes: 1 << 20,
};
/// Fuel per captured logit of either side: evidence may be large.
pub const SCORER_FUEL_PER_VALUE: u64 = 1_000;
/// At most [`DECIDER_SCORES`] scores folded.
pub const DECIDER_LIMITS: PluginLimits = PluginLimits {
    fuel: 1_000_000_000,
    deadline: Duration::from_secs(10),
    memory_bytes: 32 << 20,
    transfer_bytes: 1 << 20,
};
/// One plan or one judgement.
pub const HASH_CHECK_LIMITS: PluginLimits = PluginLimits {
    fuel: 500_000_000,
    deadline: Duration::from_secs(10),
    memory_bytes: 64 << 20,
    transfer_bytes: 8 << 20,
};
/// One report rendered.
pub const REPORT_LIMITS: PluginLimits = PluginLimits {
    fuel: 4_000_000_000,
    deadline: Duration::from_secs(20),
    memory_bytes: 128 << 20,
    transfer_bytes: 16 << 20,
};
/// Bytes of a configuration file or of a sidecar.
pub const SETTINGS_BYTES: u64 = 256 << 10;
/// Rules of a configuration.
pub const CONFIG_RULES: usize = 1_000;

/// Longest parameters of a hash check, as JSON: an allow-list of some ten thousand digests.
pub const HASH_PARAMS_BYTES: usize = 1 << 20;
/// Watched folders of a configuration.
pub const WATCHED_FOLDERS: usize = 64;
/// Bytes of an API key file.
pub const API_KEY_BYTES: u64 = 4 << 10;
/// Characters of an API key, at least: 16 random ones cannot be guessed over a network.
pub const API_KEY_MIN_CHARS: usize = 16;

/// Artifacts and ignored files remembered; further ones are reported once and left alone.
pub const ARTIFACTS: usize = 20_000;
/// Assays waiting to run.
pub const QUEUED_ASSAYS: usize = 1_000;
/// Assays kept with their reports; the oldest finished ones go first.
pub const KEPT_ASSAYS: i64 = 100_000;
/// Artifacts that are no more there and still on record.
pub const KEPT_GONE: usize = 1_000;
/// Events kept for clients that resume.
pub const KEPT_EVENTS: i64 = 50_000;
/// Events read from disk at once for a client that resumes.
pub const EVENT_PAGE: i64 = 500;
/// Live events a slow client may be behind before it reads from disk again.
pub const EVENT_BACKLOG: usize = 1_024;
/// Rows of one answer of a listing.
pub const LIST_ROWS: i64 = 500;
/// Times an assay is started again after the daemon died under it.
pub const ASSAY_ATTEMPTS: i64 = 3;
/// Bytes of one report.
pub const STORED_REPORT_BYTES: usize = 64 << 20;

/// Open HTTP connections; further ones wait in the kernel's queue.
pub const HTTP_CONNECTIONS: usize = 256;
/// Open event streams; further ones are refused, so that they cannot take every connection.
pub const HTTP_EVENT_STREAMS: usize = 64;
/// Time for a client to send its request head; also how long an idle connection is kept.
pub const HTTP_HEAD: Duration = Duration::from_secs(15);
/// Time for a client to send its request body.
pub const HTTP_BODY: Duration = Duration::from_secs(20);
/// Time for an answer to be made; event streams are exempt.
pub const HTTP_ANSWER: Duration = Duration::from_secs(60);
/// Time for a completion to be made, waiting and loading included.
pub const HTTP_COMPLETION: Duration = Duration::from_secs(600);
/// Requests that wait for a served model; one more is told to come back later.
pub const COMPLETIONS_WAITING: usize = 32;
/// Tokens of context of a served model, at most.
pub const SERVED_CONTEXT: u32 = 4096;
/// Time without a request after which a served model is ended.
pub const SERVED_IDLE: Duration = Duration::from_secs(300);
/// Prompts of one completion request, texts to stop at, and bytes of one.
pub const COMPLETION_PROMPTS: usize = 64;
pub const COMPLETION_STOPS: usize = 4;
pub const COMPLETION_STOP_BYTES: usize = 256;
/// Bytes of a file of certificate authorities.
pub const CA_FILE_BYTES: u64 = 1 << 20;
/// Time for one answer of a remote endpoint, and bytes of it.
pub const REMOTE_ANSWER: Duration = Duration::from_secs(60);
pub const REMOTE_BODY_BYTES: u64 = 32 << 20;
/// Messages of one chat, and tokens of an answer where nobody says; fewer where the context ends.
pub const CHAT_MESSAGES: usize = 1_000;
pub const CHAT_NEW_TOKENS: u32 = 512;
/// Steps of a chat template, bytes of its text, and time and memory of the worker that renders it.
pub const CHAT_FUEL: u64 = 5_000_000;
pub const CHAT_TEXT_BYTES: usize = 1 << 20;
pub const CHAT_STALL: Duration = Duration::from_secs(5);
pub const CHAT_BYTES: u64 = 256 << 20;
/// Most likely tokens told of each token of a completion, as OpenAI and vLLM have them.
pub const COMPLETION_LOGPROBS: usize = 5;
pub const COMPLETION_PROMPT_LOGPROBS: usize = 20;
/// Time that a client may leave sent bytes unacknowledged before its connection is dropped.
pub const HTTP_UNREAD: Duration = Duration::from_secs(60);
/// Bytes of a request head and of the connection's buffer.
pub const HTTP_HEAD_BYTES: usize = 64 << 10;
/// Bytes of a request body.
pub const HTTP_BODY_BYTES: usize = 1 << 20;
/// Silence on an event stream after which a comment is sent.
pub const HTTP_PING: Duration = Duration::from_secs(10);
/// Commands from HTTP waiting for the daemon.
pub const COMMANDS: usize = 64;
/// Time that open connections and the running assay get at a graceful stop.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// Pause before a write that failed (disk full) is tried again.
pub const WRITE_RETRY: Duration = Duration::from_secs(2);

/// Processes of one worker that the watchdog follows.
pub const WATCHED_PROCESSES: usize = 64;
/// Alerts kept about one worker, or by one `assayd monitor`; further ones are counted.
pub const ALERTS: usize = 64;
/// Memory that always stays free on the machine, unless another amount is asked for.
pub const MIN_FREE_BYTES: u64 = 256 << 20;
/// A worker smaller than this is never ended for the machine's sake: it would not help.
pub const CULPRIT_BYTES: u64 = 64 << 20;
/// How long the next load waits for the memory of the last one to come back.
pub const MEMORY_BACK: Duration = Duration::from_secs(5);
/// Memory of a worker that quantises rows: some pieces of a tensor, and the quantiser's tables.
pub const ROW_QUANTIZER_BYTES: u64 = 512 << 20;
/// Time and memory that a dry run may take.
pub const DRY_RUN_STALL: Duration = Duration::from_secs(20);
pub const DRY_RUN_BYTES: u64 = 2 << 30;
