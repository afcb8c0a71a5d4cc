//! The calls as an OpenAPI 3.1 document, whose schemas are made of the types that are read and written.

use std::{collections::BTreeSet, sync::LazyLock};

use axum::{
    http::{StatusCode, header},
    response::IntoResponse,
};
use schemars::{SchemaGenerator, generate::SchemaSettings, transform::Transform};
use serde_json::{Map, Value, json};

use crate::{
    calls::{CALLS, Call, Content, Once, Takes},
    once::{KEPT_KEY_MIN, KEY_MAX},
    problem,
    shape::Bounded,
};

const JSON: &str = "application/json";
/// Where the document has its schemas.
const SCHEMAS: &str = "/components/schemas";

/// The document.
pub fn openapi() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(make);
    &DOCUMENT
}

/// `GET /api/v1/openapi.json`
pub(crate) async fn document() -> impl IntoResponse {
    static TEXT: LazyLock<String> = LazyLock::new(|| openapi().to_string());
    ([(header::CONTENT_TYPE, JSON)], TEXT.as_str())
}

/// Where the schemas of what is read and of what is written are made. A type that is both may differ: a
/// field that has a default must be written, and need not be read.
struct Schemas {
    read: SchemaGenerator,
    written: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12()
                .with_transform(Bounded)
                .with(|settings| settings.definitions_path = SCHEMAS.into())
        };
        let read = settings().for_deserialize().into_generator();
        let written = settings().for_serialize().into_generator();
        Self { read, written }
    }

    /// All of them by name, and the names of those that are read and written and differ.
    fn take(&mut self) -> (Map<String, Value>, BTreeSet<String>) {
        let read = self.read.take_definitions(true);
        let mut all = self.written.take_definitions(true);
        let mut differ: BTreeSet<String> = BTreeSet::new();
        loop {
            let refers = |schema: &Value| {
                let text = schema.to_string();
                differ.iter().any(|name| text.contains(&format!("\"#{SCHEMAS}/{name}\"")))
            };
            let differs = |name: &String, schema: &Value| {
                all.get(name).is_some_and(|other| other != schema || refers(schema))
            };
            let found: BTreeSet<_> = read
                .iter()
                .filter(|(name, schema)| differs(name, schema))
                .map(|(name, _)| name.clone())
                .collect();
            if found == differ {
                break;
            }
            differ = found;
        }
        for (name, mut schema) in read {
            rename(&mut schema, &differ);
            let name = if differ.contains(&name) { input(&name) } else { name };
            all.insert(name, schema);
        }
        (all, differ)
    }
}

/// What a type is called as it is read, where it is written otherwise.
fn input(name: &str) -> String {
    format!("{name}Input")
}

/// Lets references to what differs lead to what is read.
fn rename(schema: &mut Value, differ: &BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                let meant = value.as_str().and_then(|text| text.rsplit('/').next());
                match meant.filter(|name| key == "$ref" && differ.contains(*name)) {
                    Some(name) => *value = format!("#{SCHEMAS}/{}", input(name)).into(),
                    None => rename(value, differ),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, differ)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn make() -> Value {
    let mut schemas = Schemas::new();
    let mut made: Vec<_> = CALLS.iter().map(|call| (call, operation(call, &mut schemas))).collect();
    schemas.written.subschema_for::<problem::Document<'static>>();
    let (all, differ) = schemas.take();
    let mut paths = Map::new();
    for (call, operation) in &mut made {
        if let Some(body) = operation.get_mut("requestBody") {
            rename(body, &differ);
        }
        let entry = paths.entry(call.path).or_insert_with(|| json!({}));
        entry[call.method.to_lowercase()] = operation.take();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Rekindle",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Errors are problem documents (RFC 9457) whose `code` is stable.",
        },
        "security": [{ "token": [] }],
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": all,
        },
        "paths": paths,
    })
}

