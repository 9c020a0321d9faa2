//! A figure as it is drawn: for the page, and as a file of its own.

use std::collections::{HashMap, VecDeque};

use kuva::PngBackend;
use kuva::backend::svg::SvgBackend;
use kuva::plot::legend::{LegendEntry, LegendPosition, LegendShape};
use kuva::render::color::Color;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use kuva::render::render::{Primitive, Scene, TextAnchor, render_multiple};
use kuva::render::theme::Theme;

use super::colours;
use super::data::{Kind, Number};

/// How many pixels of a PNG one unit of a figure has: 300 to the inch where a figure is 96 to the inch.
const SCALE: f32 = 3.125;

/// What a mark stands for.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Of what.
    pub what: String,
    /// How much.
    pub number: Number,
    /// Drawn on the mark, as a number with two digits, in this colour.
    pub written: Option<&'static str>,
}

/// The marks of a figure, by the title that the library gives each.
#[derive(Debug, Default)]
pub struct Marks(HashMap<String, VecDeque<Mark>>);

impl Marks {
    /// Adds one. Those of one title are taken in the order in which they come.
    pub fn add(&mut self, title: String, mark: Mark) {
        self.0.entry(title).or_default().push_back(mark);
    }

    fn take(&mut self, title: &str) -> Option<Mark> {
        self.0.get_mut(title)?.pop_front()
    }
}

/// A figure.
pub struct Drawing {
    scene: Scene,
}

impl Drawing {
    /// Draws some plots.
    #[must_use]
    pub fn new(plots: Vec<Plot>, layout: Layout, mut marks: Marks) -> Self {
        let mut scene = render_multiple(plots, layout.with_theme(theme()));
        scene.has_tooltips = false;
        // Nothing reaches over an edge, and a point on it is to be seen whole; and two figures of a page may not define the same.
        scene.defs.clear();
        let mut elements = Vec::with_capacity(scene.elements.len());
        // Of the mark that is drawn: the number to be written on it, and how wide it is.
        let (mut in_mark, mut written, mut inside) = (false, None, None);
        for element in std::mem::take(&mut scene.elements) {
            match element {
                Primitive::GroupStart { transform, title: Some(title), extra_attrs } => {
                    let mark = marks.take(&title);
                    written = mark.as_ref().and_then(|mark| Some((mark.number.clone(), mark.written?)));
                    in_mark = mark.is_some();
                    elements.push(group(mark, transform, extra_attrs));
                }
                Primitive::GroupEnd => {
                    (in_mark, inside) = (false, None);
                    elements.push(Primitive::GroupEnd);
                }
                Primitive::Rect { x, y, width, height, .. } if inside.is_none() && in_mark => {
                    elements.push(element);
                    inside = Some(width);
                    if let Some((number, colour)) = written.take() {
                        elements.push(write_on(&number, colour, (x + width / 2.0, y + height / 2.0), width));
                    }
                }
                Primitive::ClipStart { .. } | Primitive::ClipEnd => {}
                // The library shortens names to what fits, but not to less than three letters.
                Primitive::Text { ref content, size, .. }
                    if inside.is_some_and(|width| width < text_width(content, size)) => {}
                Primitive::Text { x, y, content, size, anchor, rotate, bold, color } => {
                    // The library sets what stands between two of these as mathematics, unless they are escaped.
                    let content = content.replace('$', "\\$");
                    elements.push(Primitive::Text { x, y, content, size, anchor, rotate, bold, color });
                }
                other => elements.push(other),
            }
        }
        scene.elements = elements;
        Self { scene }
    }

    /// For the page: without a ground, in its colours, with its font.
    #[must_use]
    pub fn inline(&self, label: &str) -> String {
        let all = self.with_view_box();
        let ground = format!("<rect width=\"100%\" height=\"100%\" fill=\"{}\" />", colours::PAPER);
        let all = colours::as_variables(&all.replacen(&ground, "", 1));
        let head = format!("<svg role=\"img\" aria-labelledby=\"{label}\" ");
        all.replacen("<svg ", &head, 1)
    }

