//! What outlives a server: two files in memory, of which one is being written.
//!
//! The one in use begins with the higher number; the other is empty, or is being filled with what is still true of the first
//! ([`Log::compact`]) and gets its number last. After the number come frames: length of the content (32 bits), request
//! (64 bits), content; each is written by one call after all before it, so that after a kill at most the last is not whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;

/// Length of the number that a file begins with.
const HEAD: u64 = 8;

/// Length and request before the content of a frame.
const FRAME_HEAD: usize = 12;

/// The two files. They live as long as one process has them.
#[derive(Debug)]
pub(super) struct Memory {
    files: [File; 2],
}

impl Memory {
    /// Two empty files.
    ///
    /// # Errors
    /// As memfd_create(2).
    pub(super) fn new() -> io::Result<Self> {
        let file = || rustix::fs::memfd_create("nixview-view", MemfdFlags::CLOEXEC).map(File::from);
        Ok(Self { files: [file()?, file()?] })
    }

    /// The same files for another owner in this process.
    ///
    /// # Errors
    /// As dup(2).
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let [a, b] = &self.files;
        Ok(Self { files: [a.try_clone()?, b.try_clone()?] })
    }

    fn number(file: &File) -> io::Result<u64> {
        let mut head = [0; HEAD as usize];
        match file.read_exact_at(&mut head, 0) {
            Ok(()) => Ok(u64::from_ne_bytes(head)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// The frames of the file in use.
#[derive(Debug)]
pub(super) struct Log {
    memory: Memory,
    /// Which file is in use, and its number.
    active: usize,
    number: u64,
    /// Where the next frame goes.
    end: u64,
}

impl Log {
    /// Opens the log, to go on after the last whole frame; answers all bytes of frames, for [`frames`].
    ///
    /// # Errors
    /// As read(2).
    pub(super) fn open(memory: Memory) -> io::Result<(Self, Vec<u8>)> {
        let [a, b] = &memory.files;
        let (first, second) = (Memory::number(a)?, Memory::number(b)?);
        let active = usize::from(second > first);
        let number = first.max(second);
        let mut log = Self { memory, active, number, end: HEAD };
        if number == 0 {
            log.set_number(1)?;
        }
        let mut bytes = log.read()?;
        let whole = frames(&bytes).map(|(_, content)| FRAME_HEAD + content.len()).sum();
        bytes.truncate(whole);
        log.end = HEAD + whole as u64;
        log.file()?.set_len(log.end)?;
        log.other()?.set_len(0)?;
        Ok((log, bytes))
    }

    fn file(&self) -> io::Result<&File> {
        self.memory.files.get(self.active).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn other(&self) -> io::Result<&File> {
        self.memory.files.get(1 - self.active).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn set_number(&mut self, number: u64) -> io::Result<()> {
        self.file()?.write_all_at(&number.to_ne_bytes(), 0)?;
        self.number = number;
        Ok(())
    }

    /// All that has been written, which may end with a frame that is not whole.
    ///
    /// # Errors
    /// As read(2).
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let file = self.file()?;
        let length = file.metadata()?.len().saturating_sub(HEAD);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, HEAD)?;
        Ok(bytes)
    }

    /// How many bytes of frames there are.
    pub(super) fn length(&self) -> u64 {
        self.end - HEAD
    }

    /// Adds frames.
    ///
    /// # Errors
    /// As write(2): `ENOSPC` or `ENOMEM` if there is no memory.
    pub(super) fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        self.file()?.write_all_at(frames, self.end)?;
        self.end += frames.len() as u64;
        Ok(())
    }

    /// Puts `frames` in the place of all that there is.
    ///
    /// # Errors
    /// As [`write`](Self::write); then nothing has changed.
    pub(super) fn compact(&mut self, frames: &[u8]) -> io::Result<()> {
        let other = self.other()?;
        other.set_len(0)?;
        other.write_all_at(frames, HEAD)?;
        // From here on the other is the one in use.
        other.write_all_at(&(self.number + 1).to_ne_bytes(), 0)?;
        self.active = 1 - self.active;
        self.number += 1;
        self.end = HEAD + frames.len() as u64;
        self.other()?.set_len(0)
    }
}

/// Begins a frame in `buffer`; [`end_frame`] ends it.
pub(super) fn begin_frame(buffer: &mut Vec<u8>, request: u64) -> usize {
    let start = buffer.len();
    buffer.extend(0u32.to_ne_bytes());
    buffer.extend(request.to_ne_bytes());
    start
}

/// Ends the frame that begins at `start`.
pub(super) fn end_frame(buffer: &mut [u8], start: usize) {
    let length = buffer.len().saturating_sub(start + FRAME_HEAD);
    if let Some(head) = buffer.get_mut(start..start + 4) {
        // A frame of 4 GiB would be a name of that length.
        head.copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    }
}

/// The whole frames of `bytes`: request and content.
pub(super) fn frames(bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (request, after) = after.split_first_chunk::<8>()?;
        let length = u32::from_ne_bytes(*length) as usize;
        let content = after.get(..length)?;
        rest = after.get(length..)?;
        Some((u64::from_ne_bytes(*request), content))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn frame(request: u64, content: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::new();
        let start = begin_frame(&mut buffer, request);
        buffer.extend(content);
        end_frame(&mut buffer, start);
        buffer
    }

    fn read(memory: &Memory) -> Vec<(u64, Vec<u8>)> {
        let (_, bytes) = Log::open(memory.try_clone().unwrap()).unwrap();
        frames(&bytes).map(|(request, content)| (request, content.to_vec())).collect()
    }

    #[test]
    fn what_was_written_is_there_for_the_next_and_half_a_frame_is_not() {
        let memory = Memory::new().unwrap();
        let (mut log, bytes) = Log::open(memory.try_clone().unwrap()).unwrap();
        assert_eq!(bytes, b"");
        log.write(&frame(1, b"first")).unwrap();
        log.write(&[frame(2, b""), frame(3, b"third")].concat()).unwrap();
        let all = vec![(1, b"first".to_vec()), (2, Vec::new()), (3, b"third".to_vec())];
        assert_eq!(read(&memory), all);
        let last = frame(4, b"fourth");
        for cut in 0..last.len() {
            let (mut log, _) = Log::open(memory.try_clone().unwrap()).unwrap();
            log.write(last.get(..cut).unwrap()).unwrap();
            assert_eq!(read(&memory), all, "cut at {cut}");
        }
        let (mut log, _) = Log::open(memory.try_clone().unwrap()).unwrap();
        log.write(&last).unwrap();
        assert_eq!(read(&memory).len(), 4, "what follows a frame that was cut is found");
    }

    #[test]
    fn compacting_is_done_or_not_done() {
        let memory = Memory::new().unwrap();
        let (mut log, _) = Log::open(memory.try_clone().unwrap()).unwrap();
        log.write(&frame(1, b"old")).unwrap();
        // A kill before the number is written.
        log.other().unwrap().write_all_at(&frame(9, b"half"), HEAD).unwrap();
        assert_eq!(read(&memory), [(1, b"old".to_vec())]);
        let (mut log, _) = Log::open(memory.try_clone().unwrap()).unwrap();
        for round in 2..6 {
            log.compact(&frame(round, b"new")).unwrap();
            assert_eq!(read(&memory), [(round, b"new".to_vec())]);
        }
        log.write(&frame(7, b"more")).unwrap();
        assert_eq!(read(&memory).len(), 2);
    }
}
