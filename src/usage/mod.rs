//! What environments cost on disk, and what they would cost in other forms.
//!
//! `measure` looks at one store path (or at another tree), `scan` at many, with what `cache` remembers; `account` says who of
//! several environments costs what, given what `links` knows of the store's hard links.
//!
//! `contents` lists what a store path consists of, `read` reads it (`digest`, `chunks`) with what `content_cache` remembers left out;
//! `duplicates` says what is there more than once, and what it would save to have it once. `oci_layers` says how environments
//! would look as OCI images. `traced` says what of a closure was used.

pub mod account;
pub mod cache;
pub mod chunks;
pub mod content_cache;
pub mod contents;
pub mod digest;
pub mod duplicates;
pub mod links;
pub mod measure;
pub mod oci_layers;
pub mod read;
pub mod scan;
pub mod traced;
