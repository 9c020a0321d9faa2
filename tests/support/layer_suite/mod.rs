//! The contract of `Lower` and `Upper`, as one suite that runs over every implementation.
//!
//! Each test of it gets a new, empty upper. [`run`] runs all of them and names the one that failed.

use std::io;

use nixview::layer::{Access, EntryKind, LayerFile, NewObject, Presence, Upper};
use nixview::vfs::{Errno, FileKind, Name};

mod content;
pub(crate) mod dir;
mod metadata;
mod names;
mod objects;

/// An upper under test and what is known of it.
pub(crate) struct Bench<U> {
    pub(crate) upper: U,
    /// Owner and group that drafts can be given.
    pub(crate) owner: (u32, u32),
    /// True if `user.*` attributes can be set on files and directories.
    pub(crate) xattrs: bool,
    /// True if names like `.wh.NAME` are the layer's own.
    pub(crate) reserves_names: bool,
    /// Opens the same tree again, as after a crash.
    pub(crate) reopen: Box<dyn Fn() -> U>,
    /// How much lies in the work directory.
    pub(crate) work: Box<dyn Fn() -> usize>,
    /// Dropped after the upper: what the tree lies in.
    pub(crate) _keep: Box<dyn std::any::Any>,
}

/// A test of the suite and its name.
pub(crate) type Test<U> = (&'static str, fn(&Bench<U>));

/// Runs the suite; `make` answers a new upper for each test.
pub(crate) fn run<U: Upper>(layer: &str, make: impl Fn() -> Bench<U>) {
    let tests: Vec<Test<U>> =
        [objects::tests(), names::tests(), metadata::tests(), content::tests()].concat();
    for (name, test) in tests {
        let bench = make();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&bench)));
        assert!(outcome.is_ok(), "{layer}: {name} failed (see above)");
        assert_eq!((bench.work)(), 0, "{layer}: {name} left something in the work directory");
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// The errno of a failed call.
#[track_caller]
pub(crate) fn errno<T>(answer: io::Result<T>) -> Errno {
    match answer {
        Ok(_) => panic!("succeeded, and should not have"),
        Err(error) => Errno::of(&error),
    }
}

/// What can be under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Thing {
    Absent,
    Whiteout,
    File,
    Symlink,
    EmptyDir,
    /// A directory in which only whiteouts are.
    HollowDir,
    /// A directory with a file and a whiteout in it.
    FullDir,
}

impl Thing {
    pub(crate) const ALL: [Self; 7] = [
        Self::Absent,
        Self::Whiteout,
        Self::File,
        Self::Symlink,
        Self::EmptyDir,
        Self::HollowDir,
        Self::FullDir,
    ];

    pub(crate) fn is_dir(self) -> bool {
        matches!(self, Self::EmptyDir | Self::HollowDir | Self::FullDir)
    }
}

impl<U: Upper> Bench<U> {
    pub(crate) fn root(&self) -> U::Object {
        self.upper.root().unwrap()
    }

    pub(crate) fn draft(&self, new: &NewObject<'_>, permissions: u16) -> U::Draft {
        self.upper.draft(new, permissions, self.owner.0, self.owner.1).unwrap()
    }

    /// Makes and publishes an object in a directory.
    pub(crate) fn add(&self, dir: &U::Object, text: &str, new: &NewObject<'_>) -> U::Object {
        let draft = self.draft(new, 0o755);
        let object = self.upper.draft_object(&draft);
        self.upper.publish(draft, dir, &name(text)).unwrap();
        object
    }

    pub(crate) fn add_dir(&self, dir: &U::Object, text: &str) -> U::Object {
        self.add(dir, text, &NewObject::Directory { opaque: false })
    }

    pub(crate) fn add_file(&self, dir: &U::Object, text: &str, content: &[u8]) -> U::Object {
        let object = self.add(dir, text, &NewObject::File);
        let file = self.upper.open(&object, Access::ReadWrite).unwrap();
        let mut written = 0;
        while written < content.len() {
            written += file.write_at(written as u64, &content[written..]).unwrap();
        }
        object
    }

    /// Makes one of the things under a name; answers its inode number, if it is an object.
    pub(crate) fn put(&self, dir: &U::Object, text: &str, thing: Thing) -> Option<u64> {
        match thing {
            Thing::Absent => {}
            Thing::Whiteout => self.upper.remove(dir, &name(text), true).unwrap(),
            Thing::File => drop(self.add_file(dir, text, text.as_bytes())),
            Thing::Symlink => drop(self.add(dir, text, &NewObject::Symlink(b"nowhere"))),
            Thing::EmptyDir | Thing::HollowDir | Thing::FullDir => {
                let made = self.add_dir(dir, text);
                if thing != Thing::EmptyDir {
                    self.put(&made, "hidden", Thing::Whiteout);
                }
                if thing == Thing::FullDir {
                    self.put(&made, "seen", Thing::File);
                }
            }
        }
        self.ino(dir, text)
    }

    /// What is under a name, as `presence` and as the listing have it.
    #[track_caller]
    pub(crate) fn thing(&self, dir: &U::Object, text: &str) -> Thing {
        let entry = self.upper.read_dir(dir).unwrap().into_iter().find(|e| e.name == name(text));
        let (thing, listed) = match self.upper.presence(dir, &name(text)).unwrap() {
            Presence::Absent => (Thing::Absent, None),
            Presence::Whiteout => (Thing::Whiteout, Some(EntryKind::Whiteout)),
            Presence::Present(object) => {
                let stat = self.upper.stat(&object).unwrap();
                let thing = match stat.kind {
                    FileKind::Regular => Thing::File,
                    FileKind::Symlink => Thing::Symlink,
                    FileKind::Directory => {
                        let inside = self.upper.read_dir(&object).unwrap();
                        match inside.iter().filter(|e| e.kind != EntryKind::Whiteout).count() {
                            0 if inside.is_empty() => Thing::EmptyDir,
                            0 => Thing::HollowDir,
                            _ => Thing::FullDir,
                        }
                    }
                    other => panic!("{other:?} under {text}"),
                };
                assert_eq!(entry.as_ref().map(|e| e.ino), Some(stat.ino), "{text}: number in the listing");
                (thing, Some(EntryKind::Object(stat.kind)))
            }
        };
        assert_eq!(entry.map(|e| e.kind), listed, "{text}: listing and presence agree");
        thing
    }

    pub(crate) fn ino(&self, dir: &U::Object, text: &str) -> Option<u64> {
        match self.upper.presence(dir, &name(text)).unwrap() {
            Presence::Present(object) => Some(self.upper.stat(&object).unwrap().ino),
            _ => None,
        }
    }

    /// The whole content of a file.
    pub(crate) fn read(&self, object: &U::Object) -> Vec<u8> {
        let file = self.upper.open(object, Access::Read).unwrap();
        let mut content = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match file.read_at(content.len() as u64, &mut buffer).unwrap() {
                0 => return content,
                got => content.extend_from_slice(&buffer[..got]),
            }
        }
    }
}
