//! The configuration as its reader meets it: files in, lines out.

use super::*;
use eventmesh_edge_core::forward;
use eventmesh_edge_core::ports::store::{StreamId, UplinkId, WhenFull};
use std::collections::BTreeMap;

const SAMPLE: &str = include_str!("../../../config/node.toml");
const MINIMAL: &str = include_str!("../../../config/minimal.toml");

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, "node.toml", &BTreeMap::new(), &Overrides::default())
}

fn lines(text: &str) -> Vec<String> {
    parse(text).expect_err("has problems").to_string().lines().map(str::to_owned).collect()
}

#[test]
fn no_file_at_all_works() {
    let config = parse("").unwrap();
    let listener = config.listeners.first().unwrap();
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(listener.bind.to_string(), "127.0.0.1:1883");
    assert_eq!(listener.auth, Auth::Anonymous);
    assert_eq!(config.node.data_dir, Path::new("./data"));
    assert_eq!(config.admin.socket, Path::new("./data/admin.sock"));
    assert!(config.uplinks.is_empty());
    assert_eq!(config.streams.len(), 1);
    assert_eq!(config.warnings, ["no uplink configured: events are stored and wait, add [[uplink]]"]);
}

#[test]
fn five_mistakes_give_five_lines_in_the_words_of_the_file() {
    let text = r#"
[node]
disk_max = 4

[[listener]]
bind = "1883"

[[uplink]]
name = "cloud"
adress = ["broker:1883"]

[[route]]
topics = ["plant/+/temp", "a/#/b"]

[[stream]]
name = "x"
class = "volatile"
"#;
    let expected = [
        r#"node.toml:3: node.disk_max = 4: a size needs a unit: B, KiB, MiB, GiB, kB, MB or GB, as in "64 MiB""#,
        r#"node.toml:6: listener[0].bind = "1883": must be an address and a port, as in "127.0.0.1:1883" or "[::]:1883""#,
        r#"node.toml:10: uplink[0].adress: unknown key, did you mean "addresses"?"#,
        "node.toml:13: route[0].topics = [\"plant/+/temp\", \"a/#/b\"]: item 1: `#` must be the last level of a filter and \
         stand alone in it",
        r#"node.toml:17: stream[0].class = "volatile": is not built yet, use "durable""#,
    ];
    assert_eq!(lines(text), expected);
}

#[test]
fn a_missing_key_names_an_example_and_the_line_of_its_section() {
    assert_eq!(
        lines("\n[[uplink]]\naddresses = [\"a:1\"]\n[[uplink]]\nname = \"b\"\n"),
        [
            r#"node.toml:2: uplink[0].name: missing, write for example name = "cloud""#,
            r#"node.toml:4: uplink[1].addresses: missing, write for example addresses = ["broker.example.com:1883"]"#,
        ]
    );
}

#[test]
fn unknown_sections_and_wrong_brackets_are_told() {
    assert_eq!(
        lines("[nodes]\n[uplink]\nname = \"a\"\n[[log]]\n"),
        [
            r#"node.toml:1: nodes: unknown section, did you mean "node"?"#,
            "node.toml:2: uplink: is a list: write [[uplink]] with two brackets",
            "node.toml:4: log: is one table: write [log] with one bracket",
        ]
    );
}

#[test]
fn a_syntax_error_does_not_hide_the_other_problems() {
    let lines = lines("[node]\nname = plant\n[log]\nlevel = \"loud\"\n");
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].starts_with("node.toml:2: "), "{lines:#?}");
    assert_eq!(
        lines[1],
        r#"node.toml:4: log.level = "loud": must be "error" or "warn" or "info" or "debug" or "trace""#
    );
}

#[test]
fn limits_are_named_with_their_units() {
    assert_eq!(
        lines("[node]\ndisk_max = \"1 MiB\"\n[[listener]]\nmax_payload = \"1 GiB\"\n"),
        [
            r#"node.toml:2: node.disk_max = "1 MiB": must be between "64 MiB" and "1048576 GiB""#,
            r#"node.toml:4: listener[0].max_payload = "1 GiB": must be between "1 B" and "16 MiB""#,
        ]
    );
}

