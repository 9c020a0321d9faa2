//! A look at an upper that somebody else may hold.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::error::Tried;
use super::holder::Holder;
use super::image::Image;
use super::{LastView, Meta, UpperError, check_top, holder, layout, open_top};
use crate::layer::dir::UpperReader;

/// An upper that is read, held by whoever holds it.
#[derive(Debug)]
pub struct UpperLook {
    path: PathBuf,
    dir: OwnedFd,
    meta: Meta,
}

impl UpperLook {
    /// Opens the upper at `path` for reading. Nothing is made, and nobody is disturbed.
    ///
    /// # Errors
    /// Each kind of [`UpperError`] but `Busy`. A directory that has no `meta.json` is not an upper: overlayfs's own are
    /// taken over by the first mount.
    pub fn open(path: &Path) -> Result<Self, UpperError> {
        let dir = open_top(path)?;
        check_top(dir.as_fd(), path)?;
        let Some(meta) = Meta::read(dir.as_fd(), path)? else {
            let why = "it has no 'meta.json'".to_owned();
            return Err(UpperError::NotAnUpper { path: path.to_owned(), why });
        };
        Ok(Self { path: path.to_owned(), dir, meta })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Who holds it: `None` if nobody does; the process as far as it is known.
    ///
    /// # Errors
    /// [`UpperError::Io`].
    pub fn holder(&self) -> Result<Option<Option<u32>>, UpperError> {
        Ok(self.asked()?.map(|holder| holder.map(|holder| holder.pid)))
    }

    fn asked(&self) -> Result<Option<Option<Holder>>, UpperError> {
        holder::ask(self.dir.as_fd()).tried("read 'lock'", &self.path)
    }

    /// What it lay over when it was last mounted, if that is noted.
    ///
    /// # Errors
    /// [`UpperError::LastView`], [`UpperError::Io`].
    pub fn last_view(&self) -> Result<Option<LastView>, UpperError> {
        LastView::read(self.dir.as_fd(), &self.path)
    }

    /// Its tree. That of one with a limit is in an image, which is found by its holder's descriptor, or else mounted
    /// read-only for as long as the tree is: this needs root, and nobody else can mount it meanwhile.
    ///
    /// # Errors
    /// [`UpperError::Io`], `Limit`, `Image`; `Busy` in the instant in which somebody begins to hold it.
    pub fn tree(&self) -> Result<UpperReader, UpperError> {
        const ACTION: &str = "open the tree";
        let (root, layout) = match (self.meta.limit, self.asked()?) {
            (None, _) => layout::find(self.dir.as_fd()).tried(ACTION, &self.path)?,
            (Some(_), None) => Image::look(self.dir.as_fd(), &self.path, None)?,
            (Some(_), Some(holder)) => {
                // Without it somebody has begun to hold it at this moment.
                let mounted = holder.and_then(|holder| Some((holder.pid, holder.image?)));
                let mounted = mounted.ok_or_else(|| UpperError::Busy {
                    path: self.path.clone(),
                    pid: holder.map(|holder| holder.pid),
                })?;
                Image::look(self.dir.as_fd(), &self.path, Some(mounted))?
            }
        };
        let reader = UpperReader::new(&root, self.meta.format).tried(ACTION, &self.path)?;
        Ok(reader.with_base(layout.base()))
    }
}
