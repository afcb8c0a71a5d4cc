use jiff::Timestamp;
use rekindle_jobs::{ErrorView, Obstacle};
use serde_json::json;

use super::*;

fn job(state: &str, outcome: Option<&str>) -> JobView {
    let view = json!({
        "id": "20250131-235959-1f3a", "state": state, "outcome": outcome, "name": "web_1", "vm": "web",
        "point": "p", "repository": "main", "created_at": "2025-01-31T23:59:59Z",
        "request": { "point": "p", "mode": "live_mount", "target": { "kind": "export", "clients": ["127.0.0.1"] } },
        "serving_since": null, "finished_at": null, "expires_at": null, "waits_for": null, "steps": [],
        "progress": null, "export": null, "migrated_to": null, "pause_ms": null, "timeline": [], "error": null,
    });
    serde_json::from_value(view).unwrap()
}

fn serving() -> JobView {
    JobView { serving_since: Some(Timestamp::UNIX_EPOCH), ..job("serving", None) }
}

fn error(code: &str) -> ErrorView {
    serde_json::from_value(json!({ "code": code, "message": "it is away" })).unwrap()
}

fn kinds(told: &mut JobTold, job: &JobView) -> Vec<&'static str> {
    told.look(job).into_iter().map(|news| news.kind.as_str()).collect()
}

#[test]
fn each_turn_of_a_job_is_told_once() {
    let mut told = JobTold::default();
    for (job, expected) in [
        (job("queued", None), vec!["job_started"]),
        (job("starting", None), vec![]),
        (serving(), vec!["job_running"]),
        (serving(), vec![]),
        (JobView { error: Some(error("a")), ..serving() }, vec!["job_attention"]),
        (JobView { error: Some(error("a")), ..serving() }, vec![]),
        (job("cleaning_up", Some("discarded")), vec![]),
        (job("completed", Some("discarded")), vec!["job_done"]),
        (job("completed", Some("discarded")), vec![]),
    ] {
        assert_eq!(kinds(&mut told, &job), expected, "{:?}", job.state);
    }
}

#[test]
fn what_happened_between_two_looks_is_told_in_order() {
    let done = JobView { serving_since: Some(Timestamp::UNIX_EPOCH), ..job("failed", None) };
    let found = kinds(&mut JobTold::default(), &done);
    assert_eq!(found, ["job_started", "job_running", "job_failed"]);
}

#[test]
fn an_end_that_is_undone_is_told_again_when_it_comes_again() {
    let mut told = JobTold::default();
    told.look(&serving());
    let kept = job("kept", Some("expired"));
    assert_eq!(kinds(&mut told, &kept), ["job_expired"]);
    assert!(kinds(&mut told, &serving()).is_empty());
    assert_eq!(kinds(&mut told, &kept), ["job_expired"]);
    assert!(kinds(&mut told, &job("cleaning_up", Some("expired"))).is_empty());
    assert!(kinds(&mut told, &job("completed", Some("expired"))).is_empty());
}

#[test]
fn an_obstacle_is_told_once_however_often_it_is_met() {
    let mut told = JobTold::default();
    told.look(&serving());
    let obstacle = |since, tries| Obstacle {
        step: None,
        since: Timestamp::from_second(since).unwrap(),
        tries,
        next_try_at: Timestamp::UNIX_EPOCH,
        error: error("target_unavailable"),
    };
    let stuck = |since, tries| JobView {
        obstacle: Some(obstacle(since, tries)),
        ..job("stuck", Some("cancelled"))
    };
    let news = told.look(&stuck(1, 1));
    assert_eq!(news[0].kind, EventKind::JobAttention);
    assert!(news[0].summary.contains("it is away"), "{}", news[0].summary);
    assert!(told.look(&stuck(1, 2)).is_empty());
    assert_eq!(kinds(&mut told, &stuck(5, 1)), ["job_attention"]);
    assert_eq!(kinds(&mut told, &job("cancelled", Some("cancelled"))), ["job_cancelled"]);
}

#[test]
fn an_alarm_is_told_as_it_deepens_and_when_it_is_over() {
    let mut told = 0;
    let mut look = |now| space(&mut told, now, 1 << 30).map(|n| (n.kind.as_str(), n.severity));
    assert_eq!(look(0), None);
    assert_eq!(look(20), Some(("space_low", Severity::Warning)));
    assert_eq!(look(20), None);
    assert_eq!(look(5), Some(("space_low", Severity::Error)));
    assert_eq!(look(10), None, "it gets better");
    assert_eq!(look(5), Some(("space_low", Severity::Error)));
    assert_eq!(look(0), Some(("space_back", Severity::Info)));
    assert_eq!(look(0), None);
}

#[test]
fn a_repository_is_away_once_and_back_once() {
    let mut away = false;
    let mut look = |state| {
        let now = Attachment { state, since: Timestamp::UNIX_EPOCH, reason: None };
        repository(&mut away, "main", &now).map(|news| news.kind.as_str())
    };
    for (state, expected) in [
        (Reach::Opening, None),
        (Reach::Ready, None),
        (Reach::Unreachable, Some("repository_away")),
        (Reach::Refused, None),
        (Reach::Opening, None),
        (Reach::Ready, Some("repository_back")),
    ] {
        assert_eq!(look(state), expected, "{state:?}");
    }
}
