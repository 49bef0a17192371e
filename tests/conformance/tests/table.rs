//! `docs/conformance/mqtt.md` cannot rot: every statement is in it, and every test that it names is there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use eventmesh_edge_conformance::table::{Row, root, rows, statements, tests};
use std::collections::{BTreeMap, BTreeSet};

fn document() -> BTreeMap<String, Vec<Row>> {
    rows(&std::fs::read_to_string(root().join("docs/conformance/mqtt.md")).unwrap())
}

#[test]
fn every_statement_of_both_standards_has_its_row() {
    let document = document();
    for (heading, count) in [("MQTT 3.1.1", 143), ("MQTT 5.0", 251)] {
        let expected = statements(heading).unwrap();
        assert_eq!(expected.len(), count, "{heading}: the list itself");
        let found: Vec<_> = document[heading].iter().map(|row| row.id.clone()).collect();
        assert_eq!(found, expected, "{heading}");
    }
}

#[test]
fn every_row_names_tests_that_exist_or_says_why_not() {
    let tests = tests();
    let mut wrong = Vec::new();
    for (heading, rows) in document() {
        for row in rows {
            if row.says.is_empty() {
                wrong.push(format!("{heading} {}: says nothing", row.id));
            }
            if row.tests.is_empty() && row.line.len() < 10 {
                wrong.push(format!("{heading} {}: neither a test nor a reason", row.id));
            }
            let missing = row.tests.iter().filter(|test| !tests.contains(*test));
            wrong.extend(missing.map(|test| format!("{heading} {}: there is no test `{test}`", row.id)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_of_this_crate_is_about_some_statement() {
    let named: BTreeSet<_> = document().into_values().flatten().flat_map(|row| row.tests).collect();
    let modules: BTreeSet<_> = std::fs::read_dir(root().join("tests/conformance/tests/mqtt"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let ours = tests().into_iter().filter(|test| modules.contains(test.split("::").next().unwrap()));
    let left: Vec<_> = ours.filter(|test| !named.contains(test)).collect();
    assert!(left.is_empty(), "not in the document: {left:#?}");
}

#[test]
fn a_row_is_read_as_it_is_written() {
    let text = "## MQTT 5.0\n| id | says | tests |\n|---|---|---|\n| 1.2.3-4 | a thing | `a::b`, `c::d` and a line |\n";
    let row = &rows(text)["MQTT 5.0"][0];
    assert_eq!((&*row.id, &*row.says), ("1.2.3-4", "a thing"));
    assert_eq!(row.tests, ["a::b", "c::d"]);
    assert_eq!(row.line, "and a line");
}
