//! Arguments in, exit code out; or, for the hidden sub-command, the worker.

use std::process::ExitCode;

fn main() -> ExitCode {
    assayd::cli::main()
}
