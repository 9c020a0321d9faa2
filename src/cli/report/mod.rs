//! The report of `nixview du`: a page, and its figures as files.
//!
//! Everything that it shows is looked up in one JSON value, which the page has with it: a number of the page and that of the JSON
//! cannot differ. See `docs/usage.md`.

pub mod colours;
pub mod data;
pub mod drawing;
pub mod figures;
pub mod html;
pub mod page;
pub mod sections;
pub mod write;

pub use data::Data;
pub use page::{Head, page};
pub use write::{Picture, pictures};