const TWO_UPLINKS: &str =
    "[[uplink]]\nname = \"a\"\naddresses = [\"x:1\"]\n[[uplink]]\nname = \"b\"\naddresses = [\"y:1\"]\n";

#[test]
fn references_must_exist() {
    let text = format!(
        "{TWO_UPLINKS}[[stream]]\nname = \"fast\"\n[[route]]\ntopics = [\"t\"]\nstream = \"fats\"\nuplinks = [\"c\"]\n"
    );
    assert_eq!(
        lines(&text),
        [
            r#"node.toml:11: route[0].stream: there is no stream "fats", did you mean "fast"?"#,
            r#"node.toml:12: route[0].uplinks: there is no uplink "c", add [[uplink]] with name = "c""#,
        ]
    );
}

#[test]
fn routes_of_one_stream_agree_on_its_uplinks() {
    let text = format!(
        "{TWO_UPLINKS}[[stream]]\nname = \"s\"\n[[route]]\ntopics = [\"t\"]\nstream = \"s\"\nuplinks = [\"a\"]\n\
         [[route]]\ntopics = [\"u\"]\nstream = \"s\"\nuplinks = [\"a\", \"b\"]\n[[route]]\ntopics = [\"v\"]\nuplinks = [\"a\"]\n"
    );
    assert_eq!(
        lines(&text),
        [
            "node.toml:16: route[1].uplinks: differs from route[0].uplinks, but both fill stream \"s\", and a stream has \
             one set of uplinks: name the same or use two streams",
            "node.toml:19: route[2].uplinks: the default stream goes to every uplink; to choose, give this route a \
             [[stream]] of its own",
        ]
    );
}

