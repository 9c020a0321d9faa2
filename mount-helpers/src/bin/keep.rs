//! `nixview-keep PROGRAM COUNT FD... NAME ARGS...`: waits until one of COUNT descriptors can be read, and becomes PROGRAM again.
//!
//! The keeper of an overlay only waits for the end of its view, or for a signal. It becomes this program meanwhile, which
//! takes a fifth of the memory. All that the keeper holds (locks, roots, the view's anchor) stays
//! open, because descriptors outlive execve(2). PROGRAM is the descriptor of the program to become, NAME and ARGS are its
//! arguments. Nothing is read from the descriptors: PROGRAM does that.

use std::convert::Infallible;
use std::error::Error;
use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use nixview::sys::execute;
use rustix::event::{PollFd, PollFlags, poll};

fn main() -> ExitCode {
    match keep() {
        // It is the program now.
        Ok(never) => match never {},
        // Without its process the view ends as that of a keeper that was killed: the next sweep takes it away.
        Err(error) => {
            // Nothing is left to tell it to if that fails.
            let _written = writeln!(std::io::stderr(), "nixview-keep: {error}");
            ExitCode::FAILURE
        }
    }
}

fn keep() -> Result<Infallible, Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    let mut number = || number(words.next());
    let program = execute::inherited(number()?)?;
    let count = number()?;
    let numbers = (0..count).map(|_| number()).collect::<Result<Vec<u32>, _>>()?;
    let watched = numbers.into_iter().map(execute::inherited).collect::<Result<Vec<OwnedFd>, _>>()?;
    let arguments: Vec<CString> =
        words.map(|word| CString::new(word.into_vec())).collect::<Result<_, _>>()?;
    let mut polled: Vec<PollFd<'_>> = watched.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    loop {
        match poll(&mut polled, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    drop(polled);
    // A copy goes with the program that executes it, which is well: the original is passed on, as all else.
    Ok(execute::become_program(&program, &arguments)?)
}

fn number(word: Option<OsString>) -> Result<u32, Box<dyn Error>> {
    let word = word.ok_or("too few arguments: it is for nixview alone")?;
    let word = word.to_str().ok_or("an argument is no number")?;
    Ok(word.parse()?)
}
