use super::{Match, Subscriptions};
use crate::event::Qos;
use crate::ports::hub::SubscribeOptions;
use crate::topic::TopicFilter;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const OPTIONS: SubscribeOptions = SubscribeOptions {
    qos: Qos::AtLeastOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: 0,
    identifier: 0,
};

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text.to_owned()).unwrap()
}

fn matches(index: &mut Subscriptions<u32>, topic: &str) -> Vec<Match<u32>> {
    let mut out = Vec::new();
    index.matches(topic, None, |_| true, &mut out);
    out
}

fn who(index: &mut Subscriptions<u32>, topic: &str) -> Vec<u32> {
    matches(index, topic).into_iter().map(|m| m.subscriber).collect()
}

#[test]
fn overlapping_subscriptions_make_one_match_with_the_highest_qos_and_all_identifiers() {
    let mut index = Subscriptions::new();
    let with = |qos, identifier, retain_as_published| SubscribeOptions {
        qos,
        identifier,
        retain_as_published,
        ..OPTIONS
    };
    assert!(index.subscribe(1, &filter("a/+"), with(Qos::AtMostOnce, 7, false)));
    assert!(index.subscribe(1, &filter("a/#"), with(Qos::ExactlyOnce, 8, true)));
    assert!(index.subscribe(1, &filter("a/b"), with(Qos::AtLeastOnce, 0, false)));
    let found = matches(&mut index, "a/b");
    assert_eq!(found.len(), 1, "{found:?}");
    let mut identifiers = found[0].identifiers.clone();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [7, 8]);
    assert_eq!((found[0].granted, found[0].retain_as_published), (Qos::ExactlyOnce, true));
}

#[test]
fn subscribing_again_replaces_the_options() {
    let mut index = Subscriptions::new();
    assert!(index.subscribe(1, &filter("a"), OPTIONS));
    assert!(!index.subscribe(1, &filter("a"), SubscribeOptions { qos: Qos::ExactlyOnce, ..OPTIONS }));
    assert_eq!(matches(&mut index, "a")[0].granted, Qos::ExactlyOnce);
    assert_eq!(index.len(), 1);
}

#[test]
fn no_local_keeps_a_publisher_from_hearing_itself() {
    let mut index = Subscriptions::new();
    let no_local = SubscribeOptions { no_local: true, ..OPTIONS };
    index.subscribe(1, &filter("a/#"), no_local);
    index.subscribe(2, &filter("a/#"), no_local);
    let mut out = Vec::new();
    index.matches("a/b", Some(1), |_| true, &mut out);
    assert_eq!(out.iter().map(|m| m.subscriber).collect::<Vec<_>>(), [2]);
    // Another of its subscriptions asks for it after all.
    index.subscribe(1, &filter("a/b"), OPTIONS);
    index.matches("a/b", Some(1), |_| true, &mut out);
    assert_eq!(out.iter().map(|m| m.subscriber).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_shared_subscription_serves_its_members_in_turn() {
    let mut index = Subscriptions::new();
    for member in 1..=3 {
        index.subscribe(member, &filter("$share/g/jobs/+"), OPTIONS);
    }
    index.subscribe(9, &filter("$share/other/jobs/#"), OPTIONS);
    let mut counts = BTreeMap::new();
    for _ in 0..30 {
        let found = matches(&mut index, "jobs/1");
        assert_eq!(found.len(), 2, "one of each group: {found:?}");
        for m in found {
            assert!(m.shared);
            *counts.entry(m.subscriber).or_insert(0) += 1;
        }
    }
    assert_eq!(counts, BTreeMap::from([(1, 10), (2, 10), (3, 10), (9, 30)]));
}

#[test]
fn members_that_are_connected_go_first() {
    let mut index = Subscriptions::new();
    for member in 1..=4 {
        index.subscribe(member, &filter("$share/g/a"), OPTIONS);
    }
    let mut turn = |connected: fn(u32) -> bool| {
        let mut out = Vec::new();
        index.matches("a", None, connected, &mut out);
        out[0].subscriber
    };
    let even: Vec<u32> = (0..4).map(|_| turn(|s| s % 2 == 0)).collect();
    assert_eq!(even, [2, 4, 2, 4]);
    let nobody: BTreeSet<u32> = (0..4).map(|_| turn(|_| false)).collect();
    assert_eq!(nobody, BTreeSet::from([1, 2, 3, 4]), "all get their turn while nobody is connected");
}

#[test]
fn shared_and_plain_subscriptions_of_one_subscriber_make_one_match() {
    let mut index = Subscriptions::new();
    index.subscribe(1, &filter("$share/g/a"), OPTIONS);
    index.subscribe(1, &filter("a"), OPTIONS);
    let found = matches(&mut index, "a");
    assert_eq!(found.len(), 1);
    assert!(!found[0].shared);
    assert!(index.unsubscribe(1, &filter("$share/g/a")));
    assert!(!index.unsubscribe(1, &filter("$share/g/a")));
    assert_eq!(who(&mut index, "a"), [1]);
}

#[test]
fn dollar_topics_are_found_by_name_only() {
    let mut index = Subscriptions::new();
    for (subscriber, f) in [(1, "#"), (2, "+/x"), (3, "$SYS/#"), (4, "$SYS/+"), (5, "$SYS/x")] {
        index.subscribe(subscriber, &filter(f), OPTIONS);
    }
    assert_eq!(who(&mut index, "$SYS/x"), [3, 4, 5]);
    assert_eq!(who(&mut index, "a/x"), [1, 2]);
    assert_eq!(who(&mut index, "$SYS"), [3]);
}

#[test]
fn a_filter_of_thousands_of_levels_is_walked_without_recursion() {
    let mut index = Subscriptions::new();
    let deep = "+/".repeat(30_000) + "#";
    index.subscribe(1, &filter(&deep), OPTIONS);
    assert_eq!(who(&mut index, &"/".repeat(30_000)), [1]);
    index.remove(1);
    assert_eq!(index.parts(), (0, 1, 0));
}

#[derive(Clone, Debug)]
enum Op {
    Subscribe(u32, String, u8),
    Unsubscribe(u32, String),
    Remove(u32),
    Publish(String),
}

fn any_filter() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "((a|b|é|\\+|)/){0,3}(a|b|#|\\+)",
        1 => "\\$S/(a|#|\\+)",
        1 => "\\$share/(g|h)/((a|\\+)/){0,2}(a|#)",
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0u32..6, any_filter(), 0u8..3).prop_map(|(s, f, q)| Op::Subscribe(s, f, q)),
        3 => (0u32..6, any_filter()).prop_map(|(s, f)| Op::Unsubscribe(s, f)),
        1 => (0u32..6).prop_map(Op::Remove),
        5 => "((a|b|é|\\$S|)/){0,3}(a|b|c)".prop_map(Op::Publish),
    ]
}

