//! Roots that nix-daemon holds for a user who cannot write Nix's state.
//!
//! Nix's collector deletes no temporary root and nothing that one refers to (`findTempRoots`, libstore/gc.cc). The daemon's
//! process for a connection keeps those that it was asked for until the connection ends. So there is nothing to take back,
//! whatever is killed. The messages are those of Nix's worker protocol 1.19, which daemons of Nix 2.0 and later take: its
//! numbers are 64 bits, little-endian; its strings a length, the bytes, and zeros up to a multiple of 8.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::path::{StoreDir, StorePath};

/// The daemon's socket below the directory of Nix's state.
const SOCKET: &str = "daemon-socket/socket";

/// The first words of client and daemon, and the version that is spoken: before 1.20 the daemon tells of its work in lines.
const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;
const VERSION: u64 = 0x0113;

/// The operations.
const IS_VALID_PATH: u64 = 1;
const ADD_TEMP_ROOT: u64 = 11;

/// What the daemon says while it works: a line, that it is done, that it failed.
const NEXT: u64 = 0x6f6c_6d67;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;

/// The longest string that is read.
const LONGEST: u64 = 1 << 20;

/// How long an answer is waited for: a collection that is running may hold it up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the daemon does not hold roots.
#[derive(Debug, thiserror::Error)]
pub enum TempRootError {
    /// There is no daemon, or it does not answer.
    #[error("nix-daemon at {path}: {source}")]
    Io {
        /// Its socket.
        path: PathBuf,
        /// How it fails.
        source: io::Error,
    },
    /// It refuses, in its words.
    #[error("nix-daemon refuses: {0}")]
    Refused(String),
    /// A path was collected before it was a root.
    #[error("the garbage collector has just deleted {0}")]
    Gone(StorePath),
}

/// Roots that the daemon holds as long as this, or a copy in another process, is open.
#[derive(Debug)]
pub struct TempRoots {
    count: usize,
    _connection: UnixStream,
}

impl TempRoots {
    /// Asks the daemon of the store whose state is in `state` to hold these paths, which are valid.
    ///
    /// # Errors
    /// [`TempRootError`].
    pub fn take(state: &Path, store: &StoreDir, paths: &[StorePath]) -> Result<Self, TempRootError> {
        let path = state.join(SOCKET);
        let failed = |source| TempRootError::Io { path: path.clone(), source };
        let stream = UnixStream::connect(&path).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut daemon = Daemon(stream);
        let answer = daemon.hello().and_then(|()| daemon.hold(store, paths));
        match answer {
            Ok(()) => Ok(Self { count: paths.len(), _connection: daemon.0 }),
            Err(Problem::Io(source)) => Err(failed(source)),
            Err(Problem::Refused(why)) => Err(TempRootError::Refused(why)),
            Err(Problem::Gone(path)) => Err(TempRootError::Gone(path)),
        }
    }

    /// How many paths are held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

enum Problem {
    Io(io::Error),
    Refused(String),
    Gone(StorePath),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Daemon(UnixStream);

impl Daemon {
    fn hello(&mut self) -> Result<(), Problem> {
        self.send(&[CLIENT_MAGIC])?;
        if self.number()? != DAEMON_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no nix-daemon").into());
        }
        let theirs = self.number()?;
        if theirs >> 8 != VERSION >> 8 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it speaks another protocol").into());
        }
        // No processor, and no reserved space.
        let more: &[u64] = match theirs & 0xff {
            14.. => &[VERSION, 0, 0],
            11..14 => &[VERSION, 0],
            _ => &[VERSION],
        };
        self.send(more)?;
        self.done()
    }

    fn hold(&mut self, store: &StoreDir, paths: &[StorePath]) -> Result<(), Problem> {
        for path in paths {
            self.ask(ADD_TEMP_ROOT, store, path)?;
        }
        for path in paths {
            if self.ask(IS_VALID_PATH, store, path)? == 0 {
                return Err(Problem::Gone(path.clone()));
            }
        }
        Ok(())
    }

