//! A view that the kernel makes by itself: its layers, its mount, and what tells of its end.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::StatVfsMountFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::connection::not_locked;
use super::setup::Serving;
use super::{Destination, Held};
use crate::daemon::error::Failure;
use crate::lock::VerifiedClosure;
use crate::overlay::closure_layer::Survey;
use crate::overlay::image_cache::{self, OpenedImage, Request};
use crate::overlay::write_tree::write_tree;
use crate::sys::fuse_connection::FuseConnection;
use crate::sys::locked_mount::MountClone;
use crate::sys::loop_device::LoopDevice;
use crate::sys::mount::{self, Change};
use crate::sys::overlay::{self, Layers, OverlayMount, OverlayOptions};
use crate::sys::overlay_use::OverlayUse;
use crate::sys::process::EndingChild;
use crate::sys::{self, fuse_device, idmap, open, process};
use crate::vfs::Name;
use crate::view::late_members::LateMembers;
use crate::view::nix_state::{HeldTemplate, NixState};
use crate::view::spec::{BackendChoice, IoChoice, UpperChoice};

/// The directory of the overlay that is the view.
const SHOWN: &str = "nix";

/// How long the kernel may take to greet on the device of an anchor, which it does when that is mounted.
const GREETING: Duration = Duration::from_secs(10);

/// The most bytes of files that a closure layer in memory holds.
const MAX_CONTENTS: u64 = 16 << 20;

/// An overlay that is mounted, and what must stay open as long as it is used.
#[derive(Debug)]
pub(super) struct Overlay {
    end: End,
    /// What tells of it when this process is gone.
    pub(super) mounted: OverlayUse,
    /// Number of the connection of the anchor.
    pub(super) anchor: Option<u64>,
    /// The process that has mounted it, which ends: to be dropped when the view can be used.
    pub(super) maker: Option<EndingChild>,
    /// No sweep removes the image meanwhile.
    _image: OpenedImage,
    /// Nor the template of Nix's state.
    nix_state: Option<HeldTemplate>,
}

/// What becomes readable when the last use of an overlay is gone.
#[derive(Debug)]
enum End {
    /// The device of a FUSE file system that is a layer of it.
    Anchor(OwnedFd),
    /// An inotify(7) of its top.
    Watch(OwnedFd),
}

/// Why there is no overlay, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal(pub(super) String);

impl Refusal {
    fn of(what: &str) -> impl Fn(io::Error) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }

    fn because(error: impl Display) -> Self {
        Self(error.to_string())
    }
}

impl Overlay {
    /// Takes back what tells of it, once it is gone.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub(super) fn forget(self) -> io::Result<()> {
        self.nix_state.map_or(Ok(()), HeldTemplate::forget)
    }

    /// Becomes readable when the view is gone, and stays so.
    pub(super) fn end(&self) -> &OwnedFd {
        match &self.end {
            End::Anchor(device) => device,
            End::Watch(watch) => watch,
        }
    }
}

