//! What environments cost on disk, and what they would cost in other forms.
//!
//! `measure` looks at one store path (or at another tree), `scan` at many, with what `cache` remembers; `account` says who of
//! several environments costs what, given what `links` knows of the store's hard links; `oci_layers` how environments would look as
//! OCI images.

pub mod account;
pub mod cache;
pub mod links;
pub mod measure;
pub mod oci_layers;
pub mod scan;
