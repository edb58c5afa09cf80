//! Hashes of files and trees, computed by the host in one pass.
