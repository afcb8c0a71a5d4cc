//! The part of a request that is about the end of a migration to another datastore.

use serde_json::{Value, json};

use crate::{
    cli::{CutOver, CutOverArgs, Stop},
    exit::Failure,
};

/// The key `cut_over`, if the arguments say anything of it.
pub(in crate::client) fn key(args: &CutOverArgs) -> Option<Value> {
    let mut key = json!({});
    if let Some(method) = args.cut_over {
        key["method"] = match method {
            CutOver::Relocate => "relocate".into(),
            CutOver::LowPause => "low_pause".into(),
        };
    }
    if let Some(stop) = args.stop {
        key["stop"] = match stop {
            Stop::ShutDown => "shut_down".into(),
            Stop::PowerOff => "power_off".into(),
        };
    }
    if let Some(seconds) = args.stop_within {
        key["shut_down_seconds"] = seconds.into();
    }
    (key != json!({})).then_some(key)
}

/// The key `verify`, if the arguments say anything of it.
pub(in crate::client) fn verify(args: &CutOverArgs) -> Result<Option<Value>, Failure> {
    let Some(how) = &args.verify else { return Ok(None) };
    let bad = || {
        Failure::refused(format!("--verify {how}: full, sampled:PERCENT or sampled:PERCENT:SEED"))
    };
    let mut parts = how.split(':');
    let key = match (parts.next(), parts.next(), parts.next()) {
        (Some("full"), None, _) => json!("full"),
        (Some("sampled"), Some(percent), seed) => {
            let percent: u8 = percent.parse().map_err(|_| bad())?;
            let mut sampled = json!({ "percent": percent });
            if let Some(seed) = seed {
                sampled["seed"] = seed.parse::<u64>().map_err(|_| bad())?.into();
            }
            json!({ "sampled": sampled })
        }
        _ => return Err(bad()),
    };
    match parts.next() {
        Some(_) => Err(bad()),
        None => Ok(Some(key)),
    }
}

#[cfg(test)]
mod tests {
    use rekindle_jobs::{CutOverMethod, GuestStop, RecoveryRequest, Sampling, Verification};

    use super::*;

    fn request(args: &CutOverArgs) -> RecoveryRequest {
        let mut body = json!({ "point": "p", "target": { "kind": "vsphere", "name": "v" } });
        key(args).into_iter().for_each(|key| body["cut_over"] = key);
        let request: RecoveryRequest = serde_json::from_value(body).unwrap();
        request.validate().unwrap();
        request
    }

    #[test]
    fn how_much_is_compared_is_told_as_the_appliance_reads_it() {
        let told = |how: &str| {
            let args = CutOverArgs { verify: Some(how.into()), ..CutOverArgs::default() };
            let mut body = json!({ "point": "p", "target": { "kind": "vsphere", "name": "v" } });
            body["verify"] = verify(&args).ok()??;
            let request: RecoveryRequest = serde_json::from_value(body).unwrap();
            request.validate().ok()?;
            request.verify
        };
        let sampled = |percent, seed| Some(Verification::Sampled(Sampling { percent, seed }));
        assert_eq!(told("full"), Some(Verification::Full));
        assert_eq!(told("sampled:5"), sampled(5, None));
        assert_eq!(told("sampled:99:42"), sampled(99, Some(42)));
        for bad in [
            "none",
            "sampled",
            "sampled:0",
            "sampled:100",
            "sampled:x",
            "sampled:5:",
            "full:1",
            "sampled:5:6:7",
            "sampled:5:9007199254740992",
        ] {
            assert_eq!(told(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_end_of_a_migration_is_told_as_the_appliance_reads_it() {
        assert_eq!(request(&CutOverArgs::default()).cut_over, None);
        let args = CutOverArgs {
            cut_over: Some(CutOver::LowPause),
            stop: Some(Stop::PowerOff),
            stop_within: Some(90),
            verify: None,
        };
        let told = request(&args).cut_over.unwrap();
        assert_eq!((told.method, told.stop), (Some(CutOverMethod::LowPause), GuestStop::PowerOff));
        assert_eq!(told.shut_down_seconds, Some(90));
        let args = CutOverArgs { cut_over: Some(CutOver::Relocate), ..CutOverArgs::default() };
        let told = request(&args).cut_over.unwrap();
        assert_eq!((told.method, told.stop), (Some(CutOverMethod::Relocate), GuestStop::ShutDown));
        let args = CutOverArgs { stop: Some(Stop::ShutDown), ..CutOverArgs::default() };
        assert_eq!(request(&args).cut_over, Some(rekindle_jobs::CutOver::default()));
    }
}
