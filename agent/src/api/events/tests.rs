use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;

use super::correlate::{Correlator, Counted};
use super::{EventKind, Events, Record};

fn record(name: &str, message: &str) -> Record {
    Record {
        object: ObjectReference {
            name: Some(name.into()),
            uid: Some("u".into()),
            ..ObjectReference::default()
        },
        kind: EventKind::Warning,
        reason: "BackOff".into(),
        message: message.into(),
    }
}

fn post(correlator: &mut Correlator, record: &Record, now: Timestamp) -> Counted {
    correlator.observe(record, now).expect("dropped")
}

#[test]
fn a_repeat_raises_the_count_of_the_first() {
    let (mut correlator, start) = (Correlator::default(), Timestamp::UNIX_EPOCH);
    let first = post(&mut correlator, &record("p", "m"), start);
    assert_eq!((first.count, first.existing), (1, None));
    correlator.posted(&first.key, Some("p.1".into()));
    let second = post(
        &mut correlator,
        &record("p", "m"),
        start + SignedDuration::from_secs(60),
    );
    assert_eq!(
        (second.count, second.first, second.existing),
        (2, start, Some("p.1".into()))
    );
    let other = post(&mut correlator, &record("q", "m"), start);
    assert_eq!((other.count, other.existing), (1, None));
}

#[test]
fn similar_messages_are_merged() {
    let (mut correlator, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
    for n in 0..9 {
        assert_eq!(
            post(&mut correlator, &record("p", &format!("m{n}")), now).message,
            format!("m{n}")
        );
    }
    let tenth = post(&mut correlator, &record("p", "m9"), now);
    assert_eq!(
        (tenth.message.as_str(), tenth.count),
        ("(combined from similar events): m9", 1)
    );
    correlator.posted(&tenth.key, Some("merged".into()));
    let next = post(&mut correlator, &record("p", "m10"), now);
    assert_eq!((next.count, next.existing), (2, Some("merged".into())));
    // Quiet for longer than the window: they are told apart again.
    let later = post(
        &mut correlator,
        &record("p", "m11"),
        now + SignedDuration::from_secs(601),
    );
    assert_eq!(later.message, "m11");
}

#[test]
fn an_object_has_25_and_then_one_in_5_minutes() {
    let (mut correlator, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
    for _ in 0..25 {
        post(&mut correlator, &record("p", "m"), now);
    }
    assert_eq!(correlator.observe(&record("p", "m"), now), None);
    post(&mut correlator, &record("other", "m"), now);
    let later = now + SignedDuration::from_secs(300);
    post(&mut correlator, &record("p", "m"), later);
    assert_eq!(correlator.observe(&record("p", "m"), later), None);
}

#[test]
fn a_clock_set_back_neither_panics_nor_gives_tokens() {
    let mut correlator = Correlator::default();
    let now = Timestamp::from_second(1_000_000).unwrap();
    for _ in 0..25 {
        post(&mut correlator, &record("p", "m"), now);
    }
    assert_eq!(correlator.observe(&record("p", "m"), Timestamp::UNIX_EPOCH), None);
}

#[test]
fn long_messages_are_cut_between_characters() {
    let counted = post(
        &mut Correlator::default(),
        &record("p", &"é".repeat(2000)),
        Timestamp::UNIX_EPOCH,
    );
    assert!(
        counted.message.len() <= 1024 && counted.message.ends_with("é..."),
        "{}",
        counted.message.len()
    );
}

#[test]
fn a_full_queue_never_blocks_the_caller() {
    let (events, mut records) = Events::channel();
    for n in 0..2000 {
        events.record(&ObjectReference::default(), EventKind::Normal, "R", n.to_string());
    }
    let mut kept = 0;
    while records.try_recv().is_ok() {
        kept += 1;
    }
    assert_eq!(kept, 1000);
}
