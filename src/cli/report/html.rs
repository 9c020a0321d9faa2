//! HTML: escaped text, numbers and tables.

use super::data::Number;
use super::drawing::clean;

/// A text as HTML, in an element or an attribute.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A number, with what it is in the JSON and where.
#[must_use]
pub fn number(number: &Number) -> String {
    format!("<data value=\"{}\" {}>{}</data>", number.raw, number.attributes(), number.human())
}

/// The same of one that may be missing: a dash then.
#[must_use]
pub fn number_or_dash(found: Option<&Number>) -> String {
    found.map_or_else(|| "–".to_owned(), number)
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub enum Cell {
    /// A text.
    Text(String),
    /// A path, or anything else that is long and has no spaces.
    Path(String),
    /// A number, if it is there.
    Number(Option<Number>),
}

/// A table, of which the first column names the rows.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// The names of the columns, with what they mean.
    pub columns: Vec<(&'static str, &'static str)>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
    /// Rows for the whole, which stay last.
    pub totals: Vec<Vec<Cell>>,
}

impl Table {
    /// As HTML, in a part of the page that moves sideways if it is too wide.
    #[must_use]
    pub fn html(&self) -> String {
        let caption = escape(&self.caption);
        let mut html = format!(
            "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{caption} (table)\">\
             <table class=\"sortable\"><caption>{caption}</caption><thead><tr>"
        );
        for (at, (name, meaning)) in self.columns.iter().enumerate() {
            let numbers = self
                .rows
                .first()
                .and_then(|row| row.get(at))
                .is_some_and(|cell| matches!(cell, Cell::Number(_)));
            let class = if numbers { " class=\"n\"" } else { "" };
            let title =
                if meaning.is_empty() { String::new() } else { format!(" title=\"{}\"", escape(meaning)) };
            html += &format!("<th scope=\"col\"{class}{title}>{}</th>", escape(name));
        }
        html += "</tr></thead><tbody>\n";
        self.rows.iter().for_each(|row| html += &row_html(row));
        html += "</tbody>";
        if !self.totals.is_empty() {
            html += "<tfoot>";
            self.totals.iter().for_each(|row| html += &row_html(row));
            html += "</tfoot>";
        }
        html + "</table></div>\n"
    }
}

fn row_html(row: &[Cell]) -> String {
    let mut html = String::from("<tr>");
    for (at, cell) in row.iter().enumerate() {
        let (class, inner) = match cell {
            Cell::Text(text) => ("", escape(text)),
            Cell::Path(path) => (" class=\"path\"", escape(path)),
            Cell::Number(found) => (" class=\"n\"", number_or_dash(found.as_ref())),
        };
        html += &match at {
            0 => format!("<th scope=\"row\"{class}>{inner}</th>"),
            _ => format!("<td{class}>{inner}</td>"),
        };
    }
    html + "</tr>\n"
}

/// A figure: what it shows, in a sentence what is to be seen, the drawing, and all of its numbers in a table.
#[derive(Clone, Debug)]
pub struct Figure<'a> {
    /// Letters, digits and dashes.
    pub id: &'a str,
    /// What it shows.
    pub title: &'a str,
    /// What is to be seen, as HTML.
    pub summary: &'a str,
    /// The drawing, as it stands in the page.
    pub svg: Option<String>,
    /// Its numbers.
    pub table: &'a Table,
    /// The table is shown at once.
    pub open: bool,
}

impl Figure<'_> {
    /// As HTML.
    #[must_use]
    pub fn html(&self) -> String {
        let (id, title) = (self.id, escape(self.title));
        let drawing = self.svg.as_ref().map_or_else(String::new, |svg| {
            format!("<div class=\"wide drawing\" tabindex=\"0\" role=\"region\" aria-label=\"{title} (drawing)\">{svg}</div>\n")
        });
        format!(
            "<figure id=\"{id}\" data-title=\"{title}\"><figcaption><strong id=\"{id}-title\">{title}</strong> \
             <span id=\"{id}-text\">{}</span></figcaption>\n{drawing}<details{}><summary>Numbers of: {title}</summary>\n{}</details>\
             </figure>\n",
            self.summary,
            if self.open { " open" } else { "" },
            self.table.html()
        )
    }

    /// The ids of what describes the drawing.
    #[must_use]
    pub fn label(id: &str) -> String {
        format!("{id}-title {id}-text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        let hostile = "</script><a href=\"x\" id='y'>&\u{202e}\u{1b}[0m";
        let found = escape(hostile);
        assert_eq!(
            found,
            "&lt;/script&gt;&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;\u{fffd}\u{fffd}[0m"
        );
        let table = Table {
            caption: hostile.to_owned(),
            columns: vec![("NAME", "")],
            rows: vec![vec![Cell::Text(hostile.to_owned())], vec![Cell::Path(hostile.to_owned())]],
            totals: Vec::new(),
        };
        assert!(!table.html().contains("<a ") && !table.html().contains("</script"));
    }
}
