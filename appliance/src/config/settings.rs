use rekindle_console::Setting;
use serde_json::Value;

use super::Config;

/// Every key with the value in force, beside the default.
pub(crate) fn settings(config: &Config) -> Vec<Setting> {
    let (now, default) = (json(config), json(&Config::default()));
    let mut found = Vec::new();
    collect("", &now, &default, &mut found);
    found
}

/// A configuration is plain data, which always has a JSON form.
fn json(config: &Config) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

fn collect(prefix: &str, now: &Value, default: &Value, found: &mut Vec<Setting>) {
    for (name, value) in now.as_object().into_iter().flatten() {
        let (key, usual) = (format!("{prefix}{name}"), &default[name]);
        match value {
            Value::Object(_) => collect(&format!("{key}."), value, usual, found),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                found.push(Setting { default: value == usual, key, value: value.clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn what_is_set_is_told_from_what_is_default() {
        assert!(settings(&Config::default()).iter().all(|one| one.default));
        let config = parse("[cache]\nmin_free_percent = 7\n[nfs]\nport = 2049").unwrap();
        let found = settings(&config);
        let set: Vec<_> = found.iter().filter(|one| !one.default).collect();
        assert_eq!(set.len(), 1);
        assert_eq!((set[0].key.as_str(), &set[0].value), ("cache.min_free_percent", &7.into()));
        assert!(found.iter().any(|one| one.key == "console.tls" && one.value == "auto"));
    }
}
