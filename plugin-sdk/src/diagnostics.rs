//! Words for the log, and the last words of a panic.

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the plugin's author.
    Debug,
    /// For the curious.
    Info,
    /// Something is odd but the answer stands.
    Warn,
    /// Something failed.
    Error,
}

/// One line for the log of this call; does nothing in native tests.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    {
        use crate::bindings::report::assay::plugin::diagnostics as host;
        let level = match level {
            Level::Debug => host::Level::Debug,
            Level::Info => host::Level::Info,
            Level::Warn => host::Level::Warn,
            Level::Error => host::Level::Error,
        };
        host::log(level, message);
    }
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (level, message);
}

/// Tells the host why and where a panic happened; without it the host would only see
/// `unreachable`. Every exported function calls it first.
pub fn install_panic_hook() {
    #[cfg(target_arch = "wasm32")]
    std::panic::set_hook(Box::new(|info| {
        let (file, line) = info.location().map_or(("", 0), |at| (at.file(), at.line()));
        let message = info.payload_as_str().unwrap_or("(no message)");
        crate::bindings::report::assay::plugin::diagnostics::panicked(message, file, line);
    }));
}
