use super::*;
use crate::Text;
use crate::event::{Event, LogId, Position, Sequence, StoredEvent, Timestamp};
use crate::mapping::{to_cloudevent, to_structured_json};
use crate::ports::store::{Class, LedgerEntry, LossReason};
use proptest::prelude::*;
use serde_json::Value;
use std::time::Duration;

const WALL: Timestamp = Timestamp(1_790_000_000_000);
const OWN: &str = "node-events";

fn options() -> Options {
    Options {
        node: Text::from_static("plant-7"),
        log: LogId(0x5f3a_9c01),
        epoch: 3,
        version: Text::from_static("0.1.0"),
        heartbeat: s(60),
        stream: Text::from_static(OWN),
        uplinks: vec![Text::from_static("cloud"), Text::from_static("site")],
        previous_stop: PreviousStop::Unclean,
        cut_bytes: 17,
        quarantined_files: 0,
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn link(up: bool, connections: u64) -> Link {
    let address = up.then(|| Text::from_static("broker:1883"));
    Link { up, connections, address, cause: (!up).then(|| Text::from_static("connection refused")) }
}

fn entry(no: u64, stream: &'static str, events: u64) -> LedgerEntry {
    LedgerEntry {
        no,
        stream: Some(Text::from_static(stream)),
        uplink: Some(Text::from_static("cloud")),
        reason: LossReason::QueueFull,
        events,
        bytes: events * 200,
        first: Position::first_of(3),
        last: Position(Position::first_of(3).0 + 99),
    }
}

/// One look with everything that is asked for at hand; the commit succeeds.
fn turn(telemetry: &mut Telemetry, now: Duration, links: &[Link], ledger: &[LedgerEntry]) -> Vec<Event> {
    let batch = ask(telemetry, now, links, ledger);
    telemetry.settled(now, Ok(()));
    batch.map(|batch| batch.events).unwrap_or_default()
}

fn ask(telemetry: &mut Telemetry, now: Duration, links: &[Link], ledger: &[LedgerEntry]) -> Option<Batch> {
    let due = telemetry.look(now, links);
    let entries = due.ledger.map_or(Vec::new(), |(after, max)| {
        ledger.iter().filter(|entry| entry.no > after).take(max).cloned().collect()
    });
    telemetry.gather(now, WALL, due.vitals.then(Vitals::default), entries)
}

fn kinds(events: &[Event]) -> Vec<String> {
    let kind =
        |event: &Event| of_user(event, "type").trim_start_matches("io.eventmesh.edge.node.").to_owned();
    events.iter().map(kind).collect()
}

fn of_user(event: &Event, name: &str) -> String {
    let user = &event.properties.as_ref().unwrap().user;
    user.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()).unwrap_or_default()
}

fn data(event: &Event) -> Value {
    serde_json::from_slice(&event.payload).unwrap()
}

const DOWN: [fn() -> Link; 2] = [|| link(false, 0), || link(false, 0)];
fn down() -> [Link; 2] {
    DOWN.map(|make| make())
}

fn up() -> [Link; 2] {
    [link(true, 1), link(false, 0)]
}

#[test]
fn the_birth_is_told_once_and_first() {
    let mut telemetry = Telemetry::new(options());
    let first = turn(&mut telemetry, s(0), &down(), &[]);
    assert_eq!(kinds(&first), ["birth"]);
    let said = data(&first[0]);
    assert_eq!((&said["previous_stop"], &said["cut_bytes"]), (&"unclean".into(), &17.into()));
    assert_eq!((&said["log"], &said["epoch"]), (&"5f3a9c01".into(), &3.into()));
    assert_eq!(turn(&mut telemetry, s(1), &down(), &[]), []);
}

#[test]
fn what_did_not_become_durable_is_said_again_later_under_a_new_id() {
    let mut telemetry = Telemetry::new(options());
    let first = ask(&mut telemetry, s(0), &down(), &[]).unwrap();
    assert_eq!(ask(&mut telemetry, s(0), &down(), &[]), None, "one batch at a time");
    telemetry.settled(s(0), Err(Class::Retry));
    assert_eq!(ask(&mut telemetry, Duration::from_millis(999), &down(), &[]), None);
    let second = ask(&mut telemetry, s(1), &down(), &[]).unwrap();
    assert_eq!(kinds(&second.events), ["birth"]);
    assert_ne!(first.events[0].id, second.events[0].id);
    telemetry.settled(s(1), Err(Class::Fatal));
    assert!(telemetry.is_done());
}

#[test]
fn a_link_that_comes_and_goes_is_one_event_in_ten_seconds() {
    let mut telemetry = Telemetry::new(options());
    turn(&mut telemetry, s(0), &down(), &[]);
    assert_eq!(kinds(&turn(&mut telemetry, s(5), &up(), &[])), ["uplink.up", "heartbeat"]);
    for at in 6..15 {
        let links = [link(at % 2 == 0, at), link(false, 0)];
        assert!(!kinds(&turn(&mut telemetry, s(at), &links, &[])).contains(&"uplink.down".to_owned()));
    }
    let told = turn(&mut telemetry, s(15), &[link(false, 14), link(false, 0)], &[]);
    assert_eq!(kinds(&told), ["uplink.down"]);
    let said = data(&told[0]);
    assert_eq!((&said["connections"], &said["cause"]), (&13.into(), &"connection refused".into()));
    assert_eq!(of_user(&told[0], "subject"), "cloud");
}

#[test]
fn a_short_absence_that_nobody_saw_is_told_by_its_connection() {
    let mut telemetry = Telemetry::new(options());
    turn(&mut telemetry, s(0), &up(), &[]);
    let told = turn(&mut telemetry, s(20), &[link(true, 3), link(false, 0)], &[]);
    assert_eq!(kinds(&told), ["uplink.up"]);
    assert_eq!(data(&told[0])["connections"], 2);
}

#[test]
fn heartbeats_come_on_time_and_only_while_somebody_can_hear_them() {
    let mut telemetry = Telemetry::new(options());
    let mut beats = Vec::new();
    for at in 0..400 {
        let links = if (100..300).contains(&at) { up() } else { down() };
        let events = turn(&mut telemetry, s(at), &links, &[]);
        beats.extend(kinds(&events).contains(&"heartbeat".to_owned()).then_some(at));
    }
    assert_eq!(beats, [100, 160, 220, 280]);
}

#[test]
fn the_rate_is_that_since_the_last_heartbeat() {
    let mut telemetry = Telemetry::new(options());
    let mut rate = |at: u64, accepted_events: u64| {
        telemetry.look(s(at), &up());
        let vitals = Vitals { accepted_events, ..Vitals::default() };
        let batch = telemetry.gather(s(at), WALL, Some(vitals), Vec::new()).unwrap();
        telemetry.settled(s(at), Ok(()));
        data(batch.events.last().unwrap())["accepted_per_s"].as_f64().unwrap()
    };
    assert_eq!([rate(0, 50), rate(60, 650), rate(120, 650)], [0.0, 10.0, 0.0]);
}

#[test]
fn an_entry_is_told_in_the_commit_that_forgets_it() {
    let mut telemetry = Telemetry::new(options());
    turn(&mut telemetry, s(0), &up(), &[]);
    let ledger = [entry(1, "telemetry", 5), entry(2, "alarms", 1)];
    let batch = ask(&mut telemetry, s(5), &up(), &ledger).unwrap();
    assert_eq!((kinds(&batch.events), batch.forget), (vec!["ledger".into(), "ledger".into()], Some(2)));
    let said = data(&batch.events[0]);
    assert_eq!((&said["no"], &said["events"], &said["reason"]), (&1.into(), &5.into(), &"queue_full".into()));
    assert_eq!((&said["first_id"], &said["last_id"]), (&"5f3a9c01.3-1".into(), &"5f3a9c01.3-100".into()));
    assert_eq!(of_user(&batch.events[1], "subject"), "alarms");
    telemetry.settled(s(5), Err(Class::Retry));
    assert_eq!(kinds(&turn(&mut telemetry, s(6), &up(), &ledger)), ["ledger", "ledger"]);
    assert_eq!(turn(&mut telemetry, s(20), &up(), &ledger), []);
}

#[test]
fn losses_of_the_own_stream_are_no_events_and_are_forgotten_with_the_next() {
    let mut telemetry = Telemetry::new(options());
    turn(&mut telemetry, s(0), &up(), &[]);
    let mut ledger = vec![entry(1, OWN, 1), entry(2, OWN, 1)];
    assert_eq!(ask(&mut telemetry, s(5), &up(), &ledger), None);
    ledger.push(entry(3, OWN, 1));
    ledger.push(entry(4, "telemetry", 1));
    ledger.push(entry(5, OWN, 1));
    let batch = ask(&mut telemetry, s(10), &up(), &ledger).unwrap();
    assert_eq!((kinds(&batch.events), batch.forget), (vec!["ledger".into()], Some(5)));
}

#[test]
fn the_ledger_is_left_to_gather_while_no_uplink_is_up() {
    let mut telemetry = Telemetry::new(options());
    let ledger = [entry(1, "telemetry", 5)];
    for at in 0..100 {
        assert!(!kinds(&turn(&mut telemetry, s(at), &down(), &ledger)).contains(&"ledger".to_owned()));
    }
    assert!(kinds(&turn(&mut telemetry, s(100), &up(), &ledger)).contains(&"ledger".to_owned()));
}

#[test]
fn the_stop_is_the_last_word() {
    let mut telemetry = Telemetry::new(options());
    turn(&mut telemetry, s(0), &up(), &[]);
    telemetry.stop(Text::from_static("SIGTERM"));
    let last = turn(&mut telemetry, s(62), &up(), &[entry(1, "telemetry", 5)]);
    assert_eq!(kinds(&last), ["ledger", "stopped"]);
    assert_eq!(data(&last[1])["cause"], "SIGTERM");
    assert!(telemetry.is_done());
    assert_eq!(turn(&mut telemetry, s(200), &up(), &[entry(2, "telemetry", 5)]), []);
}

#[test]
fn a_heartbeat_is_bounded_whatever_the_ledger_holds() {
    let line =
        |events| LossTotal { stream: Some(Text::from("s".repeat(64))), events, ..LossTotal::default() };
    let vitals = Vitals { losses: (0..10_000).map(line).collect(), ..Vitals::default() };
    let mut telemetry = Telemetry::new(options());
    telemetry.look(s(0), &up());
    let batch = telemetry.gather(s(0), WALL, Some(vitals), Vec::new()).unwrap();
    let beat = batch.events.last().unwrap();
    assert!(beat.payload.len() < 32 * 1024, "{}", beat.payload.len());
    assert_eq!(data(beat)["losses"][0]["events"], 9_999);
    assert_eq!(data(beat)["losses_left_out"], 10_000 - 128);
}

fn stored(event: Event) -> StoredEvent {
    StoredEvent {
        position: Position::first_of(3),
        log: LogId(0x5f3a_9c01),
        sequence: Sequence { source: 7, stream: 7 },
        event,
        stored_bytes: 0,
    }
}

fn schema() -> jsonschema::Validator {
    let text = include_str!("../../tests/data/cloudevents-1.0.2.schema.json");
    jsonschema::validator_for(&serde_json::from_str(text).unwrap()).unwrap()
}

#[test]
fn each_leaves_as_the_valid_cloudevent_that_it_is() {
    let mut telemetry = Telemetry::new(options());
    let mut events = turn(&mut telemetry, s(0), &up(), &[entry(1, "telemetry", 5)]);
    events.extend(turn(&mut telemetry, s(20), &down(), &[]));
    telemetry.stop(Text::from_static("SIGTERM"));
    events.extend(turn(&mut telemetry, s(21), &down(), &[]));
    assert_eq!(kinds(&events), ["birth", "uplink.up", "ledger", "heartbeat", "uplink.down", "stopped"]);
    let schema = schema();
    for event in events {
        let (kind, payload) = (of_user(&event, "type"), data(&event));
        let stored = stored(event);
        let out = to_cloudevent(&stored, "not this one", None);
        assert_eq!(out.get("type"), Some(&*kind));
        assert_eq!((out.get("source"), out.get("edgeseq")), (Some("edge://plant-7"), Some("7")));
        let json: Value = serde_json::from_slice(&to_structured_json(&out)).unwrap();
        assert!(schema.is_valid(&json), "{json}");
        assert_eq!((&json["data"], &json["time"]), (&payload, &"2026-09-21T14:13:20Z".into()));
        assert!(stored.event.topic.starts_with("edge/plant-7/"));
    }
}

#[test]
fn the_testament_is_a_cloudevent_of_each_connection() {
    let testament =
        Testament::new("plant-7", LogId(0x5f3a_9c01), 3, Text::from_static("cloud"), Duration::from_secs(60));
    assert_eq!(testament.topic(), "edge/plant-7/state");
    let whole: Value = serde_json::from_slice(&testament.message(2, true).payload).unwrap();
    assert!(schema().is_valid(&whole), "{whole}");
    assert_eq!(
        (&whole["id"], &whole["type"]),
        (&"5f3a9c01.3-death-cloud-2".into(), &"io.eventmesh.edge.node.death".into())
    );
    assert_eq!(whole.get("time"), None);
    let binary = testament.message(2, false);
    let user: Vec<_> =
        binary.user.iter().map(|(name, value)| (*name, whole[*name].as_str() == Some(value))).collect();
    assert_eq!(user, ["specversion", "id", "source", "type", "subject"].map(|name| (name, true)));
    assert_eq!(serde_json::from_slice::<Value>(&binary.payload).unwrap(), whole["data"]);
}

/// What may happen between two looks.
#[derive(Clone, Copy, Debug)]
enum Step {
    Loss {
        own: bool,
    },
    Link {
        up: bool,
    },
    Wait {
        seconds: u64,
    },
    /// The next commit fails.
    Fail,
    /// The node dies with its commit under way, which is durable or not.
    Restart {
        durable: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(|own| Step::Loss { own }),
        2 => any::<bool>().prop_map(|up| Step::Link { up }),
        4 => (1u64..30).prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Fail),
        1 => any::<bool>().prop_map(|durable| Step::Restart { durable }),
    ]
}

