//! An upper over an environment of the tiny store, changed through the union as a mounted view would be.

use std::path::PathBuf;

use nixview::lock::EnvLock;
use nixview::store::Location;
use nixview::union::{Io, Options, UnionFs};
use nixview::vfs::{OpenFlags, SetAttr, Vfs, XattrMode};
use nixview::view::build;
use nixview::view::upper_dir::{LastView, LimitChoice, UpperDir, UpperLook, UpperSpec};

use crate::support::scene::{Ran, Scene};
use crate::support::union_support::{View, caller, name};
use crate::support::wait::{PATIENCE, eventually};

pub(crate) struct Changed {
    pub(crate) scene: Scene,
    pub(crate) label: String,
    pub(crate) upper: PathBuf,
}

type Tree = View<
    nixview::union::UnionFs<
        nixview::view::store_root::ClosureLower<nixview::layer::dir::DirLower>,
        nixview::layer::dir::DirUpper,
    >,
>;

impl Changed {
    /// An upper of the view `view` over an environment, in the state directory; not changed yet.
    pub(crate) fn new(label: &str, view: &str) -> Self {
        let scene = Scene::new();
        let upper = scene.path("state/uppers").join(view);
        let changed = Self { scene, label: label.to_owned(), upper };
        let held = changed.hold();
        held.record_view(&changed.last()).unwrap();
        drop(held);
        changed.settle();
        changed
    }

    fn last(&self) -> LastView {
        let lock = EnvLock::read(&self.scene.path(&format!("{}.lock", self.label))).unwrap();
        let store = Location::open(self.scene.store.root()).unwrap().real;
        LastView { lock, store, owner: (caller().uid, caller().gid), database_of: None }
    }

    /// Holds the upper, as the server of its view does.
    pub(crate) fn hold(&self) -> UpperDir {
        let last = self.last();
        let what = UpperSpec {
            store_dir: &last.lock.store_dir,
            view: self.upper.file_name().unwrap().to_str().unwrap(),
            owner: last.owner,
            format: None,
            limit: LimitChoice::default(),
        };
        UpperDir::open(&self.upper, true, &what).unwrap()
    }

    /// Waits until nobody holds the upper: a child that another test forks has all that is open here until it runs its
    /// program.
    pub(crate) fn settle(&self) {
        eventually("the upper is free", PATIENCE, || {
            UpperLook::open(&self.upper).unwrap().holder().unwrap().is_none()
        });
    }

    pub(crate) fn nixview(&self, arguments: &[&str]) -> Ran {
        self.scene.nixview(arguments)
    }

    /// The path in the view of a member of the store, relative to `/nix`.
    pub(crate) fn below(&self, label: &str) -> String {
        format!("store/{}", self.scene.store.path(label))
    }

    /// Does something to the view.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Tree) -> T) -> T {
        let last = self.last();
        let held = self.hold();
        let location = Location::open(self.scene.store.root()).unwrap();
        let closure = build::closure(&last.lock, &location, &self.scene.path("state")).unwrap();
        let store = std::fs::File::open(&location.real).unwrap().into();
        let lower = build::lower(&last.lock, &closure, &location, &store, &self.scene.path("state")).unwrap();
        let options =
            Options { owner: Some(last.owner), io: Io::Cached, durable: false, ..Options::default() };
        let fs = UnionFs::new(lower, Some(held.layer().clone()), options).unwrap();
        let answer = work(&mut View { fs, lookups: std::collections::HashMap::new() });
        drop(held);
        self.settle();
        answer
    }

    fn parent<'p>(&self, path: &'p str) -> (&'p str, &'p str) {
        path.rsplit_once('/').unwrap_or(("", path))
    }

    pub(crate) fn write(&mut self, path: &str, data: &[u8]) {
        self.with(|view| assert_eq!(view.write(path, 0, data).unwrap(), data.len()));
    }

    pub(crate) fn read(&mut self, path: &str) -> Vec<u8> {
        self.with(|view| {
            let ino = view.ino(path);
            view.read(ino)
        })
    }

    pub(crate) fn create(&mut self, path: &str, data: &[u8]) {
        let (above, last) = self.parent(path);
        self.with(|view| {
            let dir = view.ino(above);
            let (entry, opened) =
                view.fs.create(caller(), dir, &name(last), 0o644, OpenFlags(libc::O_RDWR)).unwrap();
            assert_eq!(view.fs.write(entry.attr.ino, Some(opened.handle), 0, data).unwrap(), data.len());
        });
    }

    pub(crate) fn mkdir(&mut self, path: &str) {
        let (above, last) = self.parent(path);
        self.with(|view| {
            let dir = view.ino(above);
            view.fs.mkdir(caller(), dir, &name(last), 0o755).unwrap();
        });
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        let (above, last) = self.parent(path);
        self.with(|view| {
            let dir = view.ino(above);
            view.fs.symlink(caller(), dir, &name(last), target.as_bytes()).unwrap();
        });
    }

    pub(crate) fn link(&mut self, path: &str, new: &str) {
        let (above, last) = self.parent(new);
        self.with(|view| {
            let (object, dir) = (view.ino(path), view.ino(above));
            view.fs.link(object, dir, &name(last)).unwrap();
        });
    }

    pub(crate) fn chmod(&mut self, path: &str, permissions: u16) {
        self.with(|view| {
            let ino = view.ino(path);
            let changes = SetAttr { permissions: Some(permissions), ..SetAttr::default() };
            view.fs.setattr(caller(), ino, None, &changes).unwrap();
        });
    }

    pub(crate) fn set_xattr(&mut self, path: &str, attribute: &str, value: &[u8]) {
        self.with(|view| {
            let ino = view.ino(path);
            view.fs.setxattr(ino, attribute.as_bytes(), value, XattrMode::Set).unwrap();
        });
    }

    /// As rm -r.
    pub(crate) fn remove_tree(&mut self, path: &str) {
        self.with(|view| remove(view, path));
    }
}

fn remove(view: &mut Tree, path: &str) {
    let attr = view.walk(path).unwrap();
    let (above, last) = path.rsplit_once('/').unwrap();
    let dir = view.ino(above);
    if attr.kind == nixview::vfs::FileKind::Directory {
        for entry in view.names(attr.ino, 100) {
            remove(view, &format!("{path}/{}", String::from_utf8(entry.name.as_bytes().to_vec()).unwrap()));
        }
        view.fs.rmdir(dir, &name(last)).unwrap();
    } else {
        view.fs.unlink(dir, &name(last)).unwrap();
    }
}
