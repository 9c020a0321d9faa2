//! What environments cost on disk, and what they would cost in other forms.
//!
//! `measure` looks at one store path, `scan` at many, with what `cache` remembers; `account` says who of several
//! environments costs what.

pub mod account;
pub mod cache;
pub mod measure;
pub mod scan;
