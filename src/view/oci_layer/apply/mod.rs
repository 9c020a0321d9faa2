//! From an archive to an upper.
//!
//! - `path`: where the name of a member leads. `object`: what a member makes. `finish`: what is done at the end.

use std::borrow::Cow;
use std::io::Read;

use super::entry::{Body, Entry};
use super::plan::{Plan, ROOT};
use super::read::Reader;
use super::{DIRECTORY_MARK, ImportError, OPAQUE, Problem, Tried, WHITEOUT};
use crate::layer::{Descent, Lower, NewObject, Presence, Restore};
use crate::vfs::{Errno, FileKind, Name, Timespec, XattrMode};
use crate::view::changes::Trees;

use object::CHUNK;
use path::{Place, names_of};

mod finish;
mod object;
mod path;

/// How many files with set-id bits are told by name.
const TOLD: usize = 5;

/// Set-user-id and set-group-id of a mode.
const SET_ID: u16 = 0o6000;

/// The attribute of file capabilities (capabilities(7)).
const CAPABILITIES: &[u8] = b"security.capability";

const ROOT_OF: &str = "open the root";

/// How the members of an archive are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The directory of the archive that is the root of the view.
    pub prefix: Vec<Name>,
    /// Leave out members that lie elsewhere; else they are an error.
    pub skip_others: bool,
    /// The most bytes that the archive may have, uncompressed.
    pub max_size: u64,
}

/// Where they go.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t, L, U> {
    /// An upper without a name in it, and the lower that directories are taken from which the archive implies.
    pub trees: Trees<'t, L, U>,
    /// User and group of everything; `None`: as the archive says.
    pub owner: Option<(u32, u32)>,
    /// Device nodes are made; else they are an error.
    pub devices: bool,
    /// Files keep what gives other rights to a program: set-id bits, and file capabilities.
    pub set_id: bool,
}

/// What was imported.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// Objects that were made, one that came twice counted twice.
    pub entries: u64,
    /// Names that are hidden.
    pub whiteouts: u64,
    /// Directories of which nothing of the lower shows, by a mark.
    pub opaque: u64,
    /// Members that lie elsewhere, left out.
    pub skipped: u64,
    /// Files that the archive gives set-id bits or capabilities, whether they kept them or not.
    pub set_id: u64,
    /// The paths of the first few of these in the archive, escaped.
    pub first_set_id: Vec<String>,
}

/// Makes an empty upper hold and hide what an archive says.
///
/// Nothing in the archive is trusted: names are looked up one by one in the new upper, where no symbolic link is followed. Of two members with one
/// name the later counts. Whiteouts and opaque marks hide what the lower has, wherever in the archive they come, and nothing of the archive itself.
/// Zeros in files become holes. Nothing is synced.
///
/// # Errors
/// [`ImportError`], with the member; the upper then holds a part.
pub fn import<L: Lower, U: Restore>(
    source: &Source,
    archive: impl Read,
    target: Target<'_, L, U>,
) -> Result<Imported, ImportError> {
    let mut reader = Reader::new(archive, source.max_size);
    let root = target.trees.upper.root().tried(ROOT_OF).map_err(|problem| reader.error(problem))?;
    let mut apply = Apply {
        source,
        target,
        plan: Plan::new(),
        at: Vec::new(),
        way: Descent::new(root),
        imported: Imported::default(),
        buffer: vec![0; CHUNK],
    };
    while let Some(entry) = reader.next()? {
        if let Err(problem) = apply.member(&entry, &mut reader) {
            return Err(reader.error(problem));
        }
    }
    reader.finish()?;
    apply.finish()
}

struct Apply<'a, L, U: Lower> {
    source: &'a Source,
    target: Target<'a, L, U>,
    /// What is to be hidden, at the end: it hides nothing of the archive itself. And the times of directories, set last, since
    /// what is made in them changes them.
    plan: Plan,
    /// The directory that was last looked up, and the directories on the way there.
    at: Vec<Name>,
    way: Descent<U::Object>,
    imported: Imported,
    buffer: Vec<u8>,
}