impl Serving<'_> {
    /// Why a server is needed for what is asked for, or taken; `None`: an overlay may do.
    ///
    /// # Errors
    /// If an overlay is asked for together with what only a server can do.
    pub(super) fn server_is_needed(&self) -> Result<Option<String>, Failure> {
        let spec = self.spec;
        let needs = if spec.trace.is_some() {
            Some("only a server can trace")
        } else if spec.io != IoChoice::Auto {
            Some("who reads files is chosen of a server")
        } else if self.options.fusermount {
            Some("without root, and with fusermount3, there is a server")
        } else if !process::is_initial_user_namespace() {
            Some("overlayfs follows no redirects in a user namespace")
        } else {
            None
        };
        match (spec.backend, needs) {
            (BackendChoice::Fuse, _) => Ok(Some("asked for".to_owned())),
            (BackendChoice::Overlay, Some(needs)) => {
                Err(Failure::new(format!("a view by overlayfs cannot be had: {needs}"))
                    .hint("leave out '--backend overlay', or the option that needs a server"))
            }
            (BackendChoice::Auto, None) if !self.options.prefer_overlay => {
                Ok(Some("the host's configuration prefers a server".to_owned()))
            }
            (_, needs) => Ok(needs.map(str::to_owned)),
        }
    }

    /// Makes the overlay; its detached mount is held. `store` is the store directory on a read-only clone of its mount, `hides` why
    /// the upper shows more by overlayfs than by a server.
    pub(super) fn overlay(
        &self,
        held: &mut Held,
        closure: &VerifiedClosure<'_>,
        store: &OwnedFd,
        hides: Option<String>,
    ) -> Result<Overlay, Refusal> {
        let spec = self.spec;
        let upper = held.upper.as_mut().map(|upper| upper.prepare_for_overlay()).transpose();
        let upper = upper.map_err(Refusal::because)?;
        if let Some(why) = hides {
            return Err(Refusal(why));
        }
        // Read if something must be made of them, which is once for a closure and a state of the store.
        let members = LateMembers::new(closure);
        let nix_state = NixState::of(&self.dirs.state, &spec.store, &spec.lock);
        let nix_state = nix_state.map_err(Refusal::of("cannot open Nix's database"))?;
        let nix_state = nix_state.map(|state| state.open_for_overlay(&|| members.get()));
        let nix_state = nix_state.transpose().map_err(Refusal::because)?;
        let names = || members.names();
        let request = Request {
            state: &self.dirs.state,
            digest: spec.lock.closure.digest.as_bytes(),
            nix_state: nix_state.is_some(),
            store: store.as_fd(),
        };
        // Redirects of the upper begin with this name, and the closure layer says where they end: not in the store.
        match sys::stat::stat_name(store.as_fd(), SHOWN.as_bytes()) {
            Ok(_) => return Err(Refusal(format!("the store has a file named '{SHOWN}'"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Refusal::of("cannot look at the store")(error)),
        }
        let image = image_cache::open(&request, names).map_err(Refusal::because)?;
        let closure_layer = closure_mount(&image, &request, names)?;

        let store_layer = mount::clone_read_only(&spec.store.real)
            .map_err(Refusal::of("cannot clone the store's mount"))?;
        let (state_layer, state_lock) = nix_state.map(|made| (made.layer, made.held)).unzip();
        let mut lower = vec![closure_layer];
        lower.extend(state_layer);
        // Always the last: a redirect is looked for in each layer below, and what the store hides must come from nowhere else.
        lower.push(store_layer);
        if spec.owner != (0, 0) {
            for layer in &lower {
                idmap::show_as(layer.as_fd(), spec.owner)
                    .map_err(Refusal::of("the layers cannot be shown as the owner's"))?;
            }
        }
        let upper = upper.map(|upper| {
            overlay::clone_directory(upper.directory.as_fd())
                .map_err(Refusal::of("cannot clone the mount of the upper"))
        });
        let upper = upper.transpose()?;
        let options = self.overlay_options(image.metacopy);
        let lower: Vec<_> = lower.iter().map(AsFd::as_fd).collect();
        let mut layers = Layers { upper: upper.as_ref().map(AsFd::as_fd), lower: &lower, anchor: None };

        let anchor = anchor();
        match &anchor {
            Ok((_, anchor)) => layers.anchor = Some(anchor.as_fd()),
            Err(error) => tracing::debug!(%error, "there is no anchor"),
        }
        let made = overlay::mount(&layers, &options, SHOWN);
        let OverlayMount { shown, anchored } = made.map_err(Refusal::of("the kernel refuses the overlay"))?;
        let MountClone { mount, not_locked: error, maker } = shown;
        not_locked(error);
        self.check(&mount, upper.is_some())?;
        let (end, number) = match anchor {
            Ok((device, anchor)) if anchored => {
                let number = FuseConnection::of_mount(anchor.as_fd());
                let number = number.map_err(Refusal::of("cannot look at the anchor"))?;
                (End::Anchor(device), Some(number))
            }
            _ => (End::Watch(watch(&mount).map_err(Refusal::of("cannot watch the overlay"))?), None),
        };
        let mounted =
            OverlayUse::of_mount(mount.as_fd(), number).map_err(Refusal::of("cannot look at the overlay"))?;
        // Before the view can be used: what belongs to it must outlive this process.
        if let Some(upper) = &held.upper {
            upper.note_overlay(Some(&mounted)).map_err(Refusal::because)?;
        }
        if let Some(pinned) = &held.pinned {
            pinned.note_overlay(&mounted).map_err(Refusal::of("cannot write the lease"))?;
        }
        let nix_state = state_lock.flatten().map(|lock| HeldTemplate::note(&self.dirs.state, lock, &mounted));
        let nix_state = nix_state.transpose().map_err(Refusal::of("cannot note that Nix's state is used"))?;
        held.mount = Some(mount);
        held.overlay = Some(mounted.clone());
        let anchor = number.map(FuseConnection::number);
        Ok(Overlay { end, mounted, anchor, maker, _image: image, nix_state })
    }

    fn overlay_options(&self, metacopy: bool) -> OverlayOptions<'_> {
        let source = match self.destination {
            Destination::Directory { source, .. } => source.as_deref(),
            Destination::Private { .. } | Destination::Handed { .. } => None,
        };
        OverlayOptions {
            source,
            volatile: matches!(self.spec.upper, UpperChoice::Temporary { .. }),
            metacopy,
            no_exec: self.options.no_exec && !self.no_exec_later(),
        }
    }

    /// 'mount -o remount,exec' changes a mount on a directory: its `noexec` is set when the flags are locked.
    fn no_exec_later(&self) -> bool {
        self.options.no_exec && matches!(self.destination, Destination::Directory { .. })
    }

    /// Makes sure of what the kernel does not tell: it mounts read-only where it cannot make its work directory.
    fn check(&self, mount: &OwnedFd, writable: bool) -> Result<(), Refusal> {
        let found = rustix::fs::fstatvfs(mount).map_err(io::Error::from);
        let found = found.map_err(Refusal::of("cannot look at the overlay"))?;
        if writable && found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Refusal("the kernel mounts it read-only; its log (dmesg) says why".to_owned()));
        }
        if self.no_exec_later() {
            let change = Change { read_only: None, no_exec: Some(true) };
            mount::change(mount.as_fd(), change).map_err(Refusal::of("cannot forbid programs"))?;
        }
        Ok(())
    }
}

