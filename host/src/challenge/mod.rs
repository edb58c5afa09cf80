//! From a secret key to prompts, and the commitment that binds them.
