//! What the operator documents say is held by tests that exist.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{collections::BTreeSet, fs, path::Path};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The names of all tests in the Rust sources below `dir`.
fn tests_below(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim_start) {
                let name = line.trim_start_matches("async ").strip_prefix("fn ");
                match name.and_then(|name| name.split(['(', '<']).next()) {
                    Some(name) if is_test => {
                        found.insert(name.to_owned());
                        is_test = false;
                    }
                    _ => {
                        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test")
                    }
                }
            }
        }
    }
}

/// Each paragraph's text and the tests that its last line names.
fn paragraphs(page: &str) -> Vec<(&str, Vec<&str>)> {
    let body = page.split_once("\n## ").unwrap().1;
    let is_text = |part: &&str| !part.starts_with('#') && part.contains(' ');
    let parts = body.split("\n\n").map(str::trim).filter(is_text).skip(1);
    parts
        .map(|part| match part.rsplit_once("\nHeld by: ") {
            Some((text, names)) => (text, names.split('`').skip(1).step_by(2).collect()),
            None => (part, Vec::new()),
        })
        .collect()
}

/// Each of more than `at_least` paragraphs of `page` names a test, and each of those exists.
fn assert_held(page: &str, at_least: usize) {
    let text = fs::read_to_string(root().join("packaging/docs").join(page)).unwrap();
    let mut known = BTreeSet::new();
    tests_below(&root().join("crates"), &mut known);
    let paragraphs = paragraphs(&text);
    assert!(paragraphs.len() > at_least, "{}", paragraphs.len());
    for (text, names) in paragraphs {
        assert!(!names.is_empty(), "no test holds: {text}");
        for name in names {
            assert!(known.contains(name), "there is no test {name}, named for: {text}");
        }
    }
}

#[test]
fn each_paragraph_of_the_nfs_page_is_held_by_a_test() {
    assert_held("NFS.md", 25);
}

#[test]
fn each_paragraph_of_the_durability_page_is_held_by_a_test() {
    assert_held("DURABILITY.md", 14);
}
