//! The closure layer: the names of a closure's members as a tree whose marks lead overlayfs into
//! the store.
//!
//! ```text
//! /            nix/            opaque: nothing of the layers below shows, except where a redirect leads
//! nix/store/   NAME/           a member that is a directory: empty, redirect /NAME
//!              NAME -> TARGET  a member that is a symbolic link: the same link
//!              NAME            a member that is a file: its contents, or its length with metacopy and redirect /NAME
//! nix/var/                     with Nix's state: empty, redirect /nix-state
//! ```
//!
//! The layers below it are Nix's state, whose root has the name `nix-state`, and the store
//! directory itself as the last one. overlayfs never asks the last layer for marks, so a mark that
//! a member has of its own leads nowhere. It follows a redirect into every layer below, so
//! `nix-state` must be opaque in its layer: the store could have that name too.
//!
//! Files have their contents in the layer, because `metacopy=on` would let a forged upper name the
//! data of other files. If the contents are more than a limit, no file has them, and the view needs
//! `metacopy=on`.

mod contents;
mod error;
mod survey;

use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use super::tree::{Content, Entry, Mark, Node, Tree};
use crate::vfs::{Name, Timespec};

pub use error::ClosureLayerError;
pub use survey::Survey;

use survey::{Kind, Member};

/// The most bytes of contents that all files of a layer have together.
pub const MAX_CONTENTS: u64 = 16 << 20;

/// The name of Nix's state at the root of its layer.
pub const NIX_STATE: &str = "nix-state";

/// What the made-up directories show, as in a view over FUSE: nothing of the host.
const PERMISSIONS: u16 = 0o755;
const TIME: Timespec = Timespec { seconds: 1, nanoseconds: 0 };

/// The tree, and what overlayfs has to do for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClosureLayer {
    /// The tree.
    pub tree: Tree,
    /// The files whose data overlayfs reads from the store. If there are any, the view needs
    /// `metacopy=on`.
    pub stand_ins: Vec<StandIn>,
}

/// A file of the layer that has only the length of the member.
///
/// A copy-up copies as many bytes as this file is long, so the length must be the member's at each
/// mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandIn {
    /// The name in the store directory.
    pub name: String,
    /// The length in bytes.
    pub size: u64,
}

impl Survey {
    /// The closure layer of these members, with Nix's state or without, and with at most
    /// `max_contents` bytes of contents.
    ///
    /// # Errors
    /// If a file cannot be read, or is not what it was when the members were looked at.
    pub fn layer(
        &self,
        store: BorrowedFd<'_>,
        nix_state: bool,
        max_contents: u64,
    ) -> Result<ClosureLayer, ClosureLayerError> {
        let with_contents = self.bytes_of_files() <= max_contents;
        let mut stand_ins = Vec::new();
        let mut members = Vec::with_capacity(self.members().len());
        for member in self.members() {
            if let (Kind::File { size }, false) = (&member.kind, with_contents) {
                stand_ins.push(stand_in(&member.name, *size)?);
            }
            let node = node(member, store, with_contents)?;
            members.push(Entry { name: member.name.clone(), node });
        }
        let mut nix = vec![made_up("store", members)?];
        if nix_state {
            let mut var = made_up("var", Vec::new())?;
            var.node.marks.push(redirect(NIX_STATE.as_bytes()));
            nix.push(var);
        }
        let mut nix = made_up("nix", nix)?;
        nix.node.marks.push(Mark::Opaque);
        let tree = Tree::new(PERMISSIONS, TIME, vec![nix])?;
        Ok(ClosureLayer { tree, stand_ins })
    }
}

/// A directory that no layer below has.
fn made_up(name: &str, entries: Vec<Entry>) -> Result<Entry, ClosureLayerError> {
    let name = Name::new(name.as_bytes()).map_err(|_| ClosureLayerError::Name(name.to_owned()))?;
    Ok(Entry { name, node: Node::directory(PERMISSIONS, TIME, entries) })
}

fn stand_in(name: &Name, size: u64) -> Result<StandIn, ClosureLayerError> {
    let text = std::str::from_utf8(name.as_bytes()).map_err(|_| ClosureLayerError::Name(name.to_string()))?;
    Ok(StandIn { name: text.to_owned(), size })
}

fn redirect(name: &[u8]) -> Mark {
    Mark::Redirect([b"/", name].concat())
}

fn node(member: &Member, store: BorrowedFd<'_>, with_contents: bool) -> Result<Node, ClosureLayerError> {
    let redirect = || redirect(member.name.as_bytes());
    let (content, marks) = match &member.kind {
        Kind::Directory => (Content::Directory(Vec::new()), vec![redirect()]),
        Kind::Symlink { target } => (Content::Symlink(target.clone()), Vec::new()),
        Kind::File { .. } if with_contents => (Content::File(contents::read(store, member)?), Vec::new()),
        Kind::File { size } => (Content::Hole(*size), vec![Mark::Metacopy, redirect()]),
    };
    Ok(Node { permissions: member.permissions, mtime: member.mtime, marks, content })
}

#[cfg(test)]
mod tests;
