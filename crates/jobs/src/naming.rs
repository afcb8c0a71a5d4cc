use std::collections::BTreeSet;

use crate::JobError;
use crate::request::NAME_MAX;

/// Bytes of a folder's or export's name: with a suffix such as `_255-flat.vmdk` it stays far below
/// the 255 bytes that NFS and file systems allow.
const SLUG_MAX: usize = 60;
/// Copies of one VM that are told apart by a number.
const COPIES_MAX: usize = 10_000;

/// `name` as part of a path, a URL and a datastore path: letters, digits, `.`, `_` and `-`.
pub(crate) fn slug(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
    let slug: String = name.chars().map(safe).take(SLUG_MAX).collect();
    let slug = slug.trim_start_matches(['.', '-']).trim_end_matches(['.', '_']);
    if slug.is_empty() { "vm".into() } else { slug.into() }
}

/// The first of `<original>_1`, `<original>_2` … that is not `taken`.
pub(crate) fn numbered(original: &str, taken: &BTreeSet<String>) -> Result<String, JobError> {
    let stem = stem(original);
    let names = (1..=COPIES_MAX).map(|n| format!("{stem}_{n}"));
    names.into_iter().find(|name| !taken.contains(name)).ok_or_else(|| {
        JobError::conflict("name_taken", format!("{COPIES_MAX} VMs are called {stem}_<n> already"))
    })
}

/// The original's name between a prefix and a suffix, numbered if that is `taken`.
pub(crate) fn affixed(
    (prefix, suffix): (&str, &str),
    original: &str,
    taken: &BTreeSet<String>,
) -> Result<String, JobError> {
    let room = NAME_MAX - 6 - (prefix.chars().count() + suffix.chars().count()).min(NAME_MAX - 7);
    let original: String = stem(original).chars().take(room).collect();
    let name = stem(&format!("{prefix}{original}{suffix}"));
    if taken.contains(&name) { numbered(&name, taken) } else { Ok(name) }
}

/// What of a name fits into any name, with room for a number.
fn stem(name: &str) -> String {
    let stem: String = name.chars().filter(|c| !"/\\%\"".contains(*c)).collect();
    let stem: String = stem.trim_matches([' ', '.']).chars().take(NAME_MAX - 6).collect();
    let stem = stem.trim_end_matches(' ');
    if stem.is_empty() { "vm".into() } else { stem.into() }
}

/// `wanted`, or it with a number, so that it is not in `taken`.
pub(crate) fn free(wanted: &str, taken: &BTreeSet<String>) -> String {
    let mut name = wanted.to_owned();
    let mut n = 1usize;
    while taken.contains(&name) {
        n += 1;
        name = format!("{wanted}_{n}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_safe_everywhere() {
        for (name, want) in [
            ("web 01", "web_01"),
            ("..", "vm"),
            ("a/../b", "a_.._b"),
            ("Büro [1]", "B_ro__1"),
            ("-rf", "rf"),
            ("", "vm"),
        ] {
            assert_eq!(slug(name), want, "{name:?}");
        }
        assert_eq!(slug(&"x".repeat(300)).len(), SLUG_MAX);
    }

    #[test]
    fn copies_are_numbered() {
        let taken = ["db_1".to_owned(), "db_2".to_owned()].into();
        assert_eq!(numbered("db", &taken).unwrap(), "db_3");
        assert_eq!(numbered(" /", &taken).unwrap(), "vm_1");
        assert_eq!(free("db_2", &taken), "db_2_2");
        assert!(numbered(&"y".repeat(200), &taken).unwrap().len() <= NAME_MAX);
    }

    #[test]
    fn affixes_stay_whole_and_a_number_comes_last() {
        let taken = ["lab-db".to_owned(), "lab-db_1".to_owned()].into();
        assert_eq!(affixed(("lab-", ""), "db", &taken).unwrap(), "lab-db_2");
        assert_eq!(affixed(("", " (test)"), "db", &taken).unwrap(), "db (test)");
        let long = affixed(("lab-", " (test)"), &"y".repeat(200), &taken).unwrap();
        assert!(long.starts_with("lab-y") && long.ends_with("y (test)"), "{long}");
        assert!(long.chars().count() <= NAME_MAX - 6, "{long}");
        let affix = "z".repeat(NAME_MAX);
        assert!(affixed((&affix, &affix), "db", &taken).unwrap().len() <= NAME_MAX);
    }
}
