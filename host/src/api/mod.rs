//! HTTP: bytes to a typed request and back. Decides nothing.
