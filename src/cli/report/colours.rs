//! The colours of figures: what each is for, and the name that the page knows it by.
//!
//! A figure is drawn in the light colours. In the page each becomes a variable of its style sheet, which has dark ones too.

/// Texts.
pub const INK: &str = "#1b1d20";
/// Axes and ticks.
pub const AXIS: &str = "#5c6168";
/// Lines of a grid.
pub const GRID: &str = "#dfe2e6";
/// Behind everything.
pub const PAPER: &str = "#fefefe";
/// Texts on marks.
pub const ON_MARK: &str = "#fdfdfd";
/// The series of a chart, in this order.
pub const SERIES: [&str; 3] = ["#1f5f9a", "#b4501e", "#2f6b3b"];
/// Areas that hold a text: of one environment, of some, of all; as dark as a white text needs.
pub const AREAS: [&str; 3] = ["#1e5c96", "#8a4b14", "#2c6638"];
/// Around areas.
pub const FRAME: &str = "#3b444e";

/// The colours, with their variables in the style sheet.
const VARIABLES: [(&str, &str); 12] = [
    (INK, "ink"),
    (AXIS, "axis"),
    (GRID, "grid"),
    (PAPER, "paper"),
    (ON_MARK, "on-mark"),
    (SERIES[0], "series-1"),
    (SERIES[1], "series-2"),
    (SERIES[2], "series-3"),
    (AREAS[0], "area-1"),
    (AREAS[1], "area-2"),
    (AREAS[2], "area-3"),
    (FRAME, "frame"),
];

/// Makes the colours of a drawing variables. Only whole attributes are changed: in a text a quotation mark is escaped.
#[must_use]
pub fn as_variables(svg: &str) -> String {
    let mut text = svg.to_owned();
    for (colour, name) in VARIABLES {
        text = text.replace(&format!("=\"{colour}\""), &format!("=\"var(--{name})\""));
    }
    text
}

/// From white to blue; 0 to 1.
#[must_use]
pub fn scale(part: f64) -> String {
    const FROM: [f64; 3] = [238.0, 243.0, 248.0];
    const TO: [f64; 3] = [16.0, 62.0, 110.0];
    let part = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 };
    let mut text = String::from("#");
    for (from, to) in FROM.into_iter().zip(TO) {
        text += &format!("{:02x}", (from + (to - from) * part).round() as u8);
    }
    text
}

/// The text on a field of [`scale`].
#[must_use]
pub fn on_scale(part: f64) -> &'static str {
    if part > 0.68 { "#ffffff" } else { "#000000" }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;

    fn luminance(colour: &str) -> f64 {
        let part = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    fn contrast(one: &str, other: &str) -> f64 {
        let (a, b) = (luminance(one), luminance(other));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn texts_can_be_read_on_what_they_stand_on() {
        for area in AREAS {
            assert!(contrast(area, ON_MARK) >= 4.5, "{area}: {}", contrast(area, ON_MARK));
        }
        for step in 0..=100 {
            let part = f64::from(step) / 100.0;
            let found = contrast(&scale(part), on_scale(part));
            assert!(found >= 4.5, "{part}: {found}");
        }
        for colour in SERIES {
            assert!(contrast(colour, PAPER) >= 3.0);
        }
        assert!(contrast(INK, PAPER) >= 7.0 && contrast(AXIS, PAPER) >= 4.5);
    }

    #[test]
    fn colours_become_variables_and_texts_stay() {
        let svg = format!("<g fill=\"{INK}\"><text>=&quot;{INK}&quot; {INK}</text></g>");
        assert_eq!(
            as_variables(&svg),
            format!("<g fill=\"var(--ink)\"><text>=&quot;{INK}&quot; {INK}</text></g>")
        );
    }
}
