//! What was read of the contents of store paths before: digests and chunks, in `usage.sqlite`.
//!
//! The digests of a path are an answer while the path is the one that was read, whatever became of its hard links: what is
//! registered does not change. Files that their owner may write might have changed all the same, and are not remembered.
//! The chunks of a content follow from it, in any store.

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::cache::{Cache, Which};
use super::chunks::{Chunk, PARAMETERS};
use super::contents::{Inode, Kind};
use super::digest::{Digests, Sha};

/// The tables, begun anew.
pub(super) const TABLES: &str = "
    DROP TABLE IF EXISTS contents;
    CREATE TABLE contents (
        store TEXT NOT NULL, name TEXT NOT NULL, which TEXT NOT NULL, digests BLOB NOT NULL, PRIMARY KEY (store, name)
    ) WITHOUT ROWID;
    DROP TABLE IF EXISTS chunks;
    CREATE TABLE chunks (
        content BLOB NOT NULL, parameters TEXT NOT NULL, chunks BLOB NOT NULL, PRIMARY KEY (content, parameters)
    ) WITHOUT ROWID;";

/// What was read of one name of a store path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// Its rank in the path, as [`Entry::place`](super::contents::Entry::place).
    pub place: u32,
    /// What it is: another thing of that rank is not known.
    pub kind: Kind,
    /// Its length.
    pub size: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// What it holds.
    pub digests: Digests,
}

impl Known {
    /// True if it is of what `inode` is.
    #[must_use]
    pub fn is_of(&self, inode: &Inode) -> bool {
        (self.kind, self.size, self.executable) == (inode.kind, inode.size, inode.executable)
    }
}

impl Cache {
    /// What is known of the contents of a store path; empty if nothing is.
    pub fn digests(&mut self, name: &str, which: &Which) -> Vec<Known> {
        let found = self.with(|connection, store| {
            let mut statement = connection
                .prepare_cached("SELECT which, digests FROM contents WHERE store = ?1 AND name = ?2")?;
            let mut rows = statement.query(params![store, name])?;
            match rows.next()? {
                Some(row) if row.get_ref(0)?.as_str()? == which.text() => {
                    // What cannot be read is read again from the store.
                    Ok(postcard::from_bytes(row.get_ref(1)?.as_blob()?).unwrap_or_default())
                }
                _ => Ok(Vec::new()),
            }
        });
        found.unwrap_or_default()
    }

    /// Remembers all that is known of the contents of some store paths, in one transaction.
    pub fn put_digests(&mut self, paths: &[(&str, &Which, Vec<Known>)]) {
        self.with(|connection, store| {
            in_transaction(
                connection,
                "INSERT OR REPLACE INTO contents VALUES (?1, ?2, ?3, ?4)",
                |statement| {
                    for (name, which, known) in paths {
                        statement.execute(params![store, name, which.text(), blob(known)?])?;
                    }
                    Ok(())
                },
            )
        });
    }

    /// The chunks of a content, if they are known.
    pub fn chunks(&mut self, content: &Sha) -> Option<Vec<Chunk>> {
        self.with(|connection, _| {
            let mut statement = connection
                .prepare_cached("SELECT chunks FROM chunks WHERE content = ?1 AND parameters = ?2")?;
            let mut rows = statement.query(params![content, PARAMETERS])?;
            match rows.next()? {
                Some(row) => Ok(postcard::from_bytes(row.get_ref(0)?.as_blob()?).ok()),
                None => Ok(None),
            }
        })
        .flatten()
    }

    /// Remembers the chunks of some contents, in one transaction.
    pub fn put_chunks<'a>(&mut self, contents: impl IntoIterator<Item = (&'a Sha, &'a Vec<Chunk>)>) {
        self.with(|connection, _| {
            in_transaction(connection, "INSERT OR REPLACE INTO chunks VALUES (?1, ?2, ?3)", |statement| {
                for (content, chunks) in contents {
                    statement.execute(params![content, PARAMETERS, blob(chunks)?])?;
                }
                Ok(())
            })
        });
    }
}

fn in_transaction(
    connection: &mut Connection,
    text: &str,
    work: impl FnOnce(&mut rusqlite::CachedStatement<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    work(&mut transaction.prepare_cached(text)?)?;
    transaction.commit()
}

fn blob(value: &impl Serialize) -> rusqlite::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn digests_belong_to_a_path_and_chunks_to_a_content() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Which::Registered(1, "a".to_owned()), Which::Registered(1, "b".to_owned()));
        let digests = Digests { content: [1; 32], key: [2; 32] };
        let known = vec![Known { place: 3, kind: Kind::File, size: 9, executable: true, digests }];
        let chunks = vec![Chunk { digest: [3; 32], length: 9 }];
        let mut cache = Cache::open(dir.path(), dir.path());
        cache.put_digests(&[("a", &one, known.clone())]);
        cache.put_chunks([(&[1; 32], &chunks)]);
        // Not even another store has other chunks; links are not asked for.
        let mut again = Cache::open(dir.path(), std::path::Path::new("/else"));
        assert!(again.digests("a", &one).is_empty());
        assert_eq!(again.chunks(&[1; 32]), Some(chunks));
        assert_eq!(again.chunks(&[2; 32]), None);
        let mut again = Cache::open(dir.path(), dir.path());
        assert_eq!(again.digests("a", &one), known);
        assert!(again.digests("a", &other).is_empty());
        assert!(again.digests("b", &one).is_empty());
    }
}
