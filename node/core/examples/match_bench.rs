//! How long it takes to find who gets a message: `cargo run --release -p eventmesh-edge-core --example match_bench`.
//!
//! 100,000 subscriptions, each with a wildcard, of as many subscribers: a site with 1,000 machines of 20 values each.
//! Options: how many subscriptions, how many publishes.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark measures real time and may stop"
)]

use eventmesh_edge_core::event::Qos;
use eventmesh_edge_core::namespace::Subscriptions;
use eventmesh_edge_core::ports::hub::SubscribeOptions;
use eventmesh_edge_core::topic::TopicFilter;
use std::time::{Duration, Instant};

const OPTIONS: SubscribeOptions = SubscribeOptions {
    qos: Qos::AtLeastOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: 0,
    identifier: 0,
};

/// Filters of the kinds that gateways see.
fn filter(n: u32) -> String {
    let (machine, value, area) = (n % 1000, n / 1000 % 20, n % 7);
    match n % 4 {
        0 => format!("site/{area}/machine-{machine}/+"),
        1 => format!("site/+/machine-{machine}/value-{value}"),
        2 => format!("site/{area}/machine-{machine}/value-{value}/#"),
        _ => format!("+/{area}/machine-{machine}/value-{value}/+"),
    }
}

/// Time on a core, whatever else the machine does.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u32>().unwrap());
    let subscriptions = numbers.next().unwrap_or(100_000);
    let publishes = numbers.next().unwrap_or(1_000_000);
    let mut index = Subscriptions::new();
    let begin = Instant::now();
    for n in 0..subscriptions {
        index.subscribe(n, &TopicFilter::parse(filter(n)).unwrap(), OPTIONS);
    }
    println!("{} subscriptions in {:?}", index.len(), begin.elapsed());
    let topics: Vec<String> = (0..10_000u32)
        .map(|n| format!("site/{}/machine-{}/value-{}", n % 7, n.wrapping_mul(7919) % 1000, n % 20))
        .collect();
    let mut found = Vec::new();
    let mut matched = 0;
    let (begin, begin_cpu) = (Instant::now(), cpu());
    for topic in topics.iter().cycle().take(publishes as usize) {
        index.matches(topic, None, |_| true, &mut found);
        matched += found.len();
        found.clear();
    }
    let each = |time: Duration| time.as_nanos() as f64 / f64::from(publishes);
    let (elapsed, cpu) = (each(begin.elapsed()), each(cpu() - begin_cpu));
    let matches = matched as f64 / f64::from(publishes);
    println!(
        "{publishes} publishes, {matches:.1} matches each: {elapsed:.0} ns, {cpu:.0} ns of CPU per publish"
    );
}
