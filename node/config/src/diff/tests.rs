//! Two files in, one plan out.

use super::*;
use crate::{Overrides, Unrouted};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn config(text: &str) -> Config {
    Config::parse(text, "node.toml", &BTreeMap::new(), &Overrides::default())
        .unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn between(running: &str, new: &str) -> Plan {
    Plan::between(&config(running), &config(new))
}

fn uplink(name: &str, keys: &str) -> String {
    format!("[[uplink]]\nname = \"{name}\"\nkind = \"mqtt\"\naddresses = [\"h:1\"]\n{keys}\n")
}

fn begins(stream: &str, uplink: &str, begins: bool) -> ReaderChange {
    ReaderChange { stream: stream.to_owned(), uplink: uplink.to_owned(), begins }
}

#[test]
fn the_same_file_changes_nothing() {
    for text in [include_str!("../../../../config/node.toml"), "", &uplink("a", "")] {
        assert!(between(text, text).is_empty());
    }
}

#[test]
fn addresses_and_credentials_are_an_uplinks_way() {
    let plan = between(&uplink("a", ""), &uplink("a", "username = \"u\"\npassword = \"hunter2\""));
    assert!(
        matches!(&plan.uplinks[..], [UplinkChange { what: UplinkDiff::Way(keys), .. }] if keys.len() == 2)
    );
    let words = plan.words().join("\n");
    assert_eq!(words, "uplink \"a\" connects anew: username none -> \"u\", password is another");
    let moved = uplink("a", "").replace("h:1", "h:2");
    let words = between(&uplink("a", ""), &moved).words();
    assert_eq!(words, ["uplink \"a\" connects anew: addresses [\"h:1\"] -> [\"h:2\"]"]);
}

#[test]
fn no_secret_is_in_the_words() {
    let http = |query: &str, token: &str| {
        format!(
            "[[uplink]]\nname = \"a\"\nkind = \"http\"\nurls = [\"https://h/?k={query}\"]\nauth = \"bearer\"\ntoken = \"{token}\"\n"
        )
    };
    let plan = between(&http("hunter1", "hunter2"), &http("hunter3", "hunter4"));
    let words = plan.words();
    assert_eq!(words, ["uplink \"a\" connects anew: urls is another, auth is another"]);
    assert!(!format!("{plan:?}").contains("hunter"), "P7");
}

#[test]
fn order_and_window_are_the_forwarders() {
    let rules = |keys: &str| between(&uplink("a", ""), &uplink("a", keys)).uplinks;
    for keys in
        ["order = \"sequence\"", "window_events = 7", "retry_max = \"7 s\"", "answer_timeout = \"7 s\""]
    {
        assert!(matches!(rules(keys)[..], [UplinkChange { what: UplinkDiff::Rules(_), .. }]), "{keys}");
    }
    for keys in ["keep_alive = \"7 s\"", "mode = \"structured\"", "subscribe = [\"a\"]", "tls = {}"] {
        assert!(matches!(rules(keys)[..], [UplinkChange { what: UplinkDiff::Way(_), .. }]), "{keys}");
    }
}

#[test]
fn a_renamed_uplink_is_one_that_is_gone_and_a_new_one() {
    let plan = between(&uplink("a", ""), &uplink("b", ""));
    let whats: Vec<_> = plan.uplinks.iter().map(|u| (u.name.as_str(), &u.what)).collect();
    assert_eq!(whats, [("b", &UplinkDiff::New), ("a", &UplinkDiff::Gone)]);
    let streams = ["default", NODE_STREAM];
    let expected: Vec<_> = [("b", true), ("a", false)]
        .into_iter()
        .flat_map(|(uplink, begin)| streams.map(|stream| begins(stream, uplink, begin)))
        .collect();
    assert_eq!(plan.readers, expected);
    assert!(plan.restart.is_empty() && plan.is_gone("a") && !plan.is_gone("b"));
    assert_eq!(plan.leaving().count(), 2);
}

#[test]
fn the_first_uplink_brings_the_nodes_own_stream_and_the_last_takes_it_away() {
    let first = between("", &uplink("a", ""));
    assert!(first.restart.is_empty(), "{first:?}");
    let named: Vec<_> = first.streams.iter().map(|s| (s.name.as_str(), s.from.is_none())).collect();
    assert_eq!(named, [("default", false), (NODE_STREAM, true)], "the others share what is left");
    let last = between(&uplink("a", ""), "");
    assert!(last.restart.is_empty(), "{last:?}");
    assert_eq!(last.leaving().count(), 2);
}

#[test]
fn routes_are_named_and_so_is_their_order() {
    let routes = |topics: &[&str]| -> String {
        topics.iter().map(|t| format!("[[route]]\ntopics = [\"{t}\"]\nstream = \"default\"\n")).collect()
    };
    let plan = between(&routes(&["a", "b"]), &routes(&["a", "c"]));
    assert_eq!(plan.routes, ["new route [\"c\"] -> \"default\"", "gone: route [\"b\"] -> \"default\""]);
    assert_eq!(between(&routes(&["a", "b"]), &routes(&["b", "a"])).routes, ["routes are in another order"]);
    let local = between("", "[node]\nunrouted = \"local\"\n");
    assert_eq!(config("[node]\nunrouted = \"local\"\n").node.unrouted, Unrouted::Local);
    assert_eq!(local.words(), ["what no route takes goes to local subscribers only"]);
}

#[test]
fn a_route_that_names_uplinks_makes_readers() {
    let with = |uplinks: &str| {
        let route = format!("[[route]]\ntopics = [\"t\"]\nstream = \"s\"\nuplinks = {uplinks}\n");
        format!("{}{}[[stream]]\nname = \"s\"\n{route}", uplink("a", ""), uplink("b", ""))
    };
    let plan = between(&with("[\"a\"]"), &with("[\"b\"]"));
    assert_eq!(plan.readers, [begins("s", "b", true), begins("s", "a", false)]);
    assert_eq!(
        plan.words(),
        ["uplink \"b\" now reads stream \"s\"", "uplink \"a\" no longer reads stream \"s\""]
    );
}

#[test]
fn what_needs_a_restart_is_listed_all_at_once_by_key() {
    let running =
        "[node]\nname = \"n\"\n[[stream]]\nname = \"s\"\n[[stream]]\nname = \"t\"\nmax_age = \"1 h\"\n";
    let new = "[node]\nname = \"m\"\n[log]\nlevel = \"debug\"\n[admin]\nsocket = \"/x\"\n[session]\nsessions_max = 7\n\
               [telemetry]\nheartbeat = \"7 s\"\n[[listener]]\nkind = \"mqtt\"\nbind = \"127.0.0.1:1884\"\n[[stream]]\nname = \"t\"\nmax_age = \"2 h\"\n";
    let restart = between(running, new).restart;
    for key in [
        "node.name = \"m\": needs a restart, the node runs with \"n\"",
        "log.level",
        "admin.socket",
        "session.sessions_max = 7",
        "telemetry.heartbeat",
        "listener[0].bind = \"127.0.0.1:1884\"",
        "stream \"t\".max_age = \"2 h\"",
        "stream \"s\": is not in the file",
    ] {
        assert_eq!(restart.iter().filter(|line| line.starts_with(key)).count(), 1, "{key}: {restart:#?}");
    }
    assert_eq!(restart.len(), 8, "{restart:#?}");
    let two = "[[listener]]\nkind = \"mqtt\"\nbind = \"127.0.0.1:1\"\n[[listener]]\nkind = \"mqtt\"\nbind = \"127.0.0.1:2\"\n";
    assert_eq!(between("", two).restart, ["listener: 2 instead of 1, listeners need a restart"]);
}

#[test]
fn a_budget_changes_while_the_node_runs() {
    let with = |bytes: &str| format!("[[stream]]\nname = \"s\"\nmax_bytes = \"{bytes}\"\n");
    let plan = between(&with("8 MiB"), &with("9 MiB"));
    assert!(plan.restart.is_empty());
    assert!(
        plan.words().contains(&"stream \"s\": max_bytes \"8 MiB\" -> \"9 MiB\"".to_owned()),
        "{:?}",
        plan.words()
    );
}

prop_compose! {
    /// A file with some of three uplinks and two streams, each in one of some shapes.
    fn any_file()(
        uplinks in prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c"]), 0usize..4, 0..4),
        streams in prop::collection::btree_map(prop::sample::select(vec!["s", "t"]), (0usize..3, prop::option::of(0usize..3)), 0..3),
        heartbeat in 5u8..7,
        unrouted: bool,
    ) -> String {
        let shapes = ["", "order = \"sequence\"", "client_id = \"x\"", "tls = {}"];
        let mut text = format!(
            "[node]\nunrouted = \"{}\"\n[telemetry]\nheartbeat = \"{heartbeat} s\"\n",
            if unrouted { "default" } else { "local" },
        );
        text.extend(uplinks.iter().map(|(name, shape)| uplink(name, shapes[*shape])));
        let names: Vec<&str> = uplinks.keys().copied().collect();
        for (name, (bytes, reader)) in &streams {
            let budget = ["", "max_bytes = \"8 MiB\"", "max_bytes = \"9 MiB\""][*bytes];
            text += &format!("[[stream]]\nname = \"{name}\"\n{budget}\n[[route]]\ntopics = [\"{name}/#\"]\nstream = \"{name}\"\n");
            if let Some(reader) = reader.and_then(|reader| names.get(reader)) {
                text += &format!("uplinks = [\"{reader}\"]\n");
            }
        }
        text
    }
}

/// Every (stream, uplink) pair.
fn pairs(config: &Config) -> BTreeSet<(String, String)> {
    let of = |stream: &Stream| {
        let name = stream.name.to_string();
        let uplinks = readers(config, Some(stream)).into_iter();
        uplinks.map(move |uplink| (name.clone(), uplink.to_owned())).collect::<Vec<_>>()
    };
    config.streams.iter().flat_map(of).collect()
}

proptest! {
    /// Nothing changes unseen, and nothing is said to change that does not: but for warnings and the order of sections.
    #[test]
    fn a_plan_is_empty_if_and_only_if_nothing_changed(a in any_file(), b in any_file()) {
        let (a, b) = (config(&a), config(&b));
        prop_assert!(Plan::between(&a, &a).is_empty());
        let same = Config { warnings: Vec::new(), ..a.clone() } == Config { warnings: Vec::new(), ..b.clone() };
        prop_assert_eq!(Plan::between(&a, &b).is_empty(), same);
    }

    /// The readers of the running configuration, with the plan applied, are those of the new one.
    #[test]
    fn readers_lead_from_one_to_the_other(a in any_file(), b in any_file()) {
        let (a, b) = (config(&a), config(&b));
        let mut now = pairs(&a);
        for change in Plan::between(&a, &b).readers {
            let pair = (change.stream, change.uplink);
            let news = if change.begins { now.insert(pair) } else { now.remove(&pair) };
            prop_assert!(news);
        }
        prop_assert_eq!(now, pairs(&b));
    }

    /// And back: what begins one way stops the other way.
    #[test]
    fn the_way_back_is_the_mirror(a in any_file(), b in any_file()) {
        let (a, b) = (config(&a), config(&b));
        let turned = |plan: Plan| -> BTreeSet<(String, String, bool)> {
            plan.readers.into_iter().map(|r| (r.stream, r.uplink, r.begins)).collect()
        };
        let there = turned(Plan::between(&a, &b));
        let back: BTreeSet<_> = turned(Plan::between(&b, &a)).into_iter().map(|(s, u, b)| (s, u, !b)).collect();
        prop_assert_eq!(there, back);
    }
}
