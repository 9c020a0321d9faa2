//! Layers on a disk, in a temporary directory.

use std::fs::File;
use std::path::Path;

use nixview::layer::Lower;
use nixview::layer::dir::{DirLower, DirUpper, Format};
use tempfile::TempDir;

use super::{Disk, populate, set_times};

/// A lower, an upper and its work directory.
pub struct DirDisk {
    pub dir: TempDir,
    pub format: Format,
}

impl DirDisk {
    /// The usual lower.
    pub fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// The usual lower, on the file system of a directory.
    pub fn new_in(base: &Path) -> Self {
        Self::with_format(base, None)
    }

    /// The usual lower, and an upper of a format.
    pub fn with_format(base: &Path, format: Option<Format>) -> Self {
        let dir = TempDir::with_prefix_in("nv", base).unwrap();
        for name in ["lower", "work0", "data", "work"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let open = |name| File::open(dir.path().join(name)).unwrap();
        populate(&DirUpper::open(&open("lower"), &open("work0"), None).unwrap());
        let upper = DirUpper::open(&open("data"), &open("work"), format).unwrap();
        set_times(&upper, &upper.root().unwrap());
        let format = upper.format();
        Self { dir, format }
    }

    pub fn open(&self, name: &str) -> File {
        File::open(self.dir.path().join(name)).unwrap()
    }
}

impl Disk for DirDisk {
    type L = DirLower;
    type U = DirUpper;

    fn lower(&self) -> DirLower {
        DirLower::new(&self.open("lower")).unwrap()
    }

    fn redirects(&self) -> bool {
        self.format != Format::Files
    }

    fn upper(&self) -> DirUpper {
        DirUpper::open(&self.open("data"), &self.open("work"), Some(self.format)).unwrap()
    }
}