fn operation(call: &Call, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": id(call),
        "summary": call.what,
        "responses": responses(call, schemas),
    });
    let parameters = parameters(call, schemas);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    let (required, schema) = match call.takes {
        Takes::Nothing => (false, None),
        Takes::Json(of) => (true, Some(of)),
        Takes::MayJson(of) => (false, Some(of)),
    };
    if let Some(of) = schema {
        let schema = of(&mut schemas.read);
        operation["requestBody"] =
            json!({ "required": required, "content": { JSON: { "schema": schema } } });
    }
    if call.need.is_none() {
        operation["security"] = json!([]);
    }
    operation
}

/// `post_jobs_id_finish`: stable, as it is made of what is.
fn id(call: &Call) -> String {
    let path = call.path.trim_start_matches("/api/v1").replace(['{', '}'], "");
    let words = path.split(['/', '.']).filter(|word| !word.is_empty());
    let words: Vec<_> = std::iter::once(call.method.to_lowercase().as_str())
        .chain(words)
        .map(str::to_owned)
        .collect();
    words.join("_")
}

fn responses(call: &Call, schemas: &mut Schemas) -> Value {
    let mut all = Map::new();
    let mut done = json!({ "description": "done" });
    let mut content = Map::new();
    match call.content {
        Content::Nothing => {}
        Content::Json(of) => drop(content.insert(JSON.into(), told(of(&mut schemas.written)))),
        Content::JsonOr(of, others) => {
            content.insert(JSON.into(), told(of(&mut schemas.written)));
            for other in others {
                content.insert((*other).into(), json!({ "schema": { "type": "string" } }));
            }
        }
        Content::Any => {
            drop(content.insert(JSON.into(), json!({ "schema": { "type": "object" } })))
        }
        Content::Text(kind) => {
            // What a stream of events is as a whole is more than OpenAPI 3.1 can say.
            let schema = match kind {
                "text/event-stream" => json!({}),
                _ => json!({ "type": "string" }),
            };
            content.insert(kind.into(), json!({ "schema": schema }));
        }
    }
    if !content.is_empty() {
        done["content"] = content.into();
    }
    let mut headers = Map::new();
    let mut header = |name: &str, what: &str| {
        let told = json!({ "description": what, "required": true, "schema": { "type": "string" } });
        headers.insert(name.to_owned(), told);
    };
    if call.headers.tagged {
        header("ETag", "its version, for If-Match");
    }
    if call.headers.located {
        header("Location", "where what was made is");
    }
    if !headers.is_empty() {
        done["headers"] = headers.into();
    }
    all.insert(call.status.to_string(), done);
    if call.headers.cached {
        all.insert("304".to_owned(), json!({ "description": "as the caller has it" }));
    }
    for status in call.problems() {
        all.insert(status.to_string(), why_not(status));
    }
    all.into()
}

fn told(schema: schemars::Schema) -> Value {
    json!({ "schema": schema })
}

fn why_not(status: u16) -> Value {
    let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let schema = json!({ "$ref": format!("#{SCHEMAS}/ProblemDetails") });
    json!({
        "description": title.unwrap_or("why not"),
        "content": { "application/problem+json": { "schema": schema } },
    })
}

fn parameters(call: &Call, schemas: &mut Schemas) -> Vec<Value> {
    let mut all = Vec::new();
    if let Some(name) = call.path.split(['{', '}']).nth(1) {
        let schema = json!({ "type": "string", "minLength": 1 });
        all.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
    }
    if let Some(of) = call.query {
        let mut schema = of(&mut schemas.read);
        Bounded.transform(&mut schema);
        let schema = Value::from(schema);
        let fields = schema["properties"].as_object().cloned().unwrap_or_default();
        for (name, mut schema) in fields {
            let what = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let what = what.unwrap_or_default();
            never_null(&mut schema);
            all.push(json!({ "name": name, "in": "query", "description": what, "schema": schema }));
        }
    }
    let mut header = |name: &str, what: &str, schema: Value| {
        all.push(json!({ "name": name, "in": "header", "description": what, "schema": schema }));
    };
    if let Some(known) = call.headers.once {
        let least = if known == Once::Kept { KEPT_KEY_MIN } else { 1 };
        let key = json!({
            "type": "string", "minLength": least, "maxLength": KEY_MAX, "pattern": "^[!-~]+$",
        });
        header(
            "Idempotency-Key",
            "names this call: made again, it is answered as the first time",
            key,
        );
    }
    if call.headers.matched {
        header("If-Match", "only if one of these is still its ETag", json!({ "type": "string" }));
    }
    if call.headers.cached {
        header("If-None-Match", "not if that is its ETag", json!({ "type": "string" }));
    }
    if call.may_need_code() {
        header(
            "X-Rekindle-Totp",
            "a one-time code, where one is needed",
            json!({ "type": "string" }),
        );
    }
    all
}

