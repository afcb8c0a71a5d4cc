//! What the operator documents say is held by tests that exist.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use serde_json::Value;

use rekindle_jobs::{RecoveryRequest, Step};

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
    assert_text_held(&text, at_least);
}

fn assert_text_held(text: &str, at_least: usize) {
    let mut known = BTreeSet::new();
    tests_below(&root().join("crates"), &mut known);
    tests_below(&root().join("appliance/tests"), &mut known);
    let paragraphs = paragraphs(text);
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

#[test]
fn each_paragraph_of_the_api_page_is_held_by_a_test_and_names_calls_and_codes_that_exist() {
    let page = fs::read_to_string(root().join("packaging/docs/API.md")).unwrap();
    let (text, table) = page.split_once("\n## What to do").unwrap();
    assert_text_held(text, 10);
    let paths = &rekindle_console::openapi()["paths"];
    let named: Vec<_> = text.split('`').filter(|one| one.contains(" /api/v1/")).collect();
    assert!(named.len() > 15, "{named:?}");
    for (method, path) in named.iter().filter_map(|call| call.split_once(' ')) {
        assert!(paths[path][method.to_lowercase()].is_object(), "there is no {method} {path}");
    }
    let mut source = String::new();
    sources(&root().join("crates/console/src"), &mut source);
    let listed: BTreeSet<_> = table.lines().filter_map(|line| line.split('`').nth(1)).collect();
    assert!(listed.len() > 20, "{listed:?}");
    for code in &listed {
        assert!(source.contains(&format!("\"{code}\"")), "no error has the code {code}");
    }
    let made = ["::new(StatusCode::", "conflict("].map(|begin| source.split(begin).skip(1));
    let made =
        made.into_iter().flatten().filter_map(|call| call.split(')').next()?.split('"').nth(1));
    // Told by plain HTTP where TLS is spoken, before there is an API.
    for code in made.filter(|code| *code != "tls_required") {
        assert!(listed.contains(code), "the page does not have {code}");
    }
}

/// The text of every field of that name, however deep.
fn fields<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(name).and_then(Value::as_str));
            map.values().for_each(|value| fields(value, name, found));
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, name, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Names and labels of what `describe metrics` lists, a histogram's as its samples have them.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_rekindle")).args(["describe", "metrics"]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let mut known = BTreeMap::new();
    for line in text.lines() {
        let (name, rest) = line.split_once(' ').unwrap();
        let (name, labels) = name.trim_end_matches('}').split_once('{').unwrap_or((name, ""));
        let labels: BTreeSet<_> =
            labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
        if rest.trim_start().starts_with("histogram") {
            let with_bound = labels.iter().cloned().chain(["le".to_owned()]).collect();
            known.insert(format!("{name}_bucket"), with_bound);
            known.insert(format!("{name}_sum"), labels.clone());
            known.insert(format!("{name}_count"), labels);
        } else {
            known.insert(name.to_owned(), labels);
        }
    }
    known
}

#[test]
fn the_dashboard_asks_for_metrics_and_labels_that_exist() {
    let text = fs::read_to_string(root().join("packaging/grafana/rekindle.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let known = metrics();
    let mut queries = Vec::new();
    fields(&dashboard["panels"], "expr", &mut queries);
    fields(&dashboard["templating"], "query", &mut queries);
    let mut asked = BTreeSet::new();
    for query in queries.iter().filter(|query| query.contains("rekindle")) {
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let names: Vec<_> = query.split(word).filter(|w| w.starts_with("rekindle_")).collect();
        assert!(!names.is_empty(), "{query}");
        for name in &names {
            assert!(known.contains_key(*name), "{name} of {query} is no metric");
            for label in labels(query) {
                assert!(known[*name].contains(label), "{name} has no label {label}: {query}");
            }
        }
        asked.extend(names);
    }
    assert!(asked.len() > 20, "{asked:?}");
    let mut legends = Vec::new();
    fields(&dashboard["panels"], "legendFormat", &mut legends);
    assert_eq!(legends.len(), queries.len() - 2, "each query of a panel has a legend");
}

/// Labels that a query selects or groups by.
fn labels(query: &str) -> Vec<&str> {
    let groups = query.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
    let selected = query.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let of_groups = groups.flat_map(|(list, _)| list.split(", "));
    let of_selected = selected.flat_map(|(list, _)| list.split(','));
    of_groups.chain(of_selected.filter_map(|one| one.split(['=', '!']).next())).collect()
}

/// The product's Rust sources below `dir`, one after the other.
fn sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") && !path.ends_with("target") {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// The arguments of each call of a macro, up to its first `);`.
fn calls<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let rest = text.split(name).skip(1);
    rest.map(|rest| &rest[..rest.find(");").or(rest.find("),")).unwrap_or(rest.len())]).collect()
}

/// The texts of a call, with `…` for each of its arguments.
fn texts(call: &str) -> impl Iterator<Item = String> + '_ {
    call.split('"').skip(1).step_by(2).map(|text| {
        let mut parts = text.split('{');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| {
            text + "…" + part.split_once('}').map_or("", |(_, rest)| rest)
        })
    })
}

