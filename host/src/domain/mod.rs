//! Plain types and their invariants. No input or output, no clock, no library
//! that does anything.

pub mod budget;
pub mod digest;
pub mod footprint;
pub mod half;
pub mod inspection;
pub mod modes;
pub mod moments;
pub mod problem;
pub mod schema;
pub mod score;
pub mod size;
pub mod text;
pub mod trace;

pub use digest::Sha256;
pub use problem::{Problem, ProblemKind};
pub use schema::schema_of;
