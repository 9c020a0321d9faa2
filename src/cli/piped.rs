//! Pipes that are named as files (`<(command)`, `/dev/stdin`), for commands that look at an input more than once.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;

use crate::store::path_list;
use crate::sys::open::{open_input, proc_path};

/// An input that can be read again and again: what was given, or a copy of the pipe that it names.
#[derive(Debug)]
pub(crate) struct Piped {
    text: String,
    /// The copy, which `text` names as long as it is open.
    _copy: Option<File>,
}

impl Piped {
    /// Reads the pipe, if `given` names one that a program holds; everything else stays as it is.
    ///
    /// # Errors
    /// Those of reading the pipe, and of making a temporary file.
    pub(crate) fn of(given: &str) -> io::Result<Self> {
        let is_pipe = std::fs::metadata(given).is_ok_and(|found| found.file_type().is_fifo());
        // Why a FIFO is refused is told where it is used.
        let Some(pipe) = is_pipe.then(|| open_input(given.as_ref()).ok()).flatten() else {
            return Ok(Self { text: given.to_owned(), _copy: None });
        };
        let mut copy = tempfile::tempfile()?;
        // What is larger is refused by its size.
        io::copy(&mut pipe.take(path_list::SIZE_MAX + 1), &mut copy)?;
        Ok(Self { text: proc_path(copy.as_fd()), _copy: Some(copy) })
    }

    /// What to open.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}
