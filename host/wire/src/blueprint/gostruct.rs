//! Decoding JSON into structures by the peer's rules: names ignore case, members are applied in document order onto what
//! is there already, `null` leaves a plain member as it is.
//!
//! A derive cannot do this: it refuses repeated members, compares names exactly and takes `1.0` for an integer or not
//! depending on the field's type.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why a value does not fit its field.
pub(super) type DecodeError = serde_json::Error;

/// Decodes one document into a default value. A document `null` gives the default.
pub(super) fn document<T: Default>(
    json: &[u8],
    update: impl FnOnce(&mut T, &RawValue) -> Result<(), DecodeError>,
) -> Result<T, DecodeError> {
    let text = crate::gojson::readable(json);
    let mut value = T::default();
    update(&mut value, serde_json::from_str(&text)?)?;
    Ok(value)
}

/// An object's members in document order, names folded; none for `null`.
pub(super) fn members(json: &RawValue) -> Result<Vec<(String, &RawValue)>, DecodeError> {
    Ok(serde_json::from_str::<Option<Members<'_>>>(json.get())?.map_or_else(Vec::new, |m| m.0))
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((fold(&name), value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(MembersVisitor).map(Self)
    }
}

/// The name as it is compared: ASCII letters, and the two other characters whose simple folding is an ASCII letter.
fn fold(name: &str) -> String {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    name.chars().map(fold).collect()
}

fn is_null(json: &RawValue) -> bool {
    json.get() == "null"
}

pub(super) fn string_into(field: &mut String, json: &RawValue) -> Result<(), DecodeError> {
    if !is_null(json) {
        *field = serde_json::from_str(json.get())?;
    }
    Ok(())
}

pub(super) fn bool_into(field: &mut bool, json: &RawValue) -> Result<(), DecodeError> {
    if !is_null(json) {
        *field = serde_json::from_str(json.get())?;
    }
    Ok(())
}

/// Integers must be written as such: `1.0` and `1e0` are refused, `-0` is zero.
pub(super) fn int_into<N: std::str::FromStr>(field: &mut N, json: &RawValue) -> Result<(), DecodeError> {
    let text = json.get();
    if is_null(json) {
        return Ok(());
    }
    let digits = if text == "-0" { "0" } else { text };
    *field = digits
        .parse()
        .map_err(|_| serde::de::Error::custom(format_args!("cannot use {} as integer", kind(text))))?;
    Ok(())
}

/// Number texts are shown, other values (which may be long) only named.
fn kind(text: &str) -> &str {
    match text.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        _ => text,
    }
}

/// A member that may be absent: `null` removes it, an object is applied onto what is there.
pub(super) fn optional<T: Default>(
    field: &mut Option<T>,
    json: &RawValue,
    update: impl FnOnce(&mut T, &RawValue) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    if is_null(json) {
        *field = None;
        return Ok(());
    }
    update(field.get_or_insert_default(), json)
}

/// An array, `null` counting as an empty one and as an entry's default.
pub(super) fn list<T: Default>(
    json: &RawValue,
    mut update: impl FnMut(&mut T, &RawValue) -> Result<(), DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let entries = serde_json::from_str::<Option<Vec<&RawValue>>>(json.get())?.unwrap_or_default();
    let read = |entry| {
        let mut value = T::default();
        update(&mut value, entry)?;
        Ok(value)
    };
    entries.into_iter().map(read).collect()
}
