//! The guarded child process that loads and runs one model: parent side, child side, protocol.
