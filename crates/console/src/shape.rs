//! Whether a JSON value is as a JSON Schema (2020-12) says: the part of it that schemas made of our
//! types have. `pattern` and `format` are left to those who read the text.

use schemars::{
    Schema,
    transform::{Transform, transform_subschemas},
};
use serde_json::{Map, Value};

/// Deeper nesting of references than any type of ours has: a schema that refers to itself ends here.
const DEPTH: usize = 64;

/// What a schema may say that this holds.
#[cfg(test)]
pub(crate) const HELD: [&str; 18] = [
    "$ref",
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "anyOf",
    "oneOf",
    "allOf",
];

/// What else it may say.
#[cfg(test)]
pub(crate) const SAID: [&str; 9] = [
    "$schema",
    "$defs",
    "title",
    "description",
    "default",
    "format",
    "pattern",
    "examples",
    "writeOnly",
];

/// Sets the bounds of integers that schemars leaves to their format.
#[derive(Clone, Debug)]
pub(crate) struct Bounded;

impl Transform for Bounded {
    fn transform(&mut self, schema: &mut Schema) {
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        let (least, most): (Value, Value) = match format {
            "uint64" | "uint" => (0.into(), u64::MAX.into()),
            "uint32" => (0.into(), u32::MAX.into()),
            "uint16" => (0.into(), u16::MAX.into()),
            "int64" | "int" => (i64::MIN.into(), i64::MAX.into()),
            _ => return transform_subschemas(self, schema),
        };
        let fields = schema.ensure_object();
        fields.entry("minimum").or_insert(least);
        fields.entry("maximum").or_insert(most);
        transform_subschemas(self, schema);
    }
}

/// Nothing, or where the value is other than the schema says, and how. References are looked up in `root`.
pub(crate) fn fits(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    Look { root, depth: 0 }.at(schema, value).map_err(|(path, what)| match path.is_empty() {
        true => what,
        false => format!("{} {what}", path.trim_start_matches('.')),
    })
}

/// Where it is, from the inside out, and what is wrong there.
type Wrong = (String, String);

struct Look<'a> {
    root: &'a Value,
    depth: usize,
}

impl Look<'_> {
    fn at(&self, schema: &Value, value: &Value) -> Result<(), Wrong> {
        let says = match schema {
            Value::Bool(false) => return wrong("is not known here"),
            Value::Object(says) => says,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                return Ok(());
            }
        };
        if self.depth == DEPTH {
            return wrong("is nested too deep");
        }
        let inner = Self { depth: self.depth + 1, ..*self };
        if let Some(reference) = says.get("$ref").and_then(Value::as_str) {
            let pointer = reference.trim_start_matches('#');
            let Some(meant) = self.root.pointer(pointer) else {
                return wrong(&format!("is described by {reference}, which is missing"));
            };
            inner.at(meant, value)?;
        }
        kind(says, value)?;
        inner.one_of_several(says, value)?;
        match value {
            Value::Object(fields) => inner.object(says, fields),
            Value::Array(items) => inner.array(says, items),
            Value::Number(_) => number(says, value),
            Value::String(text) => length(says, text),
            Value::Null | Value::Bool(_) => Ok(()),
        }
    }

    fn one_of_several(&self, says: &Map<String, Value>, value: &Value) -> Result<(), Wrong> {
        for all in says.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.at(all, value)?;
        }
        for (word, may_be_more) in [("anyOf", true), ("oneOf", false)] {
            let Some(choices) = says.get(word).and_then(Value::as_array) else { continue };
            let found: Vec<_> = choices.iter().map(|choice| self.at(choice, value)).collect();
            match found.iter().filter(|one| one.is_ok()).count() {
                1 => {}
                0 => return deepest(found),
                _ if may_be_more => {}
                _ => return wrong("is more than one of what it may be"),
            }
        }
        Ok(())
    }

    fn object(&self, says: &Map<String, Value>, fields: &Map<String, Value>) -> Result<(), Wrong> {
        let required = says.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                return wrong(&format!("needs the field `{name}`"));
            }
        }
        let known = says.get("properties").and_then(Value::as_object);
        let others = says.get("additionalProperties");
        for (name, value) in fields {
            let of_it = known.and_then(|known| known.get(name)).or(others);
            if let Some(schema) = of_it {
                self.at(schema, value).map_err(|wrong| below(format!(".{name}"), wrong))?;
            }
        }
        Ok(())
    }

    fn array(&self, says: &Map<String, Value>, items: &[Value]) -> Result<(), Wrong> {
        let count = items.len() as u64;
        let bound = |word: &str| says.get(word).and_then(Value::as_u64);
        if bound("minItems").is_some_and(|least| count < least) {
            return wrong("has too few items");
        }
        if bound("maxItems").is_some_and(|most| count > most) {
            return wrong("has too many items");
        }
        let differ = || {
            let mut texts: Vec<_> = items.iter().map(Value::to_string).collect();
            texts.sort_unstable();
            texts.windows(2).all(|two| two[0] != two[1])
        };
        if says.get("uniqueItems") == Some(&Value::Bool(true)) && !differ() {
            return wrong("has the same item twice");
        }
        let Some(schema) = says.get("items") else { return Ok(()) };
        for (place, item) in items.iter().enumerate() {
            self.at(schema, item).map_err(|wrong| below(format!("[{place}]"), wrong))?;
        }
        Ok(())
    }
}

