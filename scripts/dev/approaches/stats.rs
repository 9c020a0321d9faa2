//! Medians and spreads of what was measured.

use crate::record::Row;

/// The middle of some numbers, the least, the greatest, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
    pub(crate) count: usize,
}

/// Nothing of nothing.
pub(crate) fn spread(numbers: &[f64]) -> Option<Spread> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let (least, greatest) = (*sorted.first()?, *sorted.last()?);
    let (low, high) = (*sorted.get((count - 1) / 2)?, *sorted.get(count / 2)?);
    Some(Spread { median: f64::midpoint(low, high), least, greatest, count })
}

/// What rows say, and of how many nothing was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell {
    pub(crate) numbers: Vec<f64>,
    pub(crate) failures: usize,
}

/// Rows of one approach, environment and measurement.
pub(crate) fn cell(rows: &[Row], approach: &str, environment: &str, what: &str) -> Cell {
    let mut cell = Cell::default();
    let fits = |row: &&Row| row.approach == approach && row.environment == environment && row.what == what;
    for row in rows.iter().filter(fits) {
        match row.value.parse() {
            Ok(number) => cell.numbers.push(number),
            Err(_) => cell.failures += 1,
        }
    }
    cell
}

/// The different values of a field, in the order in which they come.
pub(crate) fn different<'a>(
    rows: &'a [Row],
    fits: impl Fn(&Row) -> bool,
    of: impl Fn(&'a Row) -> &'a str,
) -> Vec<&'a str> {
    let mut all = Vec::new();
    for value in rows.iter().filter(|row| fits(row)).map(of) {
        if !all.contains(&value) {
            all.push(value);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |numbers: &[f64]| spread(numbers).map(|s| (s.median, s.least, s.greatest, s.count));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0]), Some((3.0, 3.0, 3.0, 1)));
        assert_eq!(of(&[9.0, 1.0, 5.0]), Some((5.0, 1.0, 9.0, 3)));
        assert_eq!(of(&[9.0, 1.0, 5.0, 2.0]), Some((3.5, 1.0, 9.0, 4)));
    }

    #[test]
    fn rows_are_told_apart() {
        let row = |approach: &str, value: &str| Row {
            run: 1,
            approach: approach.to_owned(),
            environment: "e".to_owned(),
            what: "w".to_owned(),
            unit: String::new(),
            value: value.to_owned(),
            failure: String::new(),
        };
        let rows = [row("b", "1"), row("a", "2"), row("b", "")];
        assert_eq!(cell(&rows, "b", "e", "w"), Cell { numbers: vec![1.0], failures: 1 });
        assert_eq!(cell(&rows, "b", "e", "x"), Cell::default());
        assert_eq!(different(&rows, |_| true, |row| &row.approach), ["b", "a"]);
    }
}
