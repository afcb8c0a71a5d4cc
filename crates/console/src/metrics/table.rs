//! Every metric there is.

/// What a metric's values do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grow, until the process ends. Its name is written with `_total` behind it.
    Counter,
    Gauge,
    /// `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// A metric: its name without `rekindle_`.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The names of its labels.
    labels: &'static str,
    pub(super) help: &'static str,
}

const fn counter(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, help }
}

pub(super) const METRICS: [Metric; 85] = [
    gauge("build_info", "version", "1, with the version as a label"),
    gauge("up_seconds", "", "seconds since the start"),
    gauge(
        "state_backup_made_at_seconds",
        "",
        "when the newest backup of the state was made, since 1970; absent if there is none",
    ),
    gauge("jobs", "state", "jobs by state; stuck ones want a person"),
    gauge(
        "job_pause_milliseconds",
        "job,vm",
        "for how long the guest's writes were held, or it was off, at the end of a migration",
    ),
    gauge("mover_done_bytes", "job,vm", "bytes that the mover has dealt with in this phase"),
    gauge("mover_to_do_bytes", "job,vm", "bytes that it has to deal with in all"),
    gauge("mover_bytes_per_second", "job,vm", "its rate of late"),
    gauge(
        "mover_limit_bytes_per_second",
        "",
        "what all that is no guest's may read of repositories now; 0 without a limit",
    ),
    gauge("mover_job_limit_bytes_per_second", "", "what each job's mover may; 0 without a limit"),
    gauge(
        "mover_guest_read_p95_ms",
        "",
        "what 19 of 20 guests' reads may take before the mover makes way",
    ),
    histogram(
        "vm_read_seconds",
        "job,vm",
        "how long READs of a VM's disks took; those answered at once are in the first bucket and not in the sum",
    ),
    histogram("vm_write_seconds", "job,vm", "how long durable WRITEs of a VM's disks took"),
    gauge("overlay_free_bytes", "", "free space for guests' writes"),
    gauge("overlay_left_bytes", "", "the same with what the cache's ring gives back there"),
    gauge("overlay_ring_bytes", "", "what the ring would give back"),
    gauge("overlay_written_bytes", "", "what guests' writes take"),
    gauge("overlay_written_bytes_per_second", "", "by how much that grew of late"),
    gauge("overlay_seconds_until_full", "", "when nothing is left if it grows on; absent if not"),
    gauge("overlay_reserved_bytes", "", "what running jobs have reserved and not written yet"),
    gauge(
        "overlay_alarm_percent",
        "",
        "20, 10 or 5 while less than that is left of what guests' writes take and may take; else 0",
    ),
    gauge("overlay_total_bytes", "", "size of the file system that holds them"),
    counter("journal_batches", "", "batches of guests' writes, each with a sync"),
    counter("journal_writes", "", "writes in them"),
    counter("journal_bytes", "", "bytes in them, with headers"),
    counter("journal_checkpoints", "", "times that the journal's segments were freed"),
    gauge("journal_waiting", "", "writes that wait for a batch"),
    gauge("journal_free_segments", "", "journal segments that a burst finds free"),
    gauge(
        "journal_stopped",
        "",
        "1 if no write is acknowledged until a restart, because one failed",
    ),
    gauge("repository_ready", "repository", "1 if it is open and answers"),
    counter("repository_gets", "repository", "GETs that its S3 store answered"),
    counter("repository_got_bytes", "repository", "bytes in them"),
    counter("repository_hedged", "repository", "GETs that were slow and asked a second time"),
    counter(
        "repository_failed_attempts",
        "repository",
        "requests to its S3 store that failed and were made again",
    ),
    counter(
        "repository_damaged_answers",
        "repository",
        "answers whose bytes failed their check and were fetched again",
    ),
    counter("repository_puts", "repository", "objects and parts written to its S3 store"),
    counter("repository_put_bytes", "repository", "bytes in them"),
    gauge(
        "repository_circuit_open",
        "repository",
        "1 while requests to its S3 store fail at once because it does not answer",
    ),
    gauge(
        "repository_maps_copying",
        "repository",
        "maps of disks that are being copied from its S3 store",
    ),
    counter("repository_hot_reads", "repository", "reads that its hot copy answered"),
    gauge("cache_ram_bytes", "", "bytes of blocks in memory"),
    counter("cache_ram_hits", "", "reads answered from memory"),
    gauge("cache_ring_bytes", "", "bytes of the ring's files"),
    gauge("cache_ring_blocks", "", "blocks in the ring"),
    gauge("cache_ring_segments", "", "files of the ring"),
    counter("cache_ring_hits", "", "reads answered from the ring"),
    gauge("cache_ring_capacity_now", "", "bytes that the ring may take now"),
    gauge("cache_ring_scanning", "", "1 while the ring of an earlier process is read"),
    counter("cache_misses", "", "fetches from a repository"),
    counter("cache_ahead", "", "fetches begun by read-ahead; misses count them too"),
    counter("cache_profile", "", "fetches begun by a boot profile; misses count them too"),
    counter(
        "cache_passed",
        "",
        "reads of a repository whose bytes are not kept: the mover's copies",
    ),
    gauge("cache_reads_under_way", "", "reads of repositories under way"),
    gauge("cache_reads_waiting", "", "reads of repositories that wait for their turn"),
    gauge(
        "cache_background_reads_allowed",
        "",
        "reads of repositories that read-ahead and the mover may have under way now",
    ),
    gauge(
        "cache_guest_wait_p95_micros",
        "",
        "what 19 of 20 guests' reads took less than of late, those from memory not counted",
    ),
    counter("cache_joined", "", "reads that shared a fetch with another"),
    gauge("cache_in_flight", "", "reads of the ring's disk or of a repository under way"),
    counter("cache_bad_slots", "", "blocks of the ring that were damaged, and forgotten"),
    counter("cache_pruned_blocks", "", "unused blocks dropped to make room"),
    counter("cache_reinserted", "", "used blocks that were kept when room was made"),
    counter(
        "cache_dropped",
        "",
        "blocks not written to the ring: its disk was too slow or too full",
    ),
    gauge("cache_free_bytes", "", "free space of the ring's file system"),
    gauge("nfs_connections", "", "connections of clients"),
    counter("nfs_calls", "", "calls of all programs"),
    gauge("nfs_waiting_calls", "", "calls that wait for data or a disk"),
    counter("nfs_replayed", "", "calls that came again and got their first reply"),
    counter("nfs_refused", "", "calls of addresses that may not make them"),
    counter("nfs_garbage", "", "records that were no calls"),
    gauge("nfs_held_reads", "", "READs that wait for a repository"),
    gauge("notify_waiting", "channel", "events that wait for a webhook, mail or syslog"),
    counter("notify_delivered", "channel", "events that it took"),
    counter("notify_failed_attempts", "channel", "attempts that failed; they are made again"),
    counter("notify_given_up", "channel", "events that it did not take for a day"),
    counter("notify_dropped", "channel", "events that made room for newer ones"),
    gauge("exports", "", "exports"),
    gauge("export_files", "export", "files and folders in it"),
    counter("export_calls", "export", "calls"),
    counter("export_errors", "export", "calls that failed"),
    counter("export_reads", "export", "READs"),
    counter("export_read_bytes", "export", "bytes read"),
    counter("export_writes", "export", "WRITEs"),
    counter("export_write_bytes", "export", "bytes written"),
    gauge("export_held_reads", "export", "READs that wait for a repository"),
    gauge("export_clients", "export", "clients that have it mounted"),
];

