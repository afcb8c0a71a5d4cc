//! Hot copies in front of a repository on S3.

use std::path::PathBuf;

use jiff::civil::Time;
use serde::{Deserialize, Serialize};

/// A directory that has the points of a repository on S3 that are most likely recovered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HotCopySection {
    pub(crate) dir: PathBuf,
    pub(crate) max_bytes: u64,
    #[serde(default)]
    pub(crate) max_bytes_per_second: u64,
    /// Local time from which on each VM's newest point is copied by itself; never without.
    pub(crate) from: Option<Time>,
    /// Local time at which that ends; before `from` it is on the next day, and the same is all day.
    pub(crate) to: Option<Time>,
}

impl HotCopySection {
    /// Whether points are copied by themselves at that time of the day.
    pub(crate) fn holds_at(&self, time: Time) -> bool {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from < to => (from..to).contains(&time),
            (Some(from), Some(to)) => time >= from || time < to,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{bounds, parse};

    #[test]
    fn hours_of_hot_copies_may_cross_midnight() {
        let config = |more: &str| {
            let head =
                "[[repository]]\nname='a'\nbucket='bucket'\n[repository.hot_copy]\ndir='/hot'\n";
            parse(&format!("{head}max_bytes=100000000\n{more}")).unwrap()
        };
        let hold = |hours: &str| {
            let config = config(hours);
            assert_eq!(bounds::check(&config), Ok(()));
            let hot = config.repository[0].hot_copy.clone().unwrap();
            (0..24)
                .filter(|hour| hot.holds_at(jiff::civil::time(*hour, 30, 0, 0)))
                .collect::<Vec<_>>()
        };
        assert_eq!(hold("from='22:00'\nto='02:00'"), [0, 1, 22, 23]);
        assert_eq!(hold("from='02:00'\nto='04:00'"), [2, 3]);
        assert_eq!(hold("from='00:00'\nto='00:00'").len(), 24);
        assert_eq!(hold(""), [0; 0], "by hand");
        assert!(bounds::check(&config("from='22:00'")).unwrap_err().contains("go together"));
        assert!(bounds::check(&config("max_bytes_per_second=7")).is_err());
        let local =
            "[[repository]]\nname='a'\npath='/a'\n[repository.hot_copy]\ndir='hot'\nmax_bytes=1";
        let said = bounds::check(&parse(local).unwrap()).unwrap_err();
        assert!(
            ["on S3", "hot_copy.dir", "max_bytes"].iter().all(|word| said.contains(word)),
            "{said}"
        );
    }
}
