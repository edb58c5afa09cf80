//! Model runtimes behind one trait.
