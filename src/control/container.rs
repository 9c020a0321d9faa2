//! The container that a view is made for, as its runtime and the kernel tell of it.

use std::io;

use serde::{Deserialize, Serialize};

use crate::sys::process;

/// A container. Two of them never are equal, not even of one id: an id is unique in one runtime's directory alone
/// (`runc --root`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// The directory of its `config.json`, without symbolic links.
    pub bundle: String,
    /// Its first process.
    pub pid: u32,
    /// When that began, in clock ticks since the machine started: numbers of processes are used again.
    pub started: u64,
}

impl Container {
    /// The container whose first process is `pid`.
    ///
    /// # Errors
    /// `ESRCH` if the process has ended; those of reading /proc.
    pub fn new(id: String, bundle: String, pid: u32) -> io::Result<Self> {
        let started = process::started(pid)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        Ok(Self { id, bundle, pid, started })
    }

    /// True if its first process has ended, and with it the container.
    ///
    /// # Errors
    /// Those of reading /proc.
    pub fn is_over(&self) -> io::Result<bool> {
        Ok(process::started(self.pid)? != Some(self.started))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn a_container_is_over_when_its_first_process_is() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let container = Container::new("web".to_owned(), "/b".to_owned(), child.id()).unwrap();
        assert!(!container.is_over().unwrap());
        let another = Container { started: container.started + 1, ..container.clone() };
        assert!(another.is_over().unwrap(), "the number is another process's");
        child.kill().unwrap();
        // Dead is enough: its parent may wait for it later.
        while std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().contains(") S ") {
            std::thread::yield_now();
        }
        while !container.is_over().unwrap() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(container.is_over().unwrap());
        let gone = Container::new("web".to_owned(), "/b".to_owned(), container.pid).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
    }
}
