//! Folders to settled artifacts.
