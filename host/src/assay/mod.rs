//! The pipeline: stages, the sequential loop, the decision table, reports.
