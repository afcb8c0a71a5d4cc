use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error};
use serde_json::{Map, Value};

/// A body with a `reason` beside its own fields.
pub(crate) struct Reasoned<T> {
    pub(super) reason: Option<String>,
    pub(super) body: T,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Reasoned<T> {
    /// Takes the reason out first, so that the rest may refuse fields it does not know.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(from)?;
        let reason = match fields.remove("reason") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => return Err(D::Error::custom("`reason` must be a text")),
        };
        let body = serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)?;
        Ok(Self { reason, body })
    }
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
}
