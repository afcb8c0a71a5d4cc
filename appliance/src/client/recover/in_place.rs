//! The part of a recovery's request that is about the VM whose place it takes.

use serde_json::{Value, json};

use crate::{cli::InPlaceArgs, exit::Failure};

/// The key `in_place`, if the arguments ask for that.
pub(super) fn key(args: &InPlaceArgs) -> Result<Option<Value>, Failure> {
    let Some(which) = &args.in_place else { return Ok(None) };
    let mut key = json!({});
    if !which.is_empty() {
        key["original"] = vm("--in-place", which)?;
    }
    if let Some(seconds) = args.shut_down_seconds {
        key["shut_down_seconds"] = seconds.into();
    }
    if let Some(suffix) = &args.aside_suffix {
        key["suffix"] = suffix.as_str().into();
    }
    Ok(Some(key))
}

/// A VM of the target as `option` tells it.
pub(super) fn vm(option: &str, which: &str) -> Result<Value, Failure> {
    match which.split_once(':') {
        Some((how @ ("name" | "uuid" | "moref"), value)) if !value.is_empty() => {
            Ok(json!({ how: value }))
        }
        _ => Err(Failure::refused(format!("{option}={which}: name:NAME, uuid:UUID or moref:ID"))),
    }
}

#[cfg(test)]
mod tests {
    use rekindle_jobs::{OriginalRef, RecoveryRequest};

    use super::*;

    fn request(in_place: &str) -> Result<RecoveryRequest, Failure> {
        let args = InPlaceArgs {
            in_place: Some(in_place.into()),
            shut_down_seconds: Some(90),
            aside_suffix: Some(" (old)".into()),
        };
        let mut body = json!({ "point": "p", "target": { "kind": "vsphere", "name": "v" } });
        body["in_place"] = key(&args)?.unwrap();
        let request: RecoveryRequest = serde_json::from_value(body).unwrap();
        request.validate().unwrap();
        Ok(request)
    }

    #[test]
    fn the_original_is_told_as_the_appliance_reads_it() {
        let original = |text| request(text).unwrap().in_place.unwrap().original;
        assert_eq!(original(""), None);
        assert_eq!(original("name:a:b"), Some(OriginalRef::Name("a:b".into())));
        assert_eq!(original("uuid:564d"), Some(OriginalRef::Uuid("564d".into())));
        assert_eq!(original("moref:vm-7"), Some(OriginalRef::Moref("vm-7".into())));
        for bad in ["web", "name:", "id:7"] {
            assert!(request(bad).is_err(), "{bad}");
        }
    }
}
