//! `docs/conformance/coap.md` names tests that are there, and no standard without a row.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const STANDARDS: [&str; 8] =
    ["RFC 7252", "RFC 6690", "RFC 7641", "RFC 7959", "RFC 7967", "RFC 8132", "RFC 8516", "RFC 9175"];
const CRATES: [&str; 4] = ["coap", "ingress-coap", "core", "config"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Every function of a crate that stands behind a test attribute.
fn tests_of(folder: &Path, out: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_of(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(|line| line.trim_start().trim_start_matches("async ")) {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                if let Some(name) = line.strip_prefix("fn ").filter(|_| is_test) {
                    out.insert(name.split('(').next().unwrap_or_default().to_owned());
                    is_test = false;
                }
            }
        }
    }
}

#[test]
fn every_row_has_a_test_that_is_there_or_a_reason() {
    let document = fs::read_to_string(root().join("docs/conformance/coap.md")).unwrap();
    let mut known = BTreeSet::new();
    for name in CRATES {
        let mut tests = BTreeSet::new();
        tests_of(&root().join("node").join(name), &mut tests);
        known.extend(tests.into_iter().map(|test| format!("{name}::{test}")));
    }
    let mut standards = BTreeSet::new();
    let mut heading = String::new();
    for line in document.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            heading = text.to_owned();
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if !cells[0].starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        assert_eq!(cells.len(), 3, "{line}");
        standards.insert(heading.clone());
        let named: Vec<&str> =
            cells[2].split('`').skip(1).step_by(2).filter(|text| text.contains("::")).collect();
        assert!(!named.is_empty(), "neither test nor reason: {line}");
        for test in named {
            assert!(known.contains(test), "there is no test {test}: {line}");
        }
    }
    assert_eq!(standards, STANDARDS.map(str::to_owned).into());
}
