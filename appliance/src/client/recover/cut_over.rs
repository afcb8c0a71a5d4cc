//! The part of a request that is about the end of a migration to another datastore.

use serde_json::{Value, json};

use crate::cli::{CutOver, CutOverArgs, Stop};

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

#[cfg(test)]
mod tests {
    use rekindle_jobs::{CutOverMethod, GuestStop, RecoveryRequest};

    use super::*;

    fn request(args: &CutOverArgs) -> RecoveryRequest {
        let mut body = json!({ "point": "p", "target": { "kind": "vsphere", "name": "v" } });
        key(args).into_iter().for_each(|key| body["cut_over"] = key);
        let request: RecoveryRequest = serde_json::from_value(body).unwrap();
        request.validate().unwrap();
        request
    }

    #[test]
    fn the_end_of_a_migration_is_told_as_the_appliance_reads_it() {
        assert_eq!(request(&CutOverArgs::default()).cut_over, None);
        let args = CutOverArgs {
            cut_over: Some(CutOver::LowPause),
            stop: Some(Stop::PowerOff),
            stop_within: Some(90),
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
