//! What a call is given: its body, held against the schema that the API's document shows of it, and
//! the part of its path that is a name. What does not fit is a problem document.

use std::{
    any::TypeId,
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use parking_lot::RwLock;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::{Number, Value};

use crate::{Problem, shape, shape::Bounded};

/// The least floats that are larger than every `u64` and every `i64`: 2^64 and 2^63.
const ABOVE_U64: f64 = 18_446_744_073_709_551_616.0;
const ABOVE_I64: f64 = 9_223_372_036_854_775_808.0;

/// A body that must be there, as JSON.
pub(crate) struct Body<T>(pub(crate) T);

/// A body that may be absent.
pub(crate) struct MaybeBody<T>(pub(crate) T);

/// The part of the path that names something.
pub(crate) struct At(pub(crate) String);

impl<T: DeserializeOwned + JsonSchema + 'static, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(not_json());
        }
        let bytes = Bytes::from_request(request, state).await?;
        read(&bytes).map(Self)
    }
}

impl<T, S> FromRequest<S> for MaybeBody<T>
where
    T: Default + DeserializeOwned + JsonSchema + 'static,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (said, json) =
            (request.headers().contains_key(header::CONTENT_TYPE), is_json(request.headers()));
        let bytes = Bytes::from_request(request, state).await?;
        match (bytes.is_empty(), json) {
            (true, true) if said => read(&bytes).map(Self),
            (true, _) => Ok(Self(T::default())),
            (false, true) => read(&bytes).map(Self),
            (false, false) => Err(not_json()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for At {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await?;
        Ok(Self(name))
    }
}

/// What is not as the document says is a bad request, in serde's words, which are the better ones, where
/// it sees it too: it lets a list pass for an object, and knows no bounds. What is as the document says
/// and still cannot be read, such as an address that is none, is refused.
fn read<T: DeserializeOwned + JsonSchema + 'static>(bytes: &[u8]) -> Result<T, Problem> {
    let body = Json::<T>::from_bytes(bytes).map(|Json(body)| body).map_err(Problem::from);
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return body };
    let had_fractions = without_fractions(&mut value);
    let schema = schema_of::<T>();
    let fits = shape::fits(&schema, &schema, &value);
    let body = match body {
        Err(_) if had_fractions && fits.is_ok() => {
            serde_json::from_value(value).map_err(|e| Problem::bad_request(e.to_string()))
        }
        body => body,
    };
    match (body, fits) {
        (Ok(body), Ok(())) => Ok(body),
        (Ok(_), Err(wrong)) => {
            let detail = format!("the request's body is not as it should be: {wrong}");
            Err(Problem::bad_request(detail))
        }
        (Err(problem), Ok(())) => Err(Problem::refused(problem.detail)),
        (Err(problem), Err(_)) => Err(problem),
    }
}

/// Makes 5 of 5.0: to JSON Schema both are integers, to serde one of them. Whether there was any.
fn without_fractions(value: &mut Value) -> bool {
    match value {
        Value::Number(number) if number.is_f64() => {
            let Some(whole) = number.as_f64().and_then(whole) else { return false };
            *number = whole;
            true
        }
        Value::Array(items) => {
            items.iter_mut().fold(false, |had, one| without_fractions(one) | had)
        }
        Value::Object(fields) => {
            fields.values_mut().fold(false, |had, one| without_fractions(one) | had)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The integer that a float is, if it is one that serde_json has.
fn whole(float: f64) -> Option<Number> {
    if float.fract() != 0.0 {
        return None;
    }
    match float {
        float if (0.0..ABOVE_U64).contains(&float) => Some((float as u64).into()),
        float if (-ABOVE_I64..0.0).contains(&float) => Some((float as i64).into()),
        _ => None,
    }
}

/// The schema of each type that was a body so far: as many as there are calls that take one.
fn schema_of<T: JsonSchema + 'static>() -> Arc<Value> {
    static KNOWN: LazyLock<RwLock<HashMap<TypeId, Arc<Value>>>> = LazyLock::new(RwLock::default);
    if let Some(known) = KNOWN.read().get(&TypeId::of::<T>()) {
        return Arc::clone(known);
    }
    let settings = SchemaSettings::draft2020_12().with_transform(Bounded).for_deserialize();
    let schema = Arc::new(Value::from(settings.into_generator().into_root_schema_for::<T>()));
    KNOWN.write().insert(TypeId::of::<T>(), Arc::clone(&schema));
    schema
}

fn is_json(headers: &HeaderMap) -> bool {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = text.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn not_json() -> Problem {
    let detail = "send the body as `Content-Type: application/json`";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::too_large(),
            _ => Self::bad_request(rejection.body_text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Order {
        #[schemars(range(min = 1, max = 5))]
        count: u64,
        #[serde(default)]
        to: Option<Place>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Place {
        #[serde(default)]
        name: String,
    }

    #[test]
    fn a_float_that_is_an_integer_is_read_as_one() {
        for (float, number) in [
            (5.0, "5"),
            (-3.0, "-3"),
            (1e18, "1000000000000000000"),
            (18_446_744_073_709_549_568.0, "18446744073709549568"),
            (-ABOVE_I64, "-9223372036854775808"),
        ] {
            assert_eq!(whole(float).map(|one| one.to_string()).as_deref(), Some(number));
        }
        assert!([0.5, ABOVE_U64, -2.0 * ABOVE_I64, f64::NAN].iter().all(|x| whole(*x).is_none()));
    }

    #[test]
    fn a_whole_number_is_read_as_what_it_says_however_large() {
        let body = br#"{"days": 2225470258294633.0}"#;
        let read = read::<HashMap<String, u64>>(body).unwrap();
        assert_eq!(read["days"], 2_225_470_258_294_633);
    }

    #[test]
    fn what_is_as_the_document_says_and_cannot_be_read_is_refused() {
        let read = read::<rekindle_jobs::RecoveryRequest>;
        let to = |client: &str| {
            let target = format!(r#"{{"kind": "export", "clients": ["{client}"]}}"#);
            format!(r#"{{"point": "web", "target": {target}}}"#)
        };
        assert!(read(to("10.0.0.7").as_bytes()).is_ok());
        assert_eq!(read(to("nowhere").as_bytes()).unwrap_err().status, 422);
        assert_eq!(read(br#"{"point": "web"}"#).unwrap_err().status, 400);
    }

    #[test]
    fn what_serde_lets_pass_and_the_document_does_not_is_refused() {
        let good = read::<Order>(br#"{"count": 5, "to": {"name": "x"}}"#).unwrap();
        assert_eq!((good.count, good.to.unwrap().name.as_str()), (5, "x"));
        assert_eq!(read::<Order>(br#"{"count": 2.0}"#).unwrap().count, 2);
        for bad in [
            r#"{"count": 6}"#,
            r#"{"count": 0}"#,
            r#"[1, null]"#,
            r#"{"count": 1, "to": []}"#,
            r#"{"count": 1, "to": ["x"]}"#,
            r#"{"count": 1, "more": 2}"#,
            r#"{"count": 1.5}"#,
            r#"{"count": 9.0}"#,
            "{",
        ] {
            assert_eq!(read::<Order>(bad.as_bytes()).unwrap_err().code, "bad_request", "{bad}");
        }
    }
}