proptest! {
    /// Whatever happens, each entry is in exactly one durable event, in order, and none of the own stream is.
    #[test]
    fn every_entry_becomes_one_durable_event(steps in proptest::collection::vec(step(), 1..120)) {
        let mut telemetry = Telemetry::new(options());
        let (mut ledger, mut no, mut now, mut is_up, mut fails) = (Vec::new(), 0, 0, false, false);
        let (mut wanted, mut told) = (Vec::new(), Vec::new());
        let mut keep = |batch: &Batch, ledger: &mut Vec<LedgerEntry>| {
            let no = |event: &Event| data(event)["no"].as_u64();
            told.extend(batch.events.iter().filter(|e| kinds(&[(*e).clone()]) == ["ledger"]).filter_map(no));
            let forget = batch.forget.unwrap_or(0);
            ledger.retain(|entry| entry.no > forget);
        };
        for step in steps.into_iter().chain([Step::Link { up: true }, Step::Wait { seconds: 400 }, Step::Wait { seconds: 400 }]) {
            match step {
                Step::Loss { own } => {
                    no += 1;
                    ledger.push(entry(no, if own { OWN } else { "telemetry" }, 1));
                    wanted.extend((!own).then_some(no));
                }
                Step::Link { up } => is_up = up,
                Step::Wait { seconds } => now += seconds,
                Step::Fail => fails = true,
                Step::Restart { durable } => {
                    let links = [link(is_up, 1), link(false, 0)];
                    if let Some(batch) = ask(&mut telemetry, s(now), &links, &ledger).filter(|_| durable) {
                        keep(&batch, &mut ledger);
                    }
                    telemetry = Telemetry::new(options());
                    now = 0;
                }
            }
            let links = [link(is_up, 1), link(false, 0)];
            if let Some(batch) = ask(&mut telemetry, s(now), &links, &ledger) {
                let failed = std::mem::take(&mut fails);
                if !failed {
                    keep(&batch, &mut ledger);
                }
                telemetry.settled(s(now), if failed { Err(Class::Retry) } else { Ok(()) });
            }
        }
        prop_assert_eq!(told, wanted);
    }
}

#[test]
fn other_uplinks_keep_what_is_known_of_those_that_stay() {
    let mut rules =
        Telemetry::new(Options { uplinks: ["a", "b"].map(Text::from_static).to_vec(), ..options() });
    let up = Link { up: true, connections: 1, ..Link::default() };
    rules.look(Duration::ZERO, &[up.clone(), up.clone()]);
    assert!(rules.gather(Duration::ZERO, Timestamp(0), None, Vec::new()).is_some());
    rules.settled(Duration::ZERO, Ok(()));
    rules.set_uplinks(["c", "b"].map(Text::from_static).to_vec());
    rules.look(Duration::from_secs(60), &[up.clone(), up]);
    let batch = rules.gather(Duration::from_secs(60), Timestamp(0), None, Vec::new()).unwrap();
    // That b is up has been told; that c is has not.
    let told: Vec<String> =
        batch.events.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect();
    assert!(told.len() == 1 && told[0].contains("\"c\""), "{told:?}");
}
