//! What the first and the last environment pull from a registry, by strategy.

use super::layers;
use crate::cli::report::data::Data;
use crate::cli::report::drawing::Drawing;

/// Draws it, apart from what is stored: beside that it would not be seen.
pub fn draw(data: &Data) -> Option<Drawing> {
    let last = data.count("/layers/environments").checked_sub(1)?;
    let pulled = |at: usize| format!("pulledInOrder/{at}");
    layers::bars(
        data,
        &[("pulled by the first environment", pulled(0)), ("pulled by the last", pulled(last))],
    )
}