    fn ask(&mut self, operation: u64, store: &StoreDir, path: &StorePath) -> Result<u64, Problem> {
        let text = format!("{store}/{path}");
        let mut message = Vec::with_capacity(text.len() + 24);
        message.extend_from_slice(&operation.to_le_bytes());
        message.extend_from_slice(&(text.len() as u64).to_le_bytes());
        message.extend_from_slice(text.as_bytes());
        message.resize(message.len().next_multiple_of(8), 0);
        self.0.write_all(&message)?;
        self.done()?;
        Ok(self.number()?)
    }

    /// Waits until it says that it is done.
    fn done(&mut self) -> Result<(), Problem> {
        loop {
            match self.number()? {
                LAST => return Ok(()),
                NEXT => drop(self.string()?),
                ERROR => {
                    let why = self.string()?;
                    return Err(Problem::Refused(why.trim().to_owned()));
                }
                _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            }
        }
    }

    fn send(&mut self, numbers: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.0.write_all(&bytes)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn string(&mut self) -> io::Result<String> {
        let length = self.number()?;
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = Vec::new();
        let padded = length.next_multiple_of(8);
        (&self.0).take(padded).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != padded {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(usize::try_from(length).unwrap_or_default());
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| error.into_bytes().escape_ascii().to_string()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::os::unix::net::UnixListener;

    use super::*;

    fn path(name: &str) -> StorePath {
        format!("{}-{name}", "a".repeat(32)).parse().unwrap()
    }

    /// A daemon that answers these words and strings, and tells what it was sent.
    fn answered(answer: &[u8], paths: &[StorePath]) -> (Result<usize, TempRootError>, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("daemon-socket")).unwrap();
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let answer = answer.to_vec();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&answer).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut heard = Vec::new();
            // Of a client that leaves words unread the kernel makes an error.
            stream.read_to_end(&mut heard).unwrap_or_default();
            heard
        });
        let taken = TempRoots::take(dir.path(), &StoreDir::default(), paths).map(|roots| roots.count());
        (taken, daemon.join().unwrap())
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn the_words_are_those_of_the_protocol() {
        let hello = words(&[0x6478_696f, 0x0123, 0x616c_7473]);
        let one = words(&[0x616c_7473, 1]);
        let line = [words(&[0x6f6c_6d67, 3]), b"abc\0\0\0\0\0".to_vec()].concat();
        let (taken, heard) = answered(&[&hello[..], &line, &one, &one].concat(), &[path("x")]);
        assert_eq!(taken.unwrap(), 1);
        // 45 bytes, and three to the next multiple of 8.
        let text = format!("/nix/store/{}-x\0\0\0", "a".repeat(32));
        assert_eq!(text.len(), 48);
        let path = [words(&[45]), text.into_bytes()].concat();
        let begin = words(&[0x6e69_7863, 0x0113, 0, 0]);
        assert_eq!(heard, [&begin[..], &words(&[11]), &path, &words(&[1]), &path].concat());
    }

    #[test]
    fn what_is_no_root_is_an_error() {
        let hello = words(&[0x6478_696f, 0x0115, 0x616c_7473]);
        let refused = [words(&[0x6378_7470, 2]), b"no\0\0\0\0\0\0".to_vec(), words(&[1])].concat();
        let (one, none) = (words(&[0x616c_7473, 1]), words(&[0x616c_7473, 0]));
        let error = |answer: &[&[u8]]| answered(&answer.concat(), &[path("x")]).0.unwrap_err();
        assert!(matches!(error(&[&hello, &refused]), TempRootError::Refused(why) if why == "no"));
        assert!(matches!(error(&[&hello, &one, &none]), TempRootError::Gone(_)));
        assert!(matches!(error(&[&hello, &one]), TempRootError::Io { .. }));
        assert!(matches!(error(&[b"HTTP/1.1 400 Bad Request\r\n"]), TempRootError::Io { .. }));
        let nowhere = TempRoots::take(Path::new("/nonexistent"), &StoreDir::default(), &[]).unwrap_err();
        assert!(nowhere.to_string().contains("/nonexistent/daemon-socket/socket"), "{nowhere}");
    }
}
