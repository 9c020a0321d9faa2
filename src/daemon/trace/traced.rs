//! The keeper's part: holds what is shared, and at the end writes the file of a view that was traced from its beginning.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};

use super::shared::{NONE, Shared, Slot, WHOLE};
use crate::daemon::record::Record;
use crate::lock::EnvLock;
use crate::sys::open::proc_path;
use crate::sys::output_file::OutputTarget;
use crate::trace::{self, End, Head, TracedClosure};

/// What can be traced of a view.
#[derive(Debug)]
pub(in crate::daemon) struct Traced {
    pub(super) shared: Shared,
    /// The server's end of the pipe.
    pub(super) woken: File,
    /// The file of a trace of the whole view.
    file: Option<TraceFile>,
}

/// The file of a trace of a whole view.
#[derive(Debug)]
struct TraceFile {
    /// As people know it.
    path: PathBuf,
    /// The directory that it is in, opened before the view can be mounted over it.
    dir: OwnedFd,
    /// The first line, once it is known.
    head: Option<Head>,
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The first line of a trace of a view.
pub(super) fn head(record: &Record, environment: &str, store_dir: &str, whole: bool) -> Head {
    Head {
        nixview_trace: trace::VERSION,
        view: record.name.to_string(),
        environment: environment.to_owned(),
        lock_file: record.lock_file.clone(),
        closure: TracedClosure { digest: record.closure.digest.clone(), count: record.closure.count },
        store: record.store.clone(),
        store_dir: store_dir.to_owned(),
        io: record.io.clone(),
        exact: whole || record.io == crate::fuse::Io::Passthrough.name(),
        from_start: whole,
        since: if whole { record.since } else { now() },
    }
}

impl Traced {
    /// Of a view that is to be set up, with the file if it is to be traced from its beginning.
    ///
    /// # Errors
    /// As memfd_create(2), pipe(2), and open(2) of the directory of the file.
    pub(in crate::daemon) fn new(file: Option<&Path>) -> io::Result<Self> {
        let (shared, woken) = Shared::new(if file.is_some() { WHOLE } else { NONE })?;
        let file = file.map(TraceFile::new).transpose()?;
        Ok(Self { shared, woken, file })
    }

    /// True if it is traced from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        self.file.is_some()
    }

    /// The view is about to be used: its file is there from here on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(in crate::daemon) fn begin(&mut self, record: &Record, lock: &EnvLock) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let head = head(record, &lock.name, lock.store_dir.as_str(), true);
        write(&file.place(), &head, None)?;
        file.head = Some(head);
        Ok(())
    }

    /// As [`begin`](Self::begin), where that was done already by another process.
    pub(in crate::daemon) fn go_on(&mut self, record: &Record, lock: &EnvLock) {
        if let Some(file) = &mut self.file {
            file.head = Some(head(record, &lock.name, lock.store_dir.as_str(), true));
        }
    }

    /// The view has ended: writes the file; one of a view that nobody saw goes away.
    ///
    /// # Errors
    /// If it cannot be written, with its path.
    pub(in crate::daemon) fn end(self, shown: bool) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let (path, place, Some(head)) = (&file.path, file.place(), &file.head) else { return Ok(()) };
        let done = if shown {
            write(&place, head, Some(&self.shared))
        } else {
            OutputTarget::find(&place)?.remove()
        };
        done.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }
}

impl TraceFile {
    fn new(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path.parent().unwrap_or(Path::new("/")), flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), dir, head: None })
    }

    /// A path that leads to it, whatever is mounted over its directory by now.
    fn place(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default();
        Path::new(&proc_path(self.dir.as_fd())).join(name)
    }
}

/// How much of a file is read to see whether it is a trace, in bytes.
const HEAD: u64 = 64 << 10;

fn write(path: &Path, head: &Head, shared: Option<&Shared>) -> io::Result<()> {
    let target = OutputTarget::find(path)?;
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if target.is_character_device() && shared.is_none() {
        return Ok(());
    }
    // The keeper has no descriptors of its caller, and must not wait for the reader of a FIFO.
    if !target.is_file() && !target.is_character_device() {
        return refuse("it is no regular file: the keeper writes it when the view has ended");
    }
    if let Some(old) = target.existing()? {
        let mut head = Vec::new();
        old.take(HEAD).read_to_end(&mut head)?;
        if !head.is_empty() && !trace::is_one(&head) {
            return refuse("it is there, and no trace: remove it, or name another file");
        }
    }
    let mut draft = target.open()?;
    draft.write_all(&trace::head_line(head)?)?;
    if let Some(shared) = shared {
        let mut log = shared.log.try_clone()?;
        log.rewind()?;
        copy_lines(&mut log, &mut draft)?;
        let complete = shared.get(Slot::Lost)? == 0;
        draft.write_all(&trace::end_line(End { until: now(), complete })?)?;
    }
    draft.finish()
}

/// Copies whole lines.
fn copy_lines(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    let mut kept = 0;
    loop {
        let read = match from.read(buffer.get_mut(kept..).unwrap_or_default()) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let filled = kept + read;
        let whole = buffer.iter().take(filled).rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        to.write_all(buffer.get(..whole).unwrap_or_default())?;
        buffer.copy_within(whole..filled, 0);
        kept = filled - whole;
    }
}
