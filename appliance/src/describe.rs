//! What there is to configure, to measure and to call.

use std::path::Path;

use crate::{cli::Topic, config, exit::Failure};

/// The sample configuration: every key with its default, its unit and its bounds. A test holds it
/// against the binary.
pub(crate) const SAMPLE: &str = include_str!("../../packaging/rekindle.toml");

pub(crate) fn describe(what: Topic) -> Result<(), Failure> {
    let text = match what {
        Topic::Config => SAMPLE.to_owned(),
        Topic::Metrics => rekindle_console::describe_metrics(),
        Topic::Api => rekindle_console::describe_api(),
    };
    print!("{text}");
    Ok(())
}

/// Reads and checks a configuration file as `serve` would, and also looks for what it names.
pub(crate) fn check_config(file: &Path) -> Result<(), Failure> {
    let config = config::read_checked(file)?;
    let missing: Vec<_> = config
        .repository
        .iter()
        .filter_map(|entry| Some((entry, entry.path.as_ref()?)))
        .filter(|(_, path)| !path.join("repository.json").is_file())
        .map(|(entry, path)| {
            let path = path.display();
            format!(
                "repository \"{}\": there is none in {path}: make it with `rekindle repo add {path}`",
                entry.name
            )
        })
        .collect();
    if !missing.is_empty() {
        return Err(Failure::refused(format!("{}: {}", file.display(), missing.join("\n  "))));
    }
    println!("{}: good", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use toml::{Table, Value};

    use super::*;
    use crate::config::{Config, parse};

    /// The sample with every commented-out setting switched on: lines like `#key = value` and
    /// `#[section]`, where prose comments have a space after the `#`.
    fn uncommented() -> String {
        let setting = |line: &str| {
            let text = line.strip_prefix('#')?;
            (!text.is_empty() && !text.starts_with(' ') && !text.starts_with('#'))
                .then(|| text.to_owned())
        };
        SAMPLE.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
    }

    fn keys(table: &Table, prefix: &str, into: &mut Vec<String>) {
        for (key, value) in table {
            let name = format!("{prefix}{key}");
            match value {
                Value::Table(inner) => keys(inner, &format!("{name}."), into),
                Value::Array(_)
                | Value::String(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Datetime(_) => into.push(name),
            }
        }
    }

    #[test]
    fn the_sample_as_it_is_means_the_defaults() {
        assert_eq!(parse(SAMPLE).unwrap(), Config::default());
    }

    #[test]
    fn the_sample_names_every_key_with_its_default() {
        let sample: Table = toml::from_str(&uncommented()).unwrap();
        let defaults = Table::try_from(Config::default()).unwrap();
        let mut wanted = Vec::new();
        keys(&defaults, "", &mut wanted);
        for name in wanted {
            let find = |table: &Table| match name.split_once('.') {
                Some((section, key)) => table.get(section)?.as_table()?.get(key).cloned(),
                None => table.get(&name).cloned(),
            };
            // Lists of examples.
            if matches!(name.as_str(), "repository" | "target" | "webhook" | "mover.hours") {
                continue;
            }
            assert_eq!(find(&sample), find(&defaults), "{name}");
        }
    }

    #[test]
    fn every_setting_of_the_sample_exists() {
        let all = parse(&uncommented()).unwrap();
        assert_eq!(all.repository.len(), 3);
        assert!(all.repository[1].hot_copy.is_some());
        assert_eq!(all.mover.hours.len(), 1);
        assert_eq!((all.target.len(), all.webhook.len()), (1, 1));
        assert!(all.mail.is_some() && all.syslog.is_some());
        assert!(all.cache.root_dir.is_some() && all.cache.max_bytes.is_some());
        assert!(all.nfs.advertise.is_some() && all.console.token_file.is_some());
    }
}