/// The closure layer: the image, by itself or on a loop device, or where the kernel has no EROFS the same tree in memory.
fn closure_mount<E: Display>(
    image: &OpenedImage,
    request: &Request<'_>,
    names: impl FnOnce() -> Result<Vec<Name>, E>,
) -> Result<OwnedFd, Refusal> {
    let file = image.file.as_fd();
    let first = match mount::new_erofs(file) {
        Ok(mounted) => return Ok(mounted),
        Err(error) => error,
    };
    tracing::debug!(error = %first, "a closure layer on a loop device is tried");
    let second = match LoopDevice::attach_read_only(file).and_then(|device| mount::new_erofs(device.as_fd()))
    {
        Ok(mounted) => return Ok(mounted),
        Err(error) => error,
    };
    tracing::debug!(error = %second, "a closure layer in memory is made");
    let layer = names()
        .map_err(Refusal::because)
        .and_then(|names| Survey::of(request.store, names).map_err(Refusal::because))
        .and_then(|survey| {
            survey.layer(request.store, request.nix_state, MAX_CONTENTS).map_err(Refusal::because)
        })?;
    let memory = mount::new_tmpfs().map_err(Refusal::of("cannot mount a tmpfs"))?;
    let top = open::open_listing(memory.as_fd()).map_err(Refusal::of("cannot open a tmpfs"))?;
    write_tree(&layer.tree, top.as_fd()).map_err(Refusal::because)?;
    Ok(memory)
}

/// A FUSE device, and its file system, which is never asked anything and ends with the overlay that it is a layer of.
fn anchor() -> io::Result<(OwnedFd, OwnedFd)> {
    let device = mount::open_fuse_device()?;
    let anchor = mount::new_anchor(device.as_fd())?;
    fuse_device::read_request(device.as_fd(), GREETING)?;
    Ok((device, anchor))
}

/// Becomes readable when the file system of a mount is gone (`IN_UNMOUNT`), which it does not keep.
fn watch(mount: &OwnedFd) -> io::Result<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(
        &watch,
        open::proc_path(mount.as_fd()),
        WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR,
    )?;
    Ok(watch)
}

#[cfg(test)]
mod tests {
    use crate::overlay::closure_layer::NIX_STATE;
    use crate::view::nix_state::TOP;

    #[test]
    fn the_closure_layer_leads_to_what_a_template_has() {
        assert_eq!(NIX_STATE, TOP);
    }
}
