//! Files with one answer each, which holds as long as the store's database stays as it is.
//!
//! ```text
//! STAMP                  the database's [`Stamp`] from before the answer was computed
//! ANSWER                 one line
//! ```
//!
//! The name of a file stands for the question. Everything in it can be computed again: a file that is missing,
//! cut or of another state of the database is no answer. Reading one takes a few system calls beside the stamp;
//! SQLite opens its file and reads the schema first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::store::database::Stamp;

/// The longest file, in bytes: for some thousand store paths.
const MOST: u64 = 1 << 20;

/// What the name of a file that is being written ends with.
const DRAFT: &str = "~";

/// Reads the answer that was noted for this state of the database; `None` if there is none.
#[must_use]
pub fn recall(file: &Path, stamp: &Stamp) -> Option<String> {
    if !stamp.is_settled() {
        return None;
    }
    let mut text = String::new();
    File::open(file).ok()?.take(MOST).read_to_string(&mut text).ok()?;
    let (noted, answer) = text.strip_suffix('\n')?.split_once('\n')?;
    (noted == stamp.to_string()).then(|| answer.to_owned())
}

/// Notes an answer; `stamp` was taken before it was computed. A database that was written to a moment ago has no
/// answer that lasts: then nothing is noted, and nothing of more than 1 MiB.
///
/// # Errors
/// Those of writing a file and renaming it. What was there stays.
pub fn note(file: &Path, stamp: &Stamp, answer: &str) -> io::Result<()> {
    let text = format!("{stamp}\n{answer}\n");
    if !stamp.is_settled() || text.len() as u64 > MOST {
        return Ok(());
    }
    let mut draft = file.as_os_str().to_owned();
    draft.push(format!(".{}{DRAFT}", std::process::id()));
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
    let done = written
        .and_then(|mut draft| draft.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&draft, file));
    if done.is_err() {
        // The error of the draft is the one to tell.
        fs::remove_file(&draft).ok();
    }
    done
}

/// Removes the files of a directory whose names begin with `prefix` and that were written longer than `age` ago, also
/// those of writers that were killed; with `dry_run` only counts them.
///
/// # Errors
/// The first that occurs.
pub fn sweep(directory: &Path, prefix: &str, age: Duration, dry_run: bool) -> io::Result<u64> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        answer => answer?,
    };
    let (mut removed, now) = (0, SystemTime::now());
    for entry in entries {
        let entry = entry?;
        let found = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            answer => answer?,
        };
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes());
        let since = now.duration_since(found.modified()?).unwrap_or_default();
        if !is_ours || !found.is_file() || since < age {
            continue;
        }
        removed += 1;
        if !dry_run {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    /// A database that was written long ago, as far as its times tell; `ctime` cannot be set, so the test waits for that.
    fn settled(path: &Path) -> Stamp {
        let until = SystemTime::now() + Duration::from_secs(10);
        loop {
            let stamp = Stamp::take(path).unwrap();
            if stamp.is_settled() {
                return stamp;
            }
            assert!(SystemTime::now() < until, "the stamp of an old file never settles");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn an_answer_holds_until_the_database_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (database, file) = (dir.path().join("db.sqlite"), dir.path().join("question"));
        std::fs::write(&database, [0; 100]).unwrap();
        let fresh = Stamp::take(&database).unwrap();
        note(&file, &fresh, "too early").unwrap();
        assert!(!file.exists());

        let stamp = settled(&database);
        assert_eq!(recall(&file, &stamp), None);
        note(&file, &stamp, "first").unwrap();
        assert_eq!(recall(&file, &stamp).as_deref(), Some("first"));
        note(&file, &stamp, "second").unwrap();
        assert_eq!(recall(&file, &stamp).as_deref(), Some("second"));

        // The longest answer that fits is noted, and one byte more is not.
        let longest = "x".repeat(usize::try_from(MOST).unwrap() - format!("{stamp}\n\n").len());
        note(&file, &stamp, &longest).unwrap();
        assert_eq!(recall(&file, &stamp).as_ref(), Some(&longest));
        std::fs::remove_file(&file).unwrap();
        note(&file, &stamp, &(longest + "x")).unwrap();
        assert!(!file.exists());
        note(&file, &stamp, "second").unwrap();

        let whole = std::fs::read(&file).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&file, whole.get(..length).unwrap()).unwrap();
            assert_eq!(recall(&file, &stamp), None, "{length} bytes of it");
        }
        std::fs::write(&file, &whole).unwrap();
        std::fs::write(&database, [1; 100]).unwrap();
        assert_eq!(recall(&file, &Stamp::take(&database).unwrap()), None);
        assert_eq!(recall(&file, &settled(&database)), None);
        std::fs::write(dir.path().join("question.1~"), "").unwrap();
        std::fs::create_dir(dir.path().join("questions")).unwrap();
        assert_eq!(sweep(dir.path(), "question", Duration::from_secs(60), false).unwrap(), 0);
        assert_eq!(sweep(dir.path(), "question", Duration::ZERO, true).unwrap(), 2);
        assert_eq!(sweep(dir.path(), "question", Duration::ZERO, false).unwrap(), 2);
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "the database and the directory");
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db.sqlite");
        std::fs::write(&database, [0; 100]).unwrap();
        let stamp = settled(&database);
        let missing = dir.path().join("none/question");
        assert_eq!(note(&missing, &stamp, "x").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(recall(&missing, &stamp), None);
    }
}
