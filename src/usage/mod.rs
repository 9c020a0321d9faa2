//! What environments cost on disk, and what they would cost in other forms.
//!
//! `measure` looks at one store path, `scan` at many, with what `cache` remembers; `account` says who of several
//! environments costs what; `oci_layers` how they would look as images.

pub mod account;
pub mod cache;
pub mod measure;
pub mod oci_layers;
pub mod scan;
