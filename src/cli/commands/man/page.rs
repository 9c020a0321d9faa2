//! A man page of a command: what clap_mangen makes, and notes and examples whose lines stay as they are.

use std::io::{self, Write};

use clap_mangen::Man;

/// Writes the page of `command`, which is called `name` (`nixview-trace-report`), in section 1.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(
    command: &clap::Command,
    name: &str,
    others: &[String],
    out: &mut dyn Write,
) -> io::Result<()> {
    let man = Man::new(command.clone().display_name(name.to_owned())).title(name.to_owned());
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(out)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(out)?;
    }
    if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
        out.write_all(sections(&after.to_string()).as_bytes())?;
    }
    if !others.is_empty() {
        let all: Vec<String> = others.iter().map(|name| format!(".BR {} (1)", escaped(name))).collect();
        writeln!(out, ".SH \"SEE ALSO\"\n{}", all.join(",\n"))?;
    }
    man.render_version_section(out)
}

/// The text behind the options: paragraphs, and under headings what is indented, line by line.
fn sections(text: &str) -> String {
    let mut page = String::new();
    let mut notes = false;
    let mut verbatim = false;
    for line in text.lines() {
        let indented = line.starts_with("  ");
        if verbatim && !indented {
            page.push_str(".fi\n");
            verbatim = false;
        }
        if line == "Examples:" {
            page.push_str(".SH EXAMPLES\n");
            continue;
        }
        if !notes && !page.contains(".SH EXAMPLES") {
            page.push_str(".SH NOTES\n");
            notes = true;
        }
        if indented {
            if !verbatim {
                page.push_str(".nf\n");
                verbatim = true;
            }
            page.push_str(&format!("{}\n", escaped(line.get(2..).unwrap_or_default())));
        } else if line.is_empty() {
            page.push_str(".PP\n");
        } else {
            page.push_str(&format!("{}\n", escaped(line)));
        }
    }
    if verbatim {
        page.push_str(".fi\n");
    }
    page
}

/// A line of text for roff: no escape, no request, and hyphens that can be copied.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with(['.', ' ']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_examples_stay_lines() {
        let text = "One\nparagraph.\n\nWords:\n  a  means b\n  c  means d\n\nExamples:\n  nixview a | x\n  .nixview 'b' \\n";
        assert_eq!(
            sections(text),
            ".SH NOTES\nOne\nparagraph.\n.PP\nWords:\n.nf\na  means b\nc  means d\n.fi\n.PP\n.SH EXAMPLES\n.nf\n\
             nixview a | x\n\\&.nixview \\(aqb\\(aq \\en\n.fi\n"
        );
        assert_eq!(sections("Examples:\n  x -y"), ".SH EXAMPLES\n.nf\nx \\-y\n.fi\n");
    }
}
