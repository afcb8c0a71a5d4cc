//! The samples of one scrape, written out as the table says.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};
use rekindle_nfs::{LATENCY_BOUNDS_MICROS, LatencyView};
use serde::Serialize;
use serde_json::Value;

use super::table::{Kind, METRICS};

type Labels = Vec<(String, String)>;

/// The samples of one scrape, by metric.
#[derive(Debug, Default)]
pub(super) struct Scrape(BTreeMap<String, Vec<(Labels, Sample)>>);

#[derive(Debug)]
enum Sample {
    Whole(i64),
    Latency(LatencyView),
}

impl Scrape {
    pub(super) fn set(&mut self, name: &str, labels: &[(&str, &str)], value: i64) {
        self.add(name, labels, Sample::Whole(value));
    }

    pub(super) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], value: LatencyView) {
        self.add(name, labels, Sample::Latency(value));
    }

    fn add(&mut self, name: &str, labels: &[(&str, &str)], sample: Sample) {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), escaped(v))).collect();
        self.0.entry(name.to_owned()).or_default().push((labels, sample));
    }

    /// Every number of a view, however deep: `prefix_field_inner`; yes is 1 and no is 0.
    pub(super) fn view(
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
            Value::Bool(yes) => self.set(name, labels, (*yes).into()),
            Value::Object(fields) => {
                for (field, value) in fields {
                    self.value(&format!("{name}_{field}"), labels, value);
                }
            }
            Value::Null | Value::String(_) | Value::Array(_) => {}
        }
    }

    /// The names of what was measured, whether the table has them or not.
    #[cfg(test)]
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn text(self) -> anyhow::Result<String> {
        let mut registry = Registry::with_prefix("rekindle");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in &METRICS {
            let Some(samples) = self.0.get(metric.name) else { continue };
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (labels, sample) in samples {
                let mut one = family.encode_family(labels)?;
                match (sample, metric.kind) {
                    (Sample::Whole(value), Kind::Counter) => {
                        one.encode_counter::<NoLabelSet, u64, f64>(&value.unsigned_abs(), None)?
                    }
                    (Sample::Whole(value), _) => one.encode_gauge(value)?,
                    (Sample::Latency(latency), _) => one.encode_histogram::<NoLabelSet>(
                        latency.total_micros as f64 / 1e6,
                        latency.count(),
                        &buckets(latency),
                        None,
                    )?,
                }
            }
        }
        Ok(())
    }
}

/// Bounds in seconds, each with how many calls took at most that and more than the bound before.
fn buckets(latency: &LatencyView) -> Vec<(f64, u64)> {
    let bounds = LATENCY_BOUNDS_MICROS.iter().map(|&micros| micros as f64 / 1e6);
    bounds.chain([f64::MAX]).zip(latency.buckets.iter().copied()).collect()
}

/// A label's value as the text format wants it; prometheus-client writes it as it is.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

pub(super) fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_table_has_is_written_as_what_it_is() {
        let mut scrape = Scrape::default();
        let view = json!({ "reads": 3, "held_reads": 2, "name": "x", "none": null, "other": 7 });
        scrape.view("export", &[("export", "a\"b")], &view).unwrap();
        scrape.view("journal", &[], &json!({ "stopped": true })).unwrap();
        let text = scrape.text().unwrap();
        assert!(text.contains("# TYPE rekindle_export_reads counter\n"), "{text}");
        assert!(text.contains("rekindle_export_reads_total{export=\"a\\\"b\"} 3\n"), "{text}");
        assert!(text.contains("rekindle_export_held_reads{export=\"a\\\"b\"} 2\n"), "{text}");
        assert!(text.contains("rekindle_journal_stopped{} 1\n"), "{text}");
        assert!(!text.contains("other") && !text.contains("name"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_histogram_counts_what_took_at_most_its_bounds() {
        let mut latency = LatencyView::default();
        latency.buckets[0] = 5;
        latency.buckets[2] = 1;
        *latency.buckets.last_mut().unwrap() = 2;
        latency.total_micros = 61_000_000;
        let mut scrape = Scrape::default();
        scrape.histogram("vm_read_seconds", &[("job", "j"), ("vm", "v")], latency);
        let text = scrape.text().unwrap();
        for line in [
            "rekindle_vm_read_seconds_sum{job=\"j\",vm=\"v\"} 61.0\n",
            "rekindle_vm_read_seconds_count{job=\"j\",vm=\"v\"} 8\n",
            "rekindle_vm_read_seconds_bucket{le=\"0.0001\",job=\"j\",vm=\"v\"} 5\n",
            "rekindle_vm_read_seconds_bucket{le=\"0.0005\",job=\"j\",vm=\"v\"} 6\n",
            "rekindle_vm_read_seconds_bucket{le=\"+Inf\",job=\"j\",vm=\"v\"} 8\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