/// Every metric, one per line: its name as Prometheus sees it, its labels, and what it means.
pub fn describe() -> String {
    let line = |metric: &Metric| {
        let name = match metric.kind {
            Kind::Counter => format!("rekindle_{}_total", metric.name),
            Kind::Gauge | Kind::Histogram => format!("rekindle_{}", metric.name),
        };
        let labels = match metric.labels {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        format!("{:<46} {kind:<10} {}\n", name + &labels, metric.help)
    };
    METRICS.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rekindle_cache::CacheStats;
    use rekindle_disk::JournalStats;
    use rekindle_jobs::SpaceView;
    use rekindle_nfs::ServerStats;
    use rekindle_notify::ChannelView;
    use rekindle_repo::S3Stats;

    use super::{super::scrape::Scrape, *};

    #[test]
    fn no_number_of_a_view_is_missing_in_the_table() {
        let mut scrape = Scrape::default();
        scrape.view("cache", &[], &CacheStats::default()).unwrap();
        scrape.view("journal", &[], &JournalStats::default()).unwrap();
        scrape.view("nfs", &[], &ServerStats::default()).unwrap();
        scrape.view("repository", &[], &S3Stats::default()).unwrap();
        let channel = ChannelView {
            name: "a".into(),
            kind: "mail".into(),
            to: "b".into(),
            events: BTreeSet::new(),
            waiting: 1,
            delivered: 1,
            failed_attempts: 1,
            given_up: 1,
            dropped: 1,
            delivered_at: None,
            next_try_at: None,
            last_failure: None,
        };
        scrape.view("notify", &[], &channel).unwrap();
        let space = SpaceView { seconds_until_full: Some(1), ..SpaceView::default() };
        scrape.view("overlay", &[], &space).unwrap();
        let known: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        let missing: Vec<_> = scrape.names().filter(|name| !known.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(scrape.names().count() > 25);
    }

    #[test]
    fn no_metric_is_named_twice() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
    }
}
