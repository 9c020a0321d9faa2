//! A value that is usually text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::json;

/// Bytes; in JSON a string, or `{"base64": …}` if they are not UTF-8, and only then.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Text(Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Plain(String),
    Encoded(#[serde(deserialize_with = "json::object")] Encoded),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    base64: String,
}

impl Text {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// With `to` in place of each `from`, which is not empty.
    #[must_use]
    pub(super) fn replaced(&self, from: &[u8], to: &[u8]) -> Self {
        let mut made = Vec::with_capacity(self.0.len());
        let mut rest = self.0.as_slice();
        while let Some((first, next)) = rest.split_first() {
            match rest.strip_prefix(from) {
                Some(after) if !from.is_empty() => {
                    made.extend_from_slice(to);
                    rest = after;
                }
                _ => {
                    made.push(*first);
                    rest = next;
                }
            }
        }
        Self(made)
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl TryFrom<Written> for Text {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Plain(text) => Ok(Self(text.into_bytes())),
            Written::Encoded(Encoded { base64 }) => {
                let bytes = STANDARD.decode(&base64).map_err(|error| format!("no base64: {error}"))?;
                if std::str::from_utf8(&bytes).is_ok() {
                    return Err("base64 is for what is no text only".to_owned());
                }
                Ok(Self(bytes))
            }
        }
    }
}

impl From<Text> for Written {
    fn from(text: Text) -> Self {
        match String::from_utf8(text.0) {
            Ok(text) => Self::Plain(text),
            Err(bytes) => Self::Encoded(Encoded { base64: STANDARD.encode(bytes.as_bytes()) }),
        }
    }
}
