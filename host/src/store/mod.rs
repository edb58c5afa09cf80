//! What is remembered on disk: artifacts, assays, reports, events.
