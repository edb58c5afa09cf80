//! WASM components behind the WIT interfaces: loading, limits, calls, faults.
