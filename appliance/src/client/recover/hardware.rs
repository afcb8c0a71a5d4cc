//! The part of a recovery's request that is about devices and identity.

use serde_json::{Map, Value, json};

use crate::{
    cli::{HardwareArgs, KeepOrNew, Networks},
    exit::Failure,
};

/// The keys of the request that the arguments mean.
pub(super) fn keys(args: &HardwareArgs) -> Result<Vec<(&'static str, Value)>, Failure> {
    let mut keys = Vec::new();
    match args.networks {
        Some(Networks::Keep) => keys.push(("networks", json!("keep"))),
        Some(Networks::Disconnect) => keys.push(("networks", json!("disconnect"))),
        Some(Networks::Remove) => keys.push(("networks", json!("remove"))),
        None if args.map.is_empty() => {}
        None => {
            let pairs = args.map.iter().map(|pair| halves("--map-network", pair));
            let map: Result<Map<_, _>, Failure> =
                pairs.map(|pair| pair.map(|(from, to)| (from.to_owned(), to.into()))).collect();
            keys.push(("networks", json!({ "map": map? })));
        }
    }
    if !args.adapters.is_empty() {
        let rules: Result<Map<_, _>, Failure> = args.adapters.iter().map(|a| adapter(a)).collect();
        keys.push(("adapters", Value::Object(rules?)));
    }
    keys.extend(args.mac.map(|mac| ("mac", keep_or_new(mac))));
    keys.extend(args.uuid.map(|uuid| ("uuid", keep_or_new(uuid))));
    if let Some(place) = &args.swap {
        keys.push(("swap", swap(place)?));
    }
    keys.extend(args.redo.clone().map(|name| ("redo_datastore", name.into())));
    Ok(keys)
}

fn adapter(text: &str) -> Result<(String, Value), Failure> {
    let (name, what) = halves("--adapter", text)?;
    let network = match what.strip_prefix("connect:") {
        Some(network) => json!({ "connect": network }),
        None if ["keep", "disconnect", "remove"].contains(&what) => what.into(),
        None => {
            return Err(Failure::refused(format!(
                "--adapter {text}: keep, disconnect, remove or connect:NETWORK"
            )));
        }
    };
    Ok((name.to_owned(), json!({ "network": network })))
}

fn swap(place: &str) -> Result<Value, Failure> {
    match place.strip_prefix("datastore:") {
        Some(name) => Ok(json!({ "datastore": name })),
        None if ["beside", "reserved"].contains(&place) => Ok(place.into()),
        None => {
            Err(Failure::refused(format!("--swap {place}: beside, reserved or datastore:NAME")))
        }
    }
}

fn keep_or_new(what: KeepOrNew) -> Value {
    match what {
        KeepOrNew::Keep => "keep".into(),
        KeepOrNew::New => "new".into(),
    }
}

fn halves<'t>(option: &str, text: &'t str) -> Result<(&'t str, &'t str), Failure> {
    let halves = text.split_once('=').filter(|(name, what)| !name.is_empty() && !what.is_empty());
    halves.ok_or_else(|| Failure::refused(format!("{option} {text}: two parts with = between")))
}

#[cfg(test)]
mod tests {
    use rekindle_jobs::RecoveryRequest;

    use super::*;

    /// All that can be said about devices is understood by the appliance as it was meant.
    #[test]
    fn what_the_arguments_mean_is_what_the_appliance_reads() {
        let args = HardwareArgs {
            networks: None,
            map: vec!["VM Network=Lab=1".into()],
            adapters: vec!["ethernet0=remove".into(), "ethernet1=connect:Lab 2".into()],
            mac: Some(KeepOrNew::Keep),
            uuid: Some(KeepOrNew::New),
            swap: Some("datastore:fast".into()),
            redo: Some("slow".into()),
        };
        let mut body = json!({ "point": "p", "target": { "kind": "vsphere", "name": "v" } });
        for (key, value) in keys(&args).unwrap() {
            body[key] = value;
        }
        let request: RecoveryRequest = serde_json::from_value(body.clone()).unwrap();
        request.validate().unwrap();
        assert_eq!(serde_json::to_value(&request).unwrap()["adapters"], body["adapters"]);
        assert_eq!(body["networks"]["map"]["VM Network"], "Lab=1");
        for bad in ["ethernet0", "ethernet0=", "=keep", "ethernet0=elsewhere"] {
            assert!(adapter(bad).is_err(), "{bad}");
        }
        assert!(swap("away").is_err());
    }
}