fn logs(calls: &[&str], line: &str) -> bool {
    calls.iter().flat_map(|call| texts(call)).any(|text| text == line)
}

#[test]
fn each_line_of_the_troubleshooting_page_is_logged_somewhere() {
    let page = fs::read_to_string(root().join("packaging/docs/troubleshooting.md")).unwrap();
    let mut text = String::new();
    sources(&root().join("crates"), &mut text);
    sources(&root().join("appliance/src"), &mut text);
    let levels = [("WARN", "tracing::warn!("), ("ERROR", "tracing::error!(")];
    let mut found = 0;
    for heading in page.lines().filter_map(|line| line.strip_prefix("### ")) {
        let (level, line) = heading.split_once(' ').unwrap();
        let line = line.strip_prefix('`').and_then(|line| line.strip_suffix('`')).unwrap();
        let name = levels.iter().find(|(known, _)| *known == level).unwrap().1;
        assert!(logs(&calls(&text, name), line), "{level} {line} is logged nowhere");
        found += 1;
    }
    assert!(found > 20, "{found}");
    assert!(!logs(&calls(&text, "tracing::warn!("), "READ failed: …"), "the level counts");
    assert!(!logs(&calls(&text, "tracing::error!("), "READ failed"), "a line counts as a whole");
}

/// Each section of the page with a request in it: its heading, the request, the names of its steps.
fn recipes(page: &str) -> Vec<(&str, RecoveryRequest, Vec<String>)> {
    let sections = page.split("\n## ").skip(1);
    let with_request = sections.filter_map(|section| {
        let (_, rest) = section.split_once("```json\n")?;
        let (json, rest) = rest.split_once("```")?;
        let request = serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"));
        let numbered = rest.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        let steps = numbered.map(|line| line.split('`').nth(1).unwrap().to_owned()).collect();
        Some((section.lines().next().unwrap(), request, steps))
    });
    with_request.collect()
}

#[test]
fn each_kind_of_recovery_takes_the_steps_that_its_page_lists() {
    let page = fs::read_to_string(root().join("packaging/docs/RECOVERY.md")).unwrap();
    let recipes = recipes(&page);
    assert_eq!(recipes.len(), 11);
    let mut explained = BTreeSet::new();
    for (heading, request, listed) in recipes {
        request.validate().unwrap_or_else(|e| panic!("{heading}: {e}"));
        let mut steps = request.steps();
        steps.extend(request.migrate.iter().flat_map(|to| request.migration_steps(to)));
        let steps: Vec<&str> = steps.into_iter().map(Step::as_str).collect();
        assert_eq!(listed, steps, "{heading}");
        explained.extend(listed);
    }
    for step in Step::ALL.map(Step::as_str) {
        assert!(explained.contains(step), "no kind on the page takes step {step}");
        let shown = page.matches(&format!(". `{step}` ")).count();
        assert_eq!(shown, 1 + usize::from(step == "depart"), "{step} is to be explained once");
    }
}
