//! The configurations of `docs/uplinks.md`: each one loads, and what is called full is.

use crate::{Config, Overrides, UplinkKind, read};
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../../docs/uplinks.md");

/// Secrets that stand beside their file, and the credentials of the other kinds of `auth`.
const ALTERNATIVES: [&str; 6] =
    [".password", ".password_file", ".client_secret", ".token", ".token_file", ".username"];

/// Each TOML block, with the line of text above it.
fn blocks() -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut above = "";
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        if line == "```toml" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((above.to_owned(), block.join("\n")));
        } else if !line.is_empty() {
            above = line;
        }
    }
    blocks
}

#[test]
fn every_configuration_on_the_page_loads_without_a_warning() {
    let mut minimal = Vec::new();
    for (above, text) in blocks() {
        let parsed = Config::parse(&text, "docs/uplinks.md", &BTreeMap::new(), &Overrides::default());
        let config = parsed.unwrap_or_else(|problems| panic!("{above}\n{problems}"));
        assert!(config.warnings.is_empty(), "{above} {:?}", config.warnings);
        if above.starts_with("Minimal") {
            minimal.extend(config.uplinks.iter().map(|uplink| uplink.kind));
        }
    }
    let kinds = [UplinkKind::Mqtt, UplinkKind::Http, UplinkKind::EventMesh];
    assert!(kinds.iter().all(|kind| minimal.contains(kind)), "{minimal:?}");
}

#[test]
fn a_full_configuration_leaves_no_key_out() {
    let mut full = 0;
    for (_, text) in blocks().iter().filter(|(above, _)| above.starts_with("Full")) {
        full += 1;
        let (_, outcome) = read(text, &BTreeMap::new(), &Overrides::default());
        let left_out = |key: &&crate::read::Known| key.path.starts_with("uplink[0].") && key.given.is_none();
        for known in outcome.known.iter().filter(left_out) {
            let alternative = ALTERNATIVES.iter().any(|end| known.path.ends_with(end));
            assert!(alternative, "{} is left out of a configuration that is called full", known.path);
        }
    }
    assert!(full >= 3);
}