/// The same as a list that is searched from end to end.
#[derive(Default)]
struct Model(BTreeMap<(u32, String), Qos>);

impl Model {
    fn matching<'a>(
        &'a self,
        topic: &'a str,
        shared: bool,
    ) -> impl Iterator<Item = (&'a (u32, String), &'a Qos)> {
        self.0.iter().filter(move |((_, f), _)| {
            let f = filter(f);
            f.share().is_some() == shared && f.matches(topic)
        })
    }

    fn check(&self, topic: &str, found: &[Match<u32>]) -> Result<(), TestCaseError> {
        let mut plain: BTreeMap<u32, Qos> = BTreeMap::new();
        for ((subscriber, _), qos) in self.matching(topic, false) {
            let best = plain.entry(*subscriber).or_insert(*qos);
            *best = (*best).max(*qos);
        }
        let unique: BTreeSet<u32> = found.iter().map(|m| m.subscriber).collect();
        prop_assert_eq!(unique.len(), found.len(), "a subscriber is matched once");
        let seen: BTreeSet<u32> = found.iter().filter(|m| !m.shared).map(|m| m.subscriber).collect();
        prop_assert_eq!(seen, plain.keys().copied().collect::<BTreeSet<_>>());
        for m in found.iter().filter(|m| !m.shared) {
            prop_assert!(m.granted >= plain[&m.subscriber]);
        }
        let mut groups: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for ((subscriber, f), _) in self.matching(topic, true) {
            groups.entry(f).or_default().insert(*subscriber);
        }
        for members in groups.values() {
            prop_assert!(!members.is_disjoint(&unique), "somebody of each group: {:?}", members);
        }
        let only_shared: Vec<_> = found.iter().filter(|m| m.shared).collect();
        prop_assert!(only_shared.len() <= groups.len());
        for m in only_shared {
            prop_assert!(groups.values().any(|members| members.contains(&m.subscriber)));
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn the_index_agrees_with_every_filter_asked_in_turn(ops in prop::collection::vec(any_op(), 0..60)) {
        let (mut index, mut model) = (Subscriptions::new(), Model::default());
        for op in ops {
            match op {
                Op::Subscribe(s, f, q) => {
                    let qos = Qos::from_u8(q).unwrap();
                    let new = index.subscribe(s, &filter(&f), SubscribeOptions { qos, ..OPTIONS });
                    prop_assert_eq!(new, model.0.insert((s, f), qos).is_none());
                }
                Op::Unsubscribe(s, f) => {
                    prop_assert_eq!(index.unsubscribe(s, &filter(&f)), model.0.remove(&(s, f)).is_some());
                }
                Op::Remove(s) => {
                    index.remove(s);
                    model.0.retain(|(who, _), _| *who != s);
                }
                Op::Publish(topic) => model.check(&topic, &matches(&mut index, &topic))?,
            }
            prop_assert_eq!(index.len(), model.0.len());
        }
        for s in 0..6 {
            index.remove(s);
        }
        prop_assert_eq!(index.parts(), (0, 1, 0), "nothing is left behind");
    }
}
