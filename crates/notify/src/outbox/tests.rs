use super::*;
use crate::event::{About, News};
use crate::{EventKind, Medium, Syslog, SyslogAddress};

fn channel(name: &str) -> Arc<Channel> {
    let address: SyslogAddress = "unix:/nowhere".parse().unwrap();
    Arc::new(Channel {
        name: name.into(),
        events: [EventKind::JobDone].into(),
        medium: Medium::Syslog(Syslog::new(address, crate::Facility::Daemon)),
    })
}

fn event(kind: EventKind, number: u64) -> Event {
    News::new(kind, number.to_string(), About::default()).into_event("here")
}

fn done(numbers: std::ops::Range<u64>) -> Vec<Event> {
    numbers.map(|number| event(EventKind::JobDone, number)).collect()
}

fn summary(outbox: &Outbox, name: &str) -> Option<String> {
    outbox.next(name).map(|due| due.event.summary.clone())
}

fn waiting(outbox: &Outbox, name: &str) -> usize {
    outbox.show(name, |_, waiting, _| waiting).unwrap()
}

#[test]
fn what_was_decided_outlives_the_process_and_is_told_in_order_to_who_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let (db, channels) = (Database::open(dir.path()).unwrap(), [channel("a"), channel("b")]);
    let outbox = Outbox::open(&db, &channels).unwrap();
    let told = BTreeMap::from([("batch/x".to_owned(), Some(Told::Batch { ended: true }))]);
    outbox.add(done(0..300), &told).unwrap();
    outbox.add(vec![event(EventKind::JobFailed, 0)], &Changes::new()).unwrap();
    outbox.delivered("a", outbox.next("a").unwrap().number).unwrap();
    drop(outbox);
    let outbox = Outbox::open(&db, &channels).unwrap();
    assert_eq!((waiting(&outbox, "a"), waiting(&outbox, "b")), (299, 300));
    assert_eq!(summary(&outbox, "a").as_deref(), Some("1"));
    assert_eq!(outbox.told().unwrap()["batch/x"], Told::Batch { ended: true });
    // Numbers go on: nothing new stands before what is old.
    outbox.add(done(300..301), &Changes::new()).unwrap();
    for number in 1..301 {
        assert_eq!(summary(&outbox, "a"), Some(number.to_string()));
        outbox.delivered("a", outbox.next("a").unwrap().number).unwrap();
    }
    assert!(outbox.next("a").is_none());
    drop(outbox);
    let outbox = Outbox::open(&db, &[channel("a")]).unwrap();
    drop(outbox);
    let outbox = Outbox::open(&db, &channels).unwrap();
    assert!(outbox.next("b").is_none(), "its channel was gone");
}

#[test]
fn a_full_outbox_loses_its_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let (db, channels) = (Database::open(dir.path()).unwrap(), [channel("a")]);
    let outbox = Outbox::open(&db, &channels).unwrap();
    let more = WAITING_MAX as u64 + 7;
    outbox.add(done(0..5), &Changes::new()).unwrap();
    outbox.add(done(5..more), &Changes::new()).unwrap();
    assert_eq!(summary(&outbox, "a").as_deref(), Some("7"));
    assert_eq!(outbox.show("a", |queue, _, _| queue.dropped), Some(7));
    let outbox = Outbox::open(&db, &channels).unwrap();
    assert_eq!((waiting(&outbox, "a"), summary(&outbox, "a")), (WAITING_MAX, Some("7".into())));
}

#[test]
fn what_fails_waits_and_is_due_at_once_when_another_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (db, channels) = (Database::open(dir.path()).unwrap(), [channel("a")]);
    let outbox = Outbox::open(&db, &channels).unwrap();
    outbox.add(done(0..2), &Changes::new()).unwrap();
    let first = outbox.next("a").unwrap().number;
    for _ in 0..12 {
        outbox.failed("a", first, "503".into()).unwrap();
    }
    let second = outbox.next("a").unwrap();
    assert_eq!(second.event.summary, "1", "what fails stands in nobody's way");
    outbox.delivered("a", second.number).unwrap();
    let again = outbox.next("a").unwrap();
    assert!(again.number == first && again.at <= Instant::now());
}

#[test]
fn an_event_is_given_up_after_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let (db, channels) = (Database::open(dir.path()).unwrap(), [channel("a")]);
    let outbox = Outbox::open(&db, &channels).unwrap();
    let at = Timestamp::now() - SignedDuration::from_hours(25);
    outbox.add(vec![Event { at, ..event(EventKind::JobDone, 0) }], &Changes::new()).unwrap();
    let number = outbox.next("a").unwrap().number;
    for tries in 1..=TRIES_MIN {
        assert_eq!(waiting(&outbox, "a"), 1, "{tries}");
        outbox.failed("a", number, "503".into()).unwrap();
    }
    assert_eq!(outbox.show("a", |queue, waiting, _| (queue.given_up, waiting)), Some((1, 0)));
    assert!(Outbox::open(&db, &channels).unwrap().next("a").is_none());
}

#[test]
fn pauses_are_anything_up_to_a_bound_that_doubles() {
    assert_eq!(pause(1, u32::MAX), PAUSE);
    assert_eq!(pause(4, u32::MAX), PAUSE * 8);
    assert_eq!(pause(4, 0), Duration::ZERO);
    assert_eq!(pause(u32::MAX, u32::MAX), PAUSE_AT_MOST);
    let half = pause(4, u32::MAX / 2);
    assert!(half > PAUSE * 3 && half < PAUSE * 5, "{half:?}");
}
