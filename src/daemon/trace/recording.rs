//! The server's part: writes down what is used, when somebody wants to know.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::shared::{NONE, Shared, Slot, WHOLE};
use super::traced::Traced;
use crate::fuse::{Use, Uses, Witness};
use crate::trace::{self, Kind};
use crate::vfs::Whereabouts;

/// The most bytes that a trace may take: about two million first uses.
const MOST: u64 = 256 << 20;

/// The longest line of a log.
const LONGEST: u64 = 64 << 10;

/// How often the server looks whether the tracer lives.
const TRACER: Duration = Duration::from_secs(3);

/// What one server records.
pub(in crate::daemon) struct Recording {
    shared: Shared,
    woken: File,
    uses: Arc<Uses>,
    log: Arc<Log>,
    /// The trace that is being recorded.
    recorded: u64,
}

impl Recording {
    /// For a new server. If a trace is wanted, it goes on from here.
    ///
    /// # Errors
    /// As dup(2), read(2) and write(2).
    pub(in crate::daemon) fn new(traced: &Traced) -> io::Result<Self> {
        let shared = traced.shared.try_clone()?;
        let log = Arc::new(Log {
            shared: shared.try_clone()?,
            length: AtomicU64::new(0),
            lost: AtomicBool::new(false),
        });
        log.mend()?;
        let uses = Arc::new(Uses::new(Arc::clone(&log) as Arc<dyn Witness>, traced.is_whole()));
        let mut recording = Self { shared, woken: traced.woken.try_clone()?, uses, log, recorded: NONE };
        recording.follow()?;
        Ok(recording)
    }

    /// What a session tells of first uses.
    pub(in crate::daemon) fn uses(&self) -> Arc<Uses> {
        Arc::clone(&self.uses)
    }

    /// Readable when [`heed`](Self::heed) is to be called.
    pub(in crate::daemon) fn woken(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// After how long it is to be called anyway.
    pub(in crate::daemon) fn patience(&self) -> Option<Duration> {
        (!matches!(self.recorded, NONE | WHOLE)).then_some(TRACER)
    }

    /// Does what the page of control says. What fails ends the trace, not the view.
    pub(in crate::daemon) fn heed(&mut self) {
        let mut bytes = [0; 64];
        while matches!((&self.woken).read(&mut bytes), Ok(read) if read > 0) {}
        if let Err(error) = self.follow() {
            tracing::warn!(%error, "the trace of the view ends here");
            self.uses.end();
        }
    }

    fn follow(&mut self) -> io::Result<()> {
        let mut wanted = self.shared.get(Slot::Wanted)?;
        if !matches!(wanted, NONE | WHOLE) && !self.shared.is_held()? {
            // The tracer is dead: nobody will read what is recorded.
            self.shared.set(Slot::Wanted, NONE)?;
            self.shared.log.set_len(0)?;
            wanted = NONE;
        }
        if wanted == self.recorded {
            return Ok(());
        }
        self.uses.end();
        if wanted != NONE {
            self.log.begin()?;
            self.uses.begin();
        }
        self.recorded = wanted;
        self.shared.set(Slot::Recorded, wanted)
    }
}

/// The log, as threads append to it.
struct Log {
    shared: Shared,
    length: AtomicU64,
    lost: AtomicBool,
}

impl Log {
    /// Takes away what a server that was killed did not write to its end.
    fn mend(&self) -> io::Result<()> {
        let length = self.shared.log.metadata()?.len();
        let start = length.saturating_sub(LONGEST);
        let mut tail = vec![0; usize::try_from(length - start).unwrap_or_default()];
        self.shared.log.read_exact_at(&mut tail, start)?;
        match tail.iter().rposition(|byte| *byte == b'\n') {
            Some(last) if last + 1 < tail.len() => self.shared.log.set_len(start + last as u64 + 1),
            Some(_) => Ok(()),
            None => self.shared.log.set_len(start),
        }
    }

    fn begin(&self) -> io::Result<()> {
        self.length.store(self.shared.log.metadata()?.len(), Ordering::Relaxed);
        self.lost.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn append(&self, line: &[u8]) -> io::Result<()> {
        if self.length.fetch_add(line.len() as u64, Ordering::Relaxed) > MOST {
            return Err(io::ErrorKind::StorageFull.into());
        }
        (&self.shared.log).write_all(line)
    }
}

impl Witness for Log {
    fn used(&self, how: Use, place: &Whereabouts) {
        if self.lost.load(Ordering::Relaxed) {
            return;
        }
        let kind = match how {
            Use::LookedUp => Kind::LookedUp,
            Use::Listed => Kind::Listed,
            Use::LinkRead => Kind::LinkRead,
            Use::Opened => Kind::Opened,
        };
        let written = trace::use_line(kind, &place.path, place.upper).and_then(|line| self.append(&line));
        if let Err(error) = written
            && !self.lost.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "no more is recorded of what is used of the view");
            if let Err(error) = self.shared.set(Slot::Lost, 1) {
                tracing::warn!(%error, "and nobody could be told");
            }
        }
    }
}
