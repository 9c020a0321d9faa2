//! How many requests of each kind came, and how many were answered with an error.
//!
//! Requests are what a view costs: warm work must cause none. So every request that reaches the server is counted
//! here, and tests compare the counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! operations {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A kind of request, as the FUSE protocol has them.
        #[allow(missing_docs, reason = "the names are those of the FUSE operations")]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Operation { $($variant),* }

        impl Operation {
            /// All kinds, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in lower case, as the kernel's FUSE documentation has it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

operations! {
    Lookup = "lookup", Forget = "forget", Getattr = "getattr", Setattr = "setattr", Readlink = "readlink",
    Mknod = "mknod", Mkdir = "mkdir", Symlink = "symlink", Link = "link", Unlink = "unlink", Rmdir = "rmdir",
    Rename = "rename", Create = "create", Open = "open", Read = "read", Write = "write", Flush = "flush",
    Release = "release", Fsync = "fsync", Opendir = "opendir", Readdir = "readdir", Releasedir = "releasedir",
    Fsyncdir = "fsyncdir", Statfs = "statfs", Getxattr = "getxattr", Listxattr = "listxattr",
    Setxattr = "setxattr", Removexattr = "removexattr", Access = "access", Fallocate = "fallocate",
    Lseek = "lseek", CopyFileRange = "copy_file_range", Ioctl = "ioctl", Poll = "poll",
}

const KINDS: usize = Operation::ALL.len();

/// Counters of one view; counting takes no lock. Forgets are counted by message, not by inode.
#[derive(Debug)]
pub struct Metrics {
    counters: [Counter; KINDS],
}

#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    errors: AtomicU64,
}

/// What one counter showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Requests that were worked on.
    pub requests: u64,
    /// Requests among them that were answered with an error number.
    pub errors: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { counters: std::array::from_fn(|_| Counter::default()) }
    }
}

impl Metrics {
    /// Counts a request.
    pub fn request(&self, operation: Operation) {
        if let Some(counter) = self.counters.get(operation as usize) {
            counter.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an answer that was an error.
    pub fn error(&self, operation: Operation) {
        if let Some(counter) = self.counters.get(operation as usize) {
            counter.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What one counter shows now.
    #[must_use]
    pub fn get(&self, operation: Operation) -> Count {
        self.counters.get(operation as usize).map_or_else(Count::default, |counter| Count {
            requests: counter.requests.load(Ordering::Relaxed),
            errors: counter.errors.load(Ordering::Relaxed),
        })
    }

    /// All counters that are not 0. They are read one after the other, not at one moment.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Operation, Count)> {
        let all = Operation::ALL.iter().map(|operation| (*operation, self.get(*operation)));
        all.filter(|(_, count)| *count != Count::default()).collect()
    }

    /// The number of all requests that came.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.snapshot().iter().map(|(_, count)| count.requests).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_has_its_own_counter() {
        let metrics = Metrics::default();
        for (n, operation) in (1..).zip(Operation::ALL) {
            for _ in 0..n {
                metrics.request(*operation);
            }
        }
        metrics.error(Operation::Lookup);
        assert_eq!(metrics.get(Operation::Lookup), Count { requests: 1, errors: 1 });
        assert_eq!(metrics.get(Operation::Poll), Count { requests: KINDS as u64, errors: 0 });
        assert_eq!(metrics.total(), (KINDS * (KINDS + 1) / 2) as u64);
        assert_eq!(metrics.snapshot().len(), KINDS);
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = Operation::ALL.iter().map(|o| o.name()).collect();
        assert_eq!(names.len(), KINDS);
    }
}
