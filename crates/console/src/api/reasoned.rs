use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error};
use serde_json::{Map, Value};

use crate::act::REASON_MAX;

/// A body with a `reason` beside its own fields.
pub(crate) struct Reasoned<T> {
    pub(super) reason: Option<String>,
    pub(super) body: T,
}

/// The same, with the `passkey` of a sealed repository. What is left may be kept; that may not.
pub(crate) struct Asked<T> {
    pub(super) reason: Option<String>,
    pub(super) passkey: Option<String>,
    pub(super) body: T,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Reasoned<T> {
    /// Takes the reason out first, so that the rest may refuse fields it does not know.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(from)?;
        let reason = text(&mut fields, "reason")?;
        Ok(Self { reason, body: rest(fields)? })
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Asked<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(from)?;
        let (reason, passkey) = (text(&mut fields, "reason")?, text(&mut fields, "passkey")?);
        Ok(Self { reason, passkey, body: rest(fields)? })
    }
}

fn text<E: Error>(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, E> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(E::custom(format!("`{name}` must be a text"))),
    }
}

fn rest<T: DeserializeOwned, E: Error>(fields: Map<String, Value>) -> Result<T, E> {
    serde_json::from_value(Value::Object(fields)).map_err(E::custom)
}

impl<T: JsonSchema> JsonSchema for Reasoned<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}WithReason", T::schema_name()).into()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("Reasoned<{}>", T::schema_id()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        with(T::json_schema(generator), "reason", reason())
    }
}

impl<T: JsonSchema> JsonSchema for Asked<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}WithPasskey", T::schema_name()).into()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("Asked<{}>", T::schema_id()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let schema = with(T::json_schema(generator), "reason", reason());
        let passkey = json_schema!({
            "description": "Opens a sealed repository. It is not kept.",
            "type": ["string", "null"],
            "writeOnly": true,
        });
        with(schema, "passkey", passkey)
    }
}

fn reason() -> Schema {
    json_schema!({
        "description": "Why, for the audit log.",
        "type": ["string", "null"],
        "maxLength": REASON_MAX,
    })
}

fn with(mut schema: Schema, name: &str, field: Schema) -> Schema {
    let properties =
        schema.ensure_object().entry("properties").or_insert_with(|| Map::new().into());
    if let Some(properties) = properties.as_object_mut() {
        properties.insert(name.to_owned(), field.into());
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Body {
        a: u8,
    }

    #[test]
    fn the_reason_is_taken_and_other_fields_are_not() {
        let read = serde_json::from_str::<Reasoned<Body>>;
        let both = read(r#"{"a":1,"reason":"why"}"#).unwrap();
        assert_eq!((both.body, both.reason.as_deref()), (Body { a: 1 }, Some("why")));
        assert_eq!(read(r#"{"a":1}"#).unwrap().reason, None);
        for bad in [r#"{"a":1,"b":2}"#, r#"{"reason":"why"}"#, r#"{"a":1,"reason":3}"#, "[]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_passkey_is_taken_only_where_one_is_asked_for() {
        let text = r#"{"a":1,"reason":"why","passkey":"k"}"#;
        let asked = serde_json::from_str::<Asked<Body>>(text).unwrap();
        assert_eq!((asked.body, asked.passkey.as_deref()), (Body { a: 1 }, Some("k")));
        assert!(serde_json::from_str::<Reasoned<Body>>(text).is_err());
        assert!(serde_json::from_str::<Asked<Body>>(r#"{"a":1,"passkey":2}"#).is_err());
    }
}