    /// As a file.
    #[must_use]
    pub fn svg(&self) -> String {
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", self.with_view_box())
    }

    /// As a PNG of 300 pixels to the inch, of which it is `width` / 96 wide.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn png(&self) -> Result<Vec<u8>, String> {
        PngBackend::new().with_scale(SCALE).render_scene(&self.scene)
    }

    fn with_view_box(&self) -> String {
        let (width, height) = (self.scene.width.round(), self.scene.height.round());
        let svg = SvgBackend::new().render_scene(&self.scene);
        svg.replacen("<svg ", &format!("<svg viewBox=\"0 0 {width} {height}\" "), 1)
    }
}

/// What the library writes of a text as it is: no characters that XML does not have, and none that turn others round.
#[must_use]
pub fn clean(text: &str) -> String {
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{fffe}' | '\u{ffff}')
    };
    text.chars().map(|c| if bad(c) { '\u{fffd}' } else { c }).collect()
}

/// A text of at most so many characters.
#[must_use]
pub fn short(text: &str, most: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The unit in which the largest of some sizes is a number with few digits.
#[must_use]
pub fn unit(largest: f64) -> (f64, &'static str) {
    const UNITS: [(f64, &str); 4] = [
        ((1_u64 << 40) as f64, "TiB"),
        ((1_u64 << 30) as f64, "GiB"),
        ((1_u64 << 20) as f64, "MiB"),
        (1024.0, "KiB"),
    ];
    UNITS.into_iter().find(|(unit, _)| largest >= *unit).unwrap_or((1.0, "B"))
}

/// A legend of areas.
#[must_use]
pub fn legend(labels: &[&str]) -> Vec<LegendEntry> {
    let entry = |(label, colour): (&&str, &str)| LegendEntry {
        label: (*label).to_owned(),
        color: colour.to_owned(),
        shape: LegendShape::Rect,
        dasharray: None,
    };
    labels.iter().zip(colours::SERIES).map(entry).collect()
}

/// How figures with axes are laid out.
#[must_use]
pub fn layout(plots: &[Plot], width: f64, height: f64) -> Layout {
    Layout::auto_from_plots(plots)
        .with_width(width)
        .with_height(height)
        .with_label_size(14)
        .with_tick_size(12)
        .with_body_size(12)
        .with_legend_position(LegendPosition::OutsideTopLeft)
        .with_legend_box(false)
}

fn theme() -> Theme {
    Theme {
        background: colours::PAPER.to_owned(),
        axis_color: colours::AXIS.to_owned(),
        grid_color: colours::GRID.to_owned(),
        tick_color: colours::AXIS.to_owned(),
        text_color: colours::INK.to_owned(),
        legend_bg: "none".to_owned(),
        legend_border: "none".to_owned(),
        colorbar_border: colours::AXIS.to_owned(),
        ..Theme::light()
    }
}

fn group(mark: Option<Mark>, transform: Option<String>, extra_attrs: Option<String>) -> Primitive {
    let Some(mark) = mark else { return Primitive::GroupStart { transform, title: None, extra_attrs } };
    let number = &mark.number;
    Primitive::GroupStart {
        transform,
        title: Some(format!("{}: {}", clean(&mark.what), number.human())),
        extra_attrs: Some(format!("class=\"mark\" data-value=\"{}\" {}", number.raw, number.attributes())),
    }
}

/// About how wide a text is.
fn text_width(text: &str, size: u32) -> f64 {
    text.chars().count() as f64 * f64::from(size) * 0.56
}

/// The number in the middle of a mark.
fn write_on(number: &Number, colour: &'static str, (x, y): (f64, f64), width: f64) -> Primitive {
    let size = if width >= 34.0 { 12 } else { 9 };
    Primitive::Text {
        x,
        y: y + f64::from(size) * 0.36,
        content: Number { kind: Kind::Short, ..number.clone() }.human(),
        size,
        anchor: TextAnchor::Middle,
        rotate: None,
        bold: false,
        color: Some(Color::from(colour)),
    }
}