/// A query has no way to say null: what is absent is not said.
fn never_null(schema: &mut Value) {
    if let Some(kinds) = schema.get_mut("type") {
        let others =
            kinds.as_array().map(|kinds| kinds.iter().find(|kind| *kind != "null").cloned());
        if let Some(other) = others.flatten() {
            *kinds = other;
        }
    }
    let choices = schema.get("anyOf").and_then(Value::as_array).cloned().unwrap_or_default();
    let others: Vec<_> = choices.into_iter().filter(|one| one["type"] != "null").collect();
    if let [only] = &others[..] {
        *schema = only.clone();
    }
    if schema["default"].is_null() {
        schema.as_object_mut().and_then(|schema| schema.remove("default"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{HELD, SAID};

    /// Every schema in the document, wherever.
    fn schemas() -> Vec<&'static Value> {
        let all = openapi()["components"]["schemas"].as_object().unwrap();
        let mut found: Vec<_> = all.values().collect();
        let mut seen = 0;
        while seen < found.len() {
            let schema = found[seen];
            seen += 1;
            for word in ["properties", "$defs"] {
                found.extend(schema[word].as_object().into_iter().flat_map(Map::values));
            }
            for word in ["anyOf", "oneOf", "allOf"] {
                found.extend(schema[word].as_array().into_iter().flatten());
            }
            found.extend(
                ["items", "additionalProperties"].iter().filter_map(|word| schema.get(word)),
            );
        }
        found
    }

    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_call_says_what_it_takes_and_answers() {
        for call in CALLS {
            let told = &openapi()["paths"][call.path][call.method.to_lowercase()];
            let done = &told["responses"][call.status.to_string()];
            assert_eq!(
                done["content"].is_null(),
                call.status == 204,
                "{} {}",
                call.method,
                call.path
            );
            for answer in told["responses"].as_object().unwrap().values() {
                for (kind, content) in answer["content"].as_object().into_iter().flatten() {
                    assert!(content["schema"].is_object(), "{} {}: {kind}", call.method, call.path);
                }
            }
            let body = &told["requestBody"]["content"][JSON]["schema"];
            assert_eq!(body.is_object(), !matches!(call.takes, Takes::Nothing), "{}", call.path);
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let mut found = BTreeSet::new();
        references(openapi(), &mut found);
        assert!(found.len() > 50, "{}", found.len());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(openapi().pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn schemas_say_nothing_that_is_not_held() {
        for schema in schemas() {
            for word in schema.as_object().into_iter().flat_map(Map::keys) {
                assert!(HELD.contains(&word.as_str()) || SAID.contains(&word.as_str()), "{word}");
            }
        }
    }

    #[test]
    fn no_two_calls_have_one_name() {
        let names: BTreeSet<_> = CALLS.iter().map(id).collect();
        assert_eq!(names.len(), CALLS.len());
    }

    #[test]
    fn what_has_a_default_is_written_and_need_not_be_read() {
        let schemas = &openapi()["components"]["schemas"];
        let needs = |name: &str, field: &str| {
            schemas[name]["required"].as_array().unwrap().iter().any(|one| one == field)
        };
        assert!(needs("RecoveryRequest", "mode") && !needs("RecoveryRequestInput", "mode"));
        assert!(needs("RecoveryRequestInput", "target"));
    }
}
