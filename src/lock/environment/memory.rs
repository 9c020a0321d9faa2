//! Environments that were recorded before, in `locks.sqlite` of the state directory, beside what expressions gave.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::{Environment, Recipe};
use crate::json;
use crate::lock::digest::{Digest, Fields};
use crate::lock::memory::{Memory, now};

impl Memory {
    /// What was recorded for exactly this. A row whose digest does not fit, or that no lock could have, is no answer.
    #[must_use]
    pub fn environment(&self, recipe: &Recipe) -> Option<Environment> {
        let connection = self.connection.as_ref()?;
        let key = recipe.key();
        let row = connection.query_row(
            "SELECT result, digest FROM environments WHERE key = ?1",
            [key.as_bytes()],
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)),
        );
        let (result, digest) = match row.optional() {
            Ok(row) => row?,
            Err(error) => {
                tracing::warn!(%error, "what was remembered of environments cannot be read");
                return None;
            }
        };
        let parsed = json::from_slice_without_null::<Environment>(result.as_bytes()).ok();
        let fits = digest == row_digest(&key, &result).as_bytes();
        let answer = parsed.filter(|e| fits && e.check(recipe.store()).is_ok() && e.shell == recipe.shell());
        if answer.is_none() {
            tracing::warn!("what was remembered of an environment fails its digest and is not used");
            return None;
        }
        let touched = connection
            .execute("UPDATE environments SET used = ?2 WHERE key = ?1", params![key.as_bytes(), now()]);
        if let Err(error) = touched {
            tracing::debug!(%error, "the day of use is not noted");
        }
        answer
    }

    /// Forgets the environments that were not used since `age` ago, or only counts them; how many.
    ///
    /// # Errors
    /// A description, if the file cannot be used.
    pub fn prune_environments(&self, age: Duration, dry_run: bool) -> Result<u64, String> {
        self.prune_table("environments", age, dry_run)
    }

    /// Remembers; false if it could not.
    pub fn put_environment(&self, recipe: &Recipe, environment: &Environment) -> bool {
        let Some(connection) = self.connection.as_ref() else { return false };
        let key = recipe.key();
        let Ok(result) = serde_json::to_string(environment) else { return false };
        let digest = row_digest(&key, &result);
        let stored = connection.execute(
            "INSERT OR REPLACE INTO environments VALUES (?1, ?2, ?3, ?4)",
            params![key.as_bytes(), result, digest.as_bytes(), now()],
        );
        if let Err(error) = &stored {
            tracing::warn!(%error, "the environment is not remembered");
        }
        stored.is_ok()
    }
}

fn row_digest(key: &Digest, result: &str) -> Digest {
    let mut fields = Fields::new("nixview environment row 1");
    fields.add(key.as_bytes());
    fields.add(result.as_bytes());
    fields.finish()
}
