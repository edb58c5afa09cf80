//! Reading model files: pure Rust, bounded, no engine, no network, no clock.
