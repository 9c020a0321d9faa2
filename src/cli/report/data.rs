//! The one JSON value that a report shows, and the numbers in it.

use serde_json::Value;

use crate::cli::output::size;
use crate::printable;

/// What a number counts, and so how it is written for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Bytes: `1.5 MiB`.
    Bytes,
    /// Things: `12,345`.
    Count,
    /// A part of one, to three digits.
    Ratio,
    /// The same where there is no room: to two digits.
    Short,
}

impl Kind {
    /// Its name in the attribute `data-as`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Count => "count",
            Self::Ratio => "ratio",
            Self::Short => "short",
        }
    }
}

/// Where in the JSON a number is from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It is there, at this JSON pointer.
    At(String),
    /// It is how many members the array at this pointer has.
    Length(String),
    /// It is a sum: the numbers of this name in the members `of` of the array at `array`.
    Sum {
        /// JSON pointer of the array.
        array: String,
        /// The name in each member.
        key: &'static str,
        /// Indexes, ascending.
        of: Vec<usize>,
    },
}

/// A number of the JSON.
#[derive(Clone, PartialEq, Debug)]
pub struct Number {
    /// As it is in the JSON.
    pub raw: String,
    /// Its value.
    pub value: f64,
    /// What it counts.
    pub kind: Kind,
    /// Where it is from.
    pub from: Origin,
}

impl Number {
    /// For people.
    #[must_use]
    pub fn human(&self) -> String {
        match (self.kind, self.raw.parse::<u64>()) {
            (Kind::Bytes, Ok(bytes)) => size(bytes),
            (Kind::Count, _) => grouped(&self.raw),
            (Kind::Short, _) => format!("{:.2}", self.value),
            (Kind::Ratio | Kind::Bytes, _) => format!("{:.3}", self.value),
        }
    }

    /// The attributes that say what it is and where it is from; all but its value need no escapes.
    #[must_use]
    pub fn attributes(&self) -> String {
        let from = match &self.from {
            Origin::At(pointer) => format!("data-json=\"{pointer}\""),
            Origin::Length(pointer) => format!("data-length=\"{pointer}\""),
            Origin::Sum { array, key, of } => {
                format!("data-sum=\"{array}\" data-key=\"{key}\" data-of=\"{}\"", ranges(of))
            }
        };
        format!("{from} data-as=\"{}\"", self.kind.name())
    }
}

/// Digits in groups of three.
fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Ascending numbers, in few letters: `1,4-9,12`.
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let part = |(first, last): (usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.into_iter().map(part).collect::<Vec<_>>().join(",")
}

/// What a report shows: `du`, and as far as they are there `layers` and `traces`, as the commands answer with `--json`.
#[derive(Clone, Debug)]
pub struct Data(Value);

impl Data {
    /// Of such an object.
    #[must_use]
    pub fn new(value: Value) -> Self {
        Self(value)
    }

    /// All of it, as text that may stand in an element `script`.
    #[must_use]
    pub fn embedded(&self) -> String {
        // In JSON '<' can be in strings alone, where it may be written so. Nothing else ends or begins what a browser would see.
        printable::json(&self.0.to_string()).replace('<', "\\u003c")
    }

    /// The value at a JSON pointer.
    #[must_use]
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    /// The text there; empty if there is none.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.get(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The array there; empty if there is none.
    #[must_use]
    pub fn list(&self, pointer: &str) -> &[Value] {
        self.get(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// How long the array there is.
    #[must_use]
    pub fn count(&self, pointer: &str) -> usize {
        self.list(pointer).len()
    }

    /// The number there.
    #[must_use]
    pub fn number(&self, pointer: &str, kind: Kind) -> Option<Number> {
        let Some(Value::Number(number)) = self.get(pointer) else { return None };
        let value = number.as_f64()?;
        Some(Number { raw: number.to_string(), value, kind, from: Origin::At(pointer.to_owned()) })
    }

    /// How many members the array there has.
    #[must_use]
    pub fn length(&self, pointer: &str) -> Number {
        counted(self.count(pointer), Origin::Length(pointer.to_owned()))
    }

    /// The sum of the numbers `key` in some members of the array there.
    #[must_use]
    pub fn sum(&self, array: &str, key: &'static str, of: Vec<usize>, kind: Kind) -> Number {
        let list = self.list(array);
        let sum: u64 = of.iter().filter_map(|at| list.get(*at)?.get(key)?.as_u64()).sum();
        let from = Origin::Sum { array: array.to_owned(), key, of };
        Number { raw: sum.to_string(), value: sum as f64, kind, from }
    }

    /// The names of the environments.
    #[must_use]
    pub fn environments(&self) -> Vec<&str> {
        self.list("/du/environments").iter().map(|env| text_of(env, "name")).collect()
    }
}

/// The text of this name in an object; empty if there is none.
#[must_use]
pub fn text_of<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn counted(count: usize, from: Origin) -> Number {
    Number { raw: count.to_string(), value: count as f64, kind: Kind::Count, from }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_those_of_the_json() {
        let data = Data::new(
            json!({ "du": { "paths": [{ "nar": 1536 }, { "nar": 512 }, { "nar": 1 }], "jaccard": 0.12349 } }),
        );
        let number = data.number("/du/paths/0/nar", Kind::Bytes).unwrap();
        assert_eq!((number.raw.as_str(), number.human().as_str()), ("1536", "1.5 KiB"));
        assert_eq!(number.attributes(), "data-json=\"/du/paths/0/nar\" data-as=\"bytes\"");
        assert_eq!(data.number("/du/jaccard", Kind::Ratio).unwrap().human(), "0.123");
        assert_eq!(data.length("/du/paths").human(), "3");
        let sum = data.sum("/du/paths", "nar", vec![0, 1], Kind::Count);
        assert_eq!((sum.human().as_str(), sum.attributes().contains("data-of=\"0-1\"")), ("2,048", true));
        assert_eq!(data.number("/du/nothing", Kind::Count), None);
    }

    #[test]
    fn what_is_embedded_ends_no_script() {
        let data = Data::new(json!({ "name": "</script><!-- \u{2028}\u{202e}\u{9b}" }));
        assert!(!data.embedded().contains(|c| c == '<' || printable::is_unsafe(c)));
        let back: Value = serde_json::from_str(&data.embedded()).unwrap();
        assert_eq!(back["name"], "</script><!-- \u{2028}\u{202e}\u{9b}");
    }

    #[test]
    fn ranges_and_groups() {
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1-3,7,9-10");
        assert_eq!(ranges(&[]), "");
        assert_eq!(grouped("1"), "1");
        assert_eq!(grouped("1234567"), "1,234,567");
    }
}
