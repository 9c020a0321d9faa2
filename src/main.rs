//! The `nixview` program: hands its arguments to the library and its answer to the shell.

use std::process::ExitCode;

use nixview::sys::memory::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    nixview::cli::main()
}