fn wrong(what: &str) -> Result<(), Wrong> {
    Err((String::new(), what.to_owned()))
}

fn below(place: String, (path, what): Wrong) -> Wrong {
    (place + &path, what)
}

/// Of what none of the choices is, what is said of the one that came furthest.
fn deepest(found: Vec<Result<(), Wrong>>) -> Result<(), Wrong> {
    let wrong = found.into_iter().filter_map(Result::err);
    wrong.max_by_key(|(path, _)| path.len()).map_or(Ok(()), Err)
}

fn kind(says: &Map<String, Value>, value: &Value) -> Result<(), Wrong> {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        _ => false,
    };
    let right = match says.get("type") {
        Some(Value::String(name)) => is(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    };
    if !right {
        let wanted = says.get("type").map(Value::to_string).unwrap_or_default();
        return wrong(&format!("must be {}", wanted.replace('"', "")));
    }
    if says.get("const").is_some_and(|only| only != value) {
        return wrong("is not what it must be");
    }
    let choices = says.get("enum").and_then(Value::as_array);
    if choices.is_some_and(|choices| !choices.contains(value)) {
        return wrong("is none of what it may be");
    }
    Ok(())
}

fn number(says: &Map<String, Value>, value: &Value) -> Result<(), Wrong> {
    let below = |a: &Value, b: &Value| match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a < b,
        _ => a.as_f64() < b.as_f64(),
    };
    if let Some(least) = says.get("minimum").filter(|least| below(value, least)) {
        return wrong(&format!("must be at least {least}"));
    }
    if let Some(most) = says.get("maximum").filter(|most| below(most, value)) {
        return wrong(&format!("must be at most {most}"));
    }
    Ok(())
}

fn whole(value: &Value) -> Option<i128> {
    value.as_number().and_then(serde_json::Number::as_i128)
}

fn length(says: &Map<String, Value>, text: &str) -> Result<(), Wrong> {
    let count = || text.chars().count() as u64;
    let bound = |word: &str| says.get(word).and_then(Value::as_u64);
    if let Some(least) = bound("minLength").filter(|least| count() < *least) {
        return wrong(&format!("must have at least {least} characters"));
    }
    if let Some(most) = bound("maxLength").filter(|most| count() > *most) {
        return wrong(&format!("must have at most {most} characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_word_of_a_schema_that_is_held_refuses_something() {
        let root = json!({ "$defs": { "Text": { "type": "string" } } });
        for (word, schema, good, bad) in [
            ("$ref", json!({ "$ref": "#/$defs/Text" }), json!("a"), json!(1)),
            ("type", json!({ "type": ["object", "null"] }), json!(null), json!([])),
            ("type", json!({ "type": "integer" }), json!(-1), json!(1.5)),
            ("enum", json!({ "enum": ["a"] }), json!("a"), json!("b")),
            ("const", json!({ "const": "a" }), json!("a"), json!("b")),
            (
                "properties",
                json!({ "properties": { "a": { "type": "null" } } }),
                json!({ "b": 1 }),
                json!({ "a": 1 }),
            ),
            ("required", json!({ "required": ["a"] }), json!({ "a": 1 }), json!({})),
            (
                "additionalProperties",
                json!({ "additionalProperties": false }),
                json!({}),
                json!({ "a": 1 }),
            ),
            (
                "additionalProperties",
                json!({ "additionalProperties": { "type": "null" } }),
                json!({ "a": null }),
                json!({ "a": 1 }),
            ),
            ("items", json!({ "items": { "type": "null" } }), json!([null]), json!([null, 1])),
            ("minItems", json!({ "minItems": 1 }), json!([1]), json!([])),
            ("maxItems", json!({ "maxItems": 1 }), json!([1]), json!([1, 2])),
            ("uniqueItems", json!({ "uniqueItems": true }), json!([1, 2]), json!([1, 2, 1])),
            ("minimum", json!({ "minimum": 1 }), json!(1), json!(0)),
            ("maximum", json!({ "maximum": u64::MAX }), json!(u64::MAX), json!(1e300)),
            ("minLength", json!({ "minLength": 2 }), json!("äö"), json!("ä")),
            ("maxLength", json!({ "maxLength": 1 }), json!("ä"), json!("äö")),
            ("anyOf", json!({ "anyOf": [{ "type": "null" }, { "const": 1 }] }), json!(1), json!(2)),
            ("oneOf", json!({ "oneOf": [{ "minimum": 1 }, { "minimum": 5 }] }), json!(1), json!(5)),
            ("allOf", json!({ "allOf": [{ "minimum": 1 }, { "maximum": 5 }] }), json!(5), json!(6)),
        ] {
            assert!(HELD.contains(&word), "{word}");
            assert_eq!(fits(&root, &schema, &good), Ok(()), "{word}");
            assert!(fits(&root, &schema, &bad).is_err(), "{word}");
        }
    }

    #[test]
    fn what_is_wrong_says_where() {
        let schema = json!({ "properties": { "groups": { "items": { "required": ["port"] } } } });
        let wrong = fits(&schema, &schema, &json!({ "groups": [{ "port": 1 }, {}] })).unwrap_err();
        assert_eq!(wrong, "groups[1] needs the field `port`");
    }

    #[test]
    fn a_schema_that_leads_round_in_a_circle_ends() {
        let root = json!({ "$ref": "#" });
        assert!(fits(&root, &root, &json!(1)).is_err());
    }
}