#[test]
fn a_stream_has_the_uplinks_that_its_routes_name() {
    let text = format!(
        "{TWO_UPLINKS}[[stream]]\nname = \"s\"\n[[stream]]\nname = \"all\"\n[[stream]]\nname = \"none\"\n\
         [[route]]\ntopics = [\"t\"]\nstream = \"s\"\nuplinks = [\"b\"]\n[[route]]\ntopics = [\"u\"]\nstream = \"s\"\n\
         [[route]]\ntopics = [\"v\"]\nstream = \"all\"\n[[route]]\ntopics = [\"w\"]\nstream = \"none\"\nuplinks = []\n"
    );
    let config = parse(&text).unwrap();
    let uplinks: Vec<(&str, &[usize])> =
        config.streams.iter().map(|s| (s.name.as_str(), &*s.uplinks)).collect();
    let own = ("node-events", &[0, 1][..]);
    assert_eq!(uplinks, [("default", &[0, 1][..]), ("s", &[1]), ("all", &[0, 1]), ("none", &[]), own]);
    assert_eq!(
        config.warnings,
        [r#"stream "none" has no uplink: its events are stored and wait until max_bytes or max_age"#]
    );
}

#[test]
fn names_are_unique() {
    let text = "[[stream]]\nname = \"s\"\n[[stream]]\nname = \"default\"\n[[stream]]\nname = \"s\"\n\
                [[uplink]]\nname = \"a\"\naddresses = [\"x:1\"]\n[[uplink]]\nname = \"a\"\naddresses = [\"x:1\"]\n";
    assert_eq!(
        lines(text),
        [
            r#"node.toml:6: stream[2].name = "s": is the name of an earlier stream too, each needs its own"#,
            r#"node.toml:11: uplink[1].name = "a": is the name of an earlier uplink too, each needs its own"#,
        ]
    );
}

#[test]
fn budgets_must_fit_the_disk() {
    let problem =
        lines("[node]\ndisk_max = \"128 MiB\"\n[[stream]]\nname = \"s\"\nmax_bytes = \"112 MiB\"\n");
    assert_eq!(
        problem,
        [
            "node.toml:2: node.disk_max = \"128 MiB\": is too small: streams ask for 112 MiB and 1 without max_bytes (among \
          them the default stream) need at least 1 MiB each, and 16 MiB are kept for sessions, cursors and the journal"
        ]
    );
    let all_given = "[node]\ndisk_max = \"64 MiB\"\n[[stream]]\nname = \"default\"\nmax_bytes = \"49 MiB\"\n";
    assert_eq!(
        lines(all_given),
        [
            "node.toml:2: node.disk_max = \"64 MiB\": is too small: streams ask for 49 MiB, and 16 MiB are kept for \
          sessions, cursors and the journal"
        ]
    );
    let config =
        parse("[node]\ndisk_max = \"128 MiB\"\n[[stream]]\nname = \"s\"\nmax_bytes = \"50 MiB\"\n").unwrap();
    let budgets: Vec<u64> = config.streams.iter().map(|s| s.max_bytes.bytes() >> 20).collect();
    assert_eq!(budgets, [62, 50]);
}

#[test]
fn the_largest_payload_must_fit_a_segment() {
    assert_eq!(
        lines("[node]\ndisk_max = \"64 MiB\"\n[[listener]]\nmax_payload = \"2 MiB\"\n"),
        [
            r#"node.toml:4: listener[0].max_payload = "2 MiB": needs node.disk_max = "128 MiB" or more, it is "64 MiB""#
        ]
    );
}

#[test]
fn a_message_for_all_sessions_must_fit_a_segment() {
    let small = "[node]\ndisk_max = \"64 MiB\"\n[[listener]]\nmax_payload = \"256 KiB\"\n";
    assert_eq!(parse(small).unwrap().session.sessions_max, 65_536);
    assert_eq!(parse("").unwrap().session.sessions_max, 100_000);
    assert_eq!(
        lines(&format!("{small}[session]\nsessions_max = 65537\n")),
        [r#"node.toml:6: session.sessions_max: needs node.disk_max = "65537 KiB" or more, it is "64 MiB""#]
    );
}

#[test]
fn passwords_need_what_they_need() {
    assert_eq!(
        lines(
            "[[listener]]\nauth = \"password\"\n[[listener]]\nbind = \"127.0.0.1:1884\"\npassword_file = \"p\"\n"
        ),
        [
            "node.toml:1: listener[0].password_file: missing, auth = \"password\" needs the file that `eventmesh-edge password` \
             adds to",
            "node.toml:5: listener[1].password_file: would not be used with auth = \"anonymous\", write auth = \"password\" \
             or remove it",
        ]
    );
}

/// P7: nobody gets in by a key that was forgotten.
#[test]
fn a_listener_that_others_reach_says_who_gets_in() {
    for bind in ["0.0.0.0:1883", "[::]:1883", "192.168.1.7:1883", "[fe80::1]:1883"] {
        let text = format!("[[listener]]\n[[listener]]\nbind = \"{bind}\"\n");
        assert_eq!(
            lines(&text),
            [format!(
                "node.toml:2: listener[1].auth: missing, and other machines reach {bind}: write auth = \"password\" with a \
                 password_file, or auth = \"anonymous\" to let anybody in (in the environment: \
                 EVENTMESH_EDGE_LISTENER_1_AUTH)"
            )]
        );
        parse(&format!("{text}auth = \"anonymous\"\n")).unwrap();
        parse(&format!("{text}auth = \"password\"\npassword_file = \"p\"\n")).unwrap();
    }
    for bind in ["127.0.0.1:1884", "127.8.8.8:1883", "[::1]:1883", "[::ffff:127.0.0.1]:1884"] {
        parse(&format!("[[listener]]\nbind = \"{bind}\"\n")).unwrap();
    }
}

/// Also when the address comes from elsewhere than the file, and so may the answer.
#[test]
fn moving_a_listener_out_of_the_loopback_asks_the_same() {
    let moved = |pairs: &[(&str, &str)], listen: &[&str], text: &str| {
        let listen = listen.iter().map(|address| address.parse().unwrap()).collect();
        let overrides = Overrides { data_dir: None, listen };
        Config::parse(text, "node.toml", &variables(pairs), &overrides)
            .map_err(|problems| problems.to_string())
    };
    let all = ["[::]:0", "0.0.0.0:0"];
    let problem = moved(&[], &all, "").unwrap_err();
    assert!(problem.starts_with("node.toml: listener[0].auth: missing, and other machines reach [::]:0"));
    assert_eq!(problem.lines().count(), 1, "{problem}");
    moved(&[("EVENTMESH_EDGE_LISTENER_0_BIND", "[::]:0")], &[], "").unwrap_err();
    let stated = ("EVENTMESH_EDGE_LISTENER_0_AUTH", "anonymous");
    moved(&[stated, ("EVENTMESH_EDGE_LISTENER_0_BIND", "[::]:0")], &[], "").unwrap();
    let config = moved(&[], &all, "[[listener]]\nauth = \"anonymous\"\n").unwrap();
    assert_eq!(config.listeners.len(), 2);
    // And the other way: what is bound to the loopback in the end need not say it.
    moved(&[], &["127.0.0.1:0"], "[[listener]]\nbind = \"[::]:1883\"\n").unwrap();
    // A wrong word is one mistake.
    let wrong = moved(&[], &[], "[[listener]]\nbind = \"[::]:0\"\nauth = \"nobody\"\n").unwrap_err();
    assert_eq!(wrong.lines().count(), 1, "{wrong}");
}

#[test]
fn what_may_not_be_meant_is_a_warning() {
    let text = "[[listener]]\nbind = \"0.0.0.0:1883\"\nauth = \"anonymous\"\n[[listener]]\nbind = \"[::]:1884\"\nauth = \"password\"\n\
                password_file = \"p\"\n[[uplink]]\nname = \"a\"\naddresses = [\"broker:1883\"]\nusername = \"u\"\n\
                password_file = \"q\"\n[[stream]]\nname = \"s\"\n";
    let warnings = parse(text).unwrap().warnings;
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
    assert!(warnings[0].contains("lets anybody in who reaches 0.0.0.0:1883"));
    assert!(warnings[1].contains("passwords in clear text at [::]:1884"));
    assert!(warnings[2].contains("stream \"s\" takes nothing"));
    assert!(warnings[3].contains("sends its password in clear text to broker:1883"));
}

#[test]
fn the_environment_lies_above_the_file() {
    let environment = variables(&[
        ("EVENTMESH_EDGE_NODE_NAME", "plant-7"),
        ("EVENTMESH_EDGE_NODE_DISK_MAX", "2 GiB"),
        ("EVENTMESH_EDGE_LISTENER_0_BIND", "127.0.0.1:0"),
        ("EVENTMESH_EDGE_UPLINK_0_ADDRESSES", r#"["a:1", "b:2"]"#),
        ("EVENTMESH_EDGE_UPLINK_0_WINDOW_EVENTS", "7"),
        ("EVENTMESH_EDGE_UPLINK_0_USERNAME", "u"),
        ("EVENTMESH_EDGE_UPLINK_0_PASSWORD", "hunter2"),
        ("EVENTMESH_EDGE_UPLINK_0_TLS_CA", "/ca.pem"),
        ("EVENTMESH_EDGE_UPLINK_1_NAME", "second"),
        ("EVENTMESH_EDGE_UPLINK_1_ADDRESSES", r#"["c:3"]"#),
        ("EVENTMESH_EDGE_SERVICE_HOST", "10.0.0.1"),
    ]);
    let text = "[node]\nname = \"x\"\n[[uplink]]\nname = \"cloud\"\n";
    let config = Config::parse(text, "node.toml", &environment, &Overrides::default()).unwrap();
    assert_eq!((config.node.name.as_str(), config.node.disk_max), ("plant-7", ByteSize::from_gib(2)));
    assert_eq!(config.listeners[0].bind.port(), 0);
    let uplink = &config.uplinks[0];
    assert_eq!((uplink.addresses.len(), uplink.window_events), (2, 7));
    assert_eq!(uplink.tls.as_ref().unwrap().ca.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(config.uplinks[1].name.as_str(), "second");
    assert_eq!(config.warnings, ["environment variable EVENTMESH_EDGE_SERVICE_HOST belongs to no key"]);
    // P7: no secret in whatever may be printed.
    assert!(!format!("{config:?} {:?}", config.summary()).contains("hunter2"));
}

#[test]
fn a_wrong_variable_is_named() {
    let environment = variables(&[("EVENTMESH_EDGE_NODE_STOP_TIMEOUT", "10")]);
    let problems = Config::parse("", "environment", &environment, &Overrides::default()).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "environment: EVENTMESH_EDGE_NODE_STOP_TIMEOUT: node.stop_timeout: a time needs a unit: ms, s, min, h or days, as in \
         \"250 ms\""
    );
}

#[test]
fn no_message_quotes_a_secret() {
    let text =
        "[[uplink]]\nname = \"a\"\naddresses = [\"x:1\"]\nusername = \"u\"\npassword = [\"hunter2\"]\n";
    let problems = lines(text);
    assert_eq!(problems, ["node.toml:5: uplink[0].password: must be text in double quotes"]);
}

#[test]
fn the_command_line_lies_above_everything() {
    let overrides = Overrides {
        data_dir: Some("/srv/edge".into()),
        listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
    };
    let text = "[node]\ndata_dir = \"/x\"\n[[listener]]\nmax_connections = 5\n[[listener]]\nbind = \"127.0.0.1:1\"\n";
    let config = Config::parse(text, "node.toml", &BTreeMap::new(), &overrides).unwrap();
    assert_eq!(config.node.data_dir, Path::new("/srv/edge"));
    assert_eq!(config.admin.socket, Path::new("/srv/edge/admin.sock"));
    assert_eq!(config.listeners.iter().map(|l| l.max_connections).collect::<Vec<_>>(), [5, 5]);
}

#[test]
fn conversions_keep_what_was_written() {
    let text = format!(
        "{TWO_UPLINKS}[[stream]]\nname = \"s\"\nmax_age = \"1 h\"\nwhen_full = \"drop-oldest\"\nmax_bytes = \"2 MiB\"\n\
         [[route]]\ntopics = [\"t/#\"]\nstream = \"s\"\ntype = \"com.example.t\"\nuplinks = [\"b\"]\n"
    );
    let config = parse(&text).unwrap();
    let spec = config.store_spec();
    let stream = &spec.streams[1];
    assert_eq!((&*stream.name, stream.max_bytes, stream.when_full), ("s", 2 << 20, WhenFull::DropOldest));
    assert_eq!(stream.uplinks, [UplinkId(1)]);
    assert_eq!(spec.uplinks, ["a", "b"]);
    let router = config.router().unwrap();
    let routed = router.route("t/x").unwrap();
    assert_eq!((routed.stream, routed.kind.map(|k| &**k)), (StreamId(1), Some("com.example.t")));
    assert_eq!(router.route("u").map(|r| r.stream), Some(StreamId(0)));
    for uplink in &config.uplinks {
        let rules = uplink.forward_options(UplinkId(0), 1);
        assert_eq!(rules.check(), Ok(()));
        // What an MQTT 5 upstream says of one packet holds for no other.
        assert_eq!((rules.order, rules.pipeline), (forward::Order::Strict, forward::Pipeline::Unordered));
    }
}

#[test]
fn unrouted_messages_may_stay_local() {
    let config = parse("[node]\nunrouted = \"local\"\n").unwrap();
    assert_eq!(config.router().unwrap().route("t"), None);
}

#[test]
fn the_samples_load() {
    let defaults = parse("").unwrap();
    assert_eq!(parse(SAMPLE).unwrap(), defaults);
    let minimal = parse(MINIMAL).unwrap();
    assert_eq!(minimal.uplinks[0].name.as_str(), "cloud");
    assert!(minimal.warnings.is_empty(), "{:?}", minimal.warnings);
}

/// The sample with every `#key = …` line made real.
fn uncommented() -> String {
    let real = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => rest.to_owned(),
        _ => line.to_owned(),
    };
    SAMPLE.lines().map(real).collect::<Vec<_>>().join("\n")
}

/// Every key that the parser knows is in the sample, every key in the sample is known, every default that it states is
/// the code's, and what is marked "no default" has none.
#[test]
fn the_sample_tells_the_truth() {
    let text = uncommented();
    let (_, outcome) = read(&text, &BTreeMap::new(), &Overrides::default());
    let unknown: Vec<_> = outcome.problems.iter().filter(|p| p.what.contains("unknown")).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    for known in &outcome.known {
        let given = known.given.as_ref().unwrap_or_else(|| panic!("{} is not in the sample", known.path));
        let line = text.lines().nth(outcome.lines[&known.path] - 1).unwrap();
        match &known.default {
            // The sample shows each kind.
            Some(_) if known.path.starts_with("uplink[") && known.path.ends_with("].kind") => {}
            Some(default) => {
                assert_eq!(given, default, "{}: the sample states another default", known.path);
                assert!(!line.ends_with("# no default"), "{} has a default", known.path);
            }
            None => assert!(line.ends_with("# no default"), "{} has no default", known.path),
        }
    }
    assert!(outcome.known.len() > 50, "{} keys", outcome.known.len());
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is in the file: an answer, and never an empty list of problems.
        #[test]
        fn any_file_gets_an_answer(text in "[\\[\\]a-z_={}\", \n#0-9é]{0,200}") {
            if let Err(problems) = parse(&text) {
                prop_assert!(!problems.problems.is_empty());
            }
        }

        /// The sample with one line changed at random, which is what real mistakes look like.
        #[test]
        fn a_damaged_sample_gets_an_answer(line in 0_usize..200, with in ".{0,30}") {
            let mut lines: Vec<String> = uncommented().lines().map(str::to_owned).collect();
            let at = line % lines.len();
            lines[at] = with;
            if let Err(problems) = parse(&lines.join("\n")) {
                prop_assert!(!problems.problems.is_empty());
            }
        }
    }
}

#[test]
fn the_nodes_own_events_have_a_stream_while_somebody_reads_them() {
    let last = |text: &str| {
        let config = parse(&format!("{TWO_UPLINKS}{text}")).unwrap();
        config.streams.last().map(|s| (s.name.to_string(), s.uplinks.clone())).unwrap()
    };
    assert_eq!(last(""), (NODE_STREAM.to_owned(), vec![0, 1]));
    assert_eq!(last("[telemetry]\nuplinks = [\"b\"]\n"), (NODE_STREAM.to_owned(), vec![1]));
    assert_eq!(last("[telemetry]\nenabled = false\n").0, DEFAULT_STREAM);
    assert_eq!(last("[telemetry]\nuplinks = []\n").0, DEFAULT_STREAM);
    assert_eq!(
        lines(&format!(
            "{TWO_UPLINKS}[telemetry]\nuplinks = [\"bb\"]\n[[stream]]\nname = \"node-events\"\n[[route]]\n\
             topics = [\"t\"]\nstream = \"node-events\"\n"
        )),
        [
            "node.toml:8: telemetry.uplinks: there is no uplink \"bb\", add [[uplink]] with name = \"bb\"",
            "node.toml:10: stream[0].name = \"node-events\": is the name of the stream of the node's own events, choose \
             another"
        ]
    );
}
