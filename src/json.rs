//! JSON in which an object stands where an object belongs, and a string where a word does.
//!
//! What serde derives for a struct also reads an array, the fields in their order, and a missing field of an `Option` may
//! be written as `null`. So a list of two things reads as a struct of two optional fields, an object with one `null` as a
//! variant without content, and a file has more forms than its description. Everything that this program reads as JSON is read through here, where a struct is an object.
//!
//! Variants of untagged enums and the contents of tagged ones are read out of a buffer of serde's, which no deserializer
//! sees into: their structs are marked with [`object`] or [`optional_object`].

mod objects;

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Error, Value};

use objects::Objects;

/// Reads a value from a text.
///
/// # Errors
/// As [`serde_json::from_slice`], for an array where a struct belongs, and for an object where a word does.
pub fn from_slice<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = T::deserialize(Objects::new(&mut reader))?;
    reader.end()?;
    Ok(value)
}

/// Reads a value from a text whose optional fields are left out rather than `null`.
///
/// # Errors
/// As [`from_slice`], and for `null` as the value of an optional field.
pub fn from_slice_without_null<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = T::deserialize(Objects::without_null(&mut reader))?;
    reader.end()?;
    Ok(value)
}

/// Reads a value from one that was read before.
///
/// # Errors
/// As [`from_slice`].
pub fn from_value<T: for<'de> Deserialize<'de>>(value: Value) -> Result<T, Error> {
    T::deserialize(Objects::new(value))
}

/// Reads a value that must be an object, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// Those of the value, and for anything but an object.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_map(Object(PhantomData))
}

/// As [`object`], for a field that may be missing or `null`.
///
/// # Errors
/// As [`object`].
pub fn optional_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Marked<T>>::deserialize(from)?.map(|marked| marked.0))
}

struct Marked<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Marked<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        object(from).map(Self)
    }
}

struct Object<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(Objects::new(MapAccessDeserializer::new(map)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        a: Option<u8>,
        b: Option<u8>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    enum Kind {
        Unit,
        New(Inner),
        Struct { inner: Inner },
        Tuple(u8, Inner),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        One {
            #[serde(default, deserialize_with = "optional_object")]
            inner: Option<Inner>,
        },
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Text(String),
        Object(#[serde(deserialize_with = "object")] Inner),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer<'a> {
        name: &'a str,
        #[serde(default)]
        kinds: Vec<Kind>,
        pair: Option<(u8, Option<Inner>)>,
        any: Option<Value>,
        #[serde(default, deserialize_with = "optional_object")]
        tagged: Option<Tagged>,
        untagged: Option<Untagged>,
    }

    fn reads(text: &str) -> bool {
        let plain = serde_json::from_str::<Outer<'_>>(text);
        let strict = from_slice::<Outer<'_>>(text.as_bytes());
        if let Ok(strict) = &strict {
            assert_eq!(*strict, plain.unwrap(), "{text}");
        }
        strict.is_ok()
    }

    #[test]
    fn what_is_read_is_what_serde_reads_but_for_arrays_and_words_in_objects() {
        for text in [
            r#"{"name":"x"}"#,
            r#"{"name":"x","kinds":["unit",{"new":{"a":1}},{"struct":{"inner":{}}},{"tuple":[3,{"b":2}]}]}"#,
            r#"{"name":"x","pair":[1,null],"any":[[null,{"x":[]}],null],"tagged":null,"untagged":"t"}"#,
            r#"{"name":"x","pair":[1,{"a":2}],"tagged":{"kind":"One","inner":{"b":1}},"untagged":{"a":1}}"#,
            r#"{"name":"x","tagged":{"kind":"One","inner":null}}"#,
        ] {
            assert!(reads(text), "{text}: {:?}", from_slice::<Outer<'_>>(text.as_bytes()));
        }
        for text in [
            r#"["x"]"#,
            r#"["x",[],null,null,null,null]"#,
            r#"{"name":"x","kinds":[{"new":[1,2]}]}"#,
            r#"{"name":"x","kinds":[{"struct":[{}]}]}"#,
            r#"{"name":"x","kinds":[{"struct":{"inner":[1,2]}}]}"#,
            r#"{"name":"x","kinds":[{"tuple":[3,[1,2]]}]}"#,
            r#"{"name":"x","pair":[1,[1,2]]}"#,
            r#"{"name":"x","tagged":["One",null]}"#,
            r#"{"name":"x","tagged":{"kind":"One","inner":[1,2]}}"#,
            r#"{"name":"x","untagged":[1,2]}"#,
            r#"{"name":"x","kinds":[{"unit":null}]}"#,
            r#"{"name":"x","kinds":[{}]}"#,
            r#"{"name":"x","kinds":[{"new":{},"unit":null}]}"#,
            r#"{"name":"x","kinds":["new"]}"#,
            r#"{"name":"x","kinds":[0]}"#,
            r#"{"name":"x","kinds":null}"#,
            r#"{"name":"x"} x"#,
            r#"{"name":"x","more":1}"#,
        ] {
            assert!(!reads(text), "{text}");
        }
    }

    #[test]
    fn null_stands_for_no_field_only_where_that_is_allowed() {
        let text = br#"{"a":null,"b":3}"#;
        assert_eq!(from_slice::<Inner>(text).unwrap(), Inner { a: None, b: Some(3) });
        let said = from_slice_without_null::<Inner>(text).unwrap_err().to_string();
        assert!(said.contains("null"), "{said}");
        assert!(from_slice_without_null::<Vec<Value>>(b"[null]").is_ok(), "a value of any kind may be null");
        assert!(from_value::<Inner>(serde_json::json!([1, 2])).is_err());
        assert_eq!(from_value::<Inner>(serde_json::json!({"a": 1})).unwrap(), Inner { a: Some(1), b: None });
    }
}