impl<L: Lower, U: Restore> Apply<'_, L, U> {
    fn member(&mut self, entry: &Entry, reader: &mut Reader<impl Read>) -> Result<(), Problem> {
        let path = match Place::of(&entry.path, &self.source.prefix)? {
            Place::Inside(path) => path,
            Place::Outside => return self.outside(entry),
        };
        let Some((name, above)) = path.split_last() else { return self.root(entry) };
        if name.as_bytes() == OPAQUE {
            let place = self.plan.place(above);
            self.plan.change(place, |node| node.opaque = true);
            return Ok(());
        }
        if name.as_bytes().starts_with(DIRECTORY_MARK) {
            return Ok(());
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            let hidden =
                Name::new(hidden).map_err(|errno| Problem::refused(format!("it hides no name: {errno}")))?;
            let above = self.plan.place(above);
            let place = self.plan.inner(above, &hidden);
            self.plan.change(place, |node| node.hidden = true);
            return Ok(());
        }
        self.imported.entries += 1;
        let entry = &self.without_set_id(entry);
        let dir = self.directory(above)?.ok_or_else(|| not_a_directory(above))?;
        self.object(entry, &dir, &path, name, reader)
    }

    /// Counts a member that gives a program other rights, and takes them away unless they are to stay.
    fn without_set_id<'e>(&mut self, entry: &'e Entry) -> Cow<'e, Entry> {
        let capable = entry.xattrs.iter().any(|(name, _)| name == CAPABILITIES);
        let gives = matches!(entry.body, Body::File { .. }) && (entry.permissions & SET_ID != 0 || capable);
        if !gives {
            return Cow::Borrowed(entry);
        }
        self.imported.set_id += 1;
        if self.imported.first_set_id.len() < TOLD {
            self.imported.first_set_id.push(entry.path.escape_ascii().to_string());
        }
        if self.target.set_id {
            return Cow::Borrowed(entry);
        }
        let mut entry = entry.clone();
        entry.permissions &= !SET_ID;
        entry.xattrs.retain(|(name, _)| name != CAPABILITIES);
        Cow::Owned(entry)
    }

    fn outside(&mut self, entry: &Entry) -> Result<(), Problem> {
        let names = names_of(&entry.path)?;
        let prefix = &self.source.prefix;
        // The directories that lead to the root of the view, and the archive's own.
        if prefix.starts_with(&names) && entry.body == Body::Directory {
            return Ok(());
        }
        if let Some((last, above)) = names.split_last().filter(|(_, above)| prefix.starts_with(above)) {
            let hidden = last.as_bytes().strip_prefix(WHITEOUT);
            if last.as_bytes() == OPAQUE
                || (hidden.is_some() && hidden == prefix.get(above.len()).map(Name::as_bytes))
            {
                return Err(Problem::refused("it hides the root of the view"));
            }
        }
        if self.source.skip_others {
            self.imported.skipped += 1;
            return Ok(());
        }
        let shown = prefix.iter().map(|name| format!("{name}/")).collect::<String>();
        Err(Problem::refused(format!("it does not lie in {shown}")))
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Problem> {
        if entry.body != Body::Directory {
            return Err(Problem::refused("the root of the view is a directory"));
        }
        let root = self.target.trees.upper.root().tried(ROOT_OF)?;
        self.metadata(&root, entry)?;
        self.plan.change(ROOT, |node| node.mtime = Some(entry.mtime));
        self.imported.entries += 1;
        Ok(())
    }

    /// The directory of the upper at a path; those that are not there are made, like the lower's. `None` if something else is there.
    fn directory(&mut self, path: &[Name]) -> Result<Option<U::Object>, Problem> {
        const LOOK: &str = "look up its directory";
        let upper = self.target.trees.upper;
        let common = self.at.iter().zip(path).take_while(|(one, other)| one == other).count();
        self.at.truncate(common);
        let mut dir = self.way.at(&self.at, |dir, name| upper.lookup(dir, name)).tried(LOOK)?;
        let mut place = None;
        for (index, name) in path.iter().enumerate().skip(common) {
            let next = match upper.presence(&dir, name).tried(LOOK)? {
                Presence::Present(object) => {
                    place = place.map(|above| self.plan.inner(above, name));
                    object
                }
                Presence::Absent | Presence::Whiteout => {
                    let above =
                        place.unwrap_or_else(|| self.plan.place(path.get(..index).unwrap_or_default()));
                    let inner = self.plan.inner(above, name);
                    place = Some(inner);
                    self.implied(&dir, inner, path.get(..=index).unwrap_or_default())?
                }
            };
            if upper.stat(&next).tried(LOOK)?.kind != FileKind::Directory {
                return Ok(None);
            }
            self.at.push(name.clone());
            self.way.down(self.at.len(), next.clone());
            dir = next;
        }
        Ok(Some(dir))
    }

    /// What the lower has at a path, whose place in the plan is given, if it is a directory.
    fn in_lower(&mut self, place: usize, path: &[Name]) -> Result<Option<L::Object>, Problem> {
        const LOOK: &str = "look up what it lies over";
        let lower = self.target.trees.lower;
        let found = if self.plan.above_is_not_in_lower(place) {
            None
        } else {
            match lower.resolve(path) {
                Ok(object) => {
                    let stat = lower.stat(&object).tried(LOOK)?;
                    (stat.kind == FileKind::Directory).then_some(object)
                }
                Err(error) if matches!(Errno::of(&error), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                    None
                }
                Err(error) => return Err(Problem::Io(LOOK, error)),
            }
        };
        self.plan.change(place, |node| node.not_in_lower = found.is_none());
        Ok(found)
    }

    /// Makes a directory that has no member of its own, the last one of `path`, in `dir`.
    fn implied(&mut self, dir: &U::Object, place: usize, path: &[Name]) -> Result<U::Object, Problem> {
        const MAKE: &str = "make its directory";
        let Trees { lower, upper, owner } = self.target.trees;
        let Some(name) = path.last() else { return Ok(dir.clone()) };
        let below = self.in_lower(place, path)?;
        let stat = below.as_ref().map(|object| lower.stat(object)).transpose().tried(MAKE)?;
        let permissions = stat.map_or(0o755, |stat| stat.permissions);
        let of_lower = stat.map(|stat| (stat.uid, stat.gid));
        let root = upper.root().and_then(|root| upper.stat(&root)).tried(MAKE)?;
        let (uid, gid) = owner.or(of_lower).unwrap_or((root.uid, root.gid));
        let new = NewObject::Directory { opaque: below.is_none() };
        let draft = upper.draft(&new, permissions, uid, gid).tried(MAKE)?;
        let object = upper.draft_object(&draft);
        if let Some(below) = &below {
            for attribute in lower.list_xattr(below).tried(MAKE)? {
                let value = lower.get_xattr(below, &attribute).tried(MAKE)?;
                upper.set_xattr(&object, &attribute, &value, XattrMode::Set).tried(MAKE)?;
            }
        }
        upper.publish(draft, dir, name).tried(MAKE)?;
        let mtime = stat.map_or(Timespec { seconds: 1, nanoseconds: 0 }, |stat| stat.mtime);
        self.plan.change(place, |node| node.mtime = Some(mtime));
        Ok(object)
    }
}

fn not_a_directory(path: &[Name]) -> Problem {
    let shown = path.iter().map(|name| format!("/{name}")).collect::<String>();
    Problem::refused(format!("'{shown}' is no directory in this archive"))
}
