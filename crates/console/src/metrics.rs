//! `/metrics`: what is measured, as Prometheus reads it.
//!
//! The layers below keep their own counters and show them as views. A scrape takes those views and
//! writes them out, so the API and the metrics cannot disagree.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use rekindle_jobs::JobState;
use serde::Serialize;
use serde_json::Value;

use crate::{Console, Problem};

type Labels = Vec<(String, String)>;

/// `GET /metrics`
pub(crate) async fn metrics(State(console): State<Arc<Console>>) -> Result<Response, Problem> {
    let taken = Arc::clone(&console);
    let text = tokio::task::spawn_blocking(move || scrape(&taken))
        .await
        .map_err(|e| Problem::internal(&e))?
        .map_err(|e| Problem::internal(&e))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The names of the metrics whose set does not depend on what runs, one per line.
pub fn describe() -> String {
    "rekindle_build_info                      1, with the version as a label\n\
     rekindle_up_seconds                      seconds since the start\n\
     rekindle_jobs{state}                     jobs by state\n\
     rekindle_exports                         exports now\n\
     rekindle_overlay_free_bytes              free space for guests' writes\n\
     rekindle_overlay_total_bytes             size of the file system that holds them\n\
     rekindle_cache_*                         every number of GET /api/v1/cache\n\
     rekindle_nfs_*                           every number of the NFS server\n\
     rekindle_export_*{export}                every number of GET /api/v1/exports, by export\n"
        .to_owned()
}

fn scrape(console: &Console) -> anyhow::Result<String> {
    let mut scrape = Scrape::default();
    scrape.set("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    scrape.set("up_seconds", &[], whole(console.started.elapsed().as_secs()));
    jobs(console, &mut scrape);
    let space = console.disks.space()?;
    scrape.set("overlay_free_bytes", &[], whole(space.free));
    scrape.set("overlay_total_bytes", &[], whole(space.total));
    scrape.view("cache", &[], &console.cache.stats())?;
    scrape.view("nfs", &[], &console.nfs.stats())?;
    let exports = console.nfs.exports().list();
    scrape.set("exports", &[], whole(exports.len() as u64));
    for export in &exports {
        scrape.view("export", &[("export", &export.name)], export)?;
    }
    scrape.text()
}

fn jobs(console: &Console, scrape: &mut Scrape) {
    let jobs = console.jobs.list();
    for state in JobState::ALL {
        let count = jobs.iter().filter(|job| job.state == state).count();
        scrape.set("jobs", &[("state", state.as_str())], whole(count as u64));
    }
}

/// A label's value as the text format wants it; prometheus-client writes it as it is.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The metrics of one scrape, by name.
#[derive(Default)]
struct Scrape {
    gauges: BTreeMap<String, Family<Labels, Gauge>>,
}

impl Scrape {
    fn set(&mut self, name: &str, labels: &[(&str, &str)], value: i64) {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), escaped(v))).collect();
        let family = self.gauges.entry(name.to_owned()).or_default();
        family.get_or_create(&labels).set(value);
    }

    /// Every number of a view, however deep: `prefix_field_inner`.
    fn view(
        &mut self,
        prefix: &str,
        labels: &[(&str, &str)],
        view: &impl Serialize,
    ) -> anyhow::Result<()> {
        self.value(prefix, labels, &serde_json::to_value(view)?);
        Ok(())
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: &Value) {
        match value {
            Value::Number(number) => {
                let known = number.as_u64().map(whole).or_else(|| number.as_i64());
                if let Some(known) = known {
                    self.set(name, labels, known);
                }
            }
            Value::Object(fields) => {
                for (field, value) in fields {
                    self.value(&format!("{name}_{field}"), labels, value);
                }
            }
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => {}
        }
    }

    fn text(self) -> anyhow::Result<String> {
        let mut registry = Registry::with_prefix("rekindle");
        for (name, family) in self.gauges {
            let help = name.replace('_', " ");
            registry.register(name, help, family);
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_becomes_one_metric_per_number() {
        let mut scrape = Scrape::default();
        let view =
            serde_json::json!({ "hits": 3, "reads": { "bytes": 5 }, "name": "x", "none": null });
        scrape.view("export", &[("export", "a\"b")], &view).unwrap();
        let text = scrape.text().unwrap();
        assert!(text.contains("rekindle_export_hits{export=\"a\\\"b\"} 3\n"), "{text}");
        assert!(text.contains("rekindle_export_reads_bytes{export=\"a\\\"b\"} 5\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert!(!text.contains("name"), "{text}");
    }
}
