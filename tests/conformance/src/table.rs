//! `docs/conformance/mqtt.md`: its rows, the statements that there are, the test functions that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Sections with the numbers of their statements.
type List = &'static [(&'static str, RangeInclusive<u32>)];

/// MQTT 3.1.1, OASIS Standard of 29 October 2014, appendix B.
const V311: List = &[
    ("1.5.3", 1..=3),
    ("2.2.2", 1..=2),
    ("2.3.1", 1..=7),
    ("3.1.0", 1..=2),
    ("3.1.2", 1..=24),
    ("3.1.3", 1..=11),
    ("3.1.4", 1..=5),
    ("3.2.0", 1..=1),
    ("3.2.2", 1..=6),
    ("3.3.1", 1..=12),
    ("3.3.2", 1..=3),
    ("3.3.4", 1..=1),
    ("3.3.5", 1..=2),
    ("3.6.1", 1..=1),
    ("3.8.1", 1..=1),
    ("3.8.3", 1..=4),
    ("3.8.4", 1..=6),
    ("3.9.3", 1..=2),
    ("3.10.1", 1..=1),
    ("3.10.3", 1..=2),
    ("3.10.4", 1..=6),
    ("3.12.4", 1..=1),
    ("3.14.1", 1..=1),
    ("3.14.4", 1..=3),
    ("4.1.0", 1..=2),
    ("4.3.1", 1..=1),
    ("4.3.2", 1..=2),
    ("4.3.3", 1..=2),
    ("4.4.0", 1..=1),
    ("4.5.0", 1..=2),
    ("4.6.0", 1..=6),
    ("4.7.1", 1..=3),
    ("4.7.2", 1..=1),
    ("4.7.3", 1..=4),
    ("4.8.0", 1..=2),
    ("6.0.0", 1..=4),
    ("7.0.0", 1..=2),
    ("7.1.1", 1..=2),
    ("7.1.2", 1..=2),
];

/// MQTT 5.0, OASIS Standard of 7 March 2019, appendix B.
const V5: List = &[
    ("1.5.4", 1..=3),
    ("1.5.5", 1..=1),
    ("1.5.7", 1..=1),
    ("2.1.3", 1..=1),
    ("2.2.1", 2..=6),
    ("2.2.2", 1..=1),
    ("3.1.0", 1..=2),
    ("3.1.2", 1..=30),
    ("3.1.3", 1..=12),
    ("3.1.4", 1..=6),
    ("3.2.0", 1..=2),
    ("3.2.2", 1..=22),
    ("3.3.1", 1..=13),
    ("3.3.2", 1..=20),
    ("3.3.4", 1..=10),
    ("3.4.2", 1..=3),
    ("3.5.2", 1..=3),
    ("3.6.1", 1..=1),
    ("3.6.2", 1..=3),
    ("3.7.2", 1..=3),
    ("3.8.1", 1..=1),
    ("3.8.3", 1..=5),
    ("3.8.4", 1..=8),
    ("3.9.2", 1..=2),
    ("3.9.3", 1..=2),
    ("3.10.1", 1..=1),
    ("3.10.3", 1..=2),
    ("3.10.4", 1..=6),
    ("3.11.2", 1..=2),
    ("3.11.3", 1..=2),
    ("3.12.4", 1..=1),
    ("3.14.0", 1..=1),
    ("3.14.1", 1..=1),
    ("3.14.2", 1..=4),
    ("3.14.4", 1..=3),
    ("3.15.1", 1..=1),
    ("3.15.2", 1..=3),
    ("4.1.0", 1..=2),
    ("4.2.0", 1..=1),
    ("4.3.1", 1..=1),
    ("4.3.2", 1..=5),
    ("4.3.3", 1..=13),
    ("4.4.0", 1..=2),
    ("4.5.0", 1..=2),
    ("4.6.0", 1..=6),
    ("4.7.0", 1..=1),
    ("4.7.1", 1..=2),
    ("4.7.2", 1..=1),
    ("4.7.3", 1..=4),
    ("4.8.2", 1..=6),
    ("4.9.0", 1..=3),
    ("4.12.0", 1..=7),
    ("4.12.1", 1..=2),
    ("4.13.1", 1..=1),
    ("4.13.2", 1..=1),
    ("6.0.0", 1..=4),
];

fn expand(list: List) -> Vec<String> {
    list.iter()
        .flat_map(|(section, numbers)| numbers.clone().map(move |n| format!("{section}-{n}")))
        .collect()
}

/// All statements of the standard that a heading of the document names, in order.
#[must_use]
pub fn statements(heading: &str) -> Option<Vec<String>> {
    match heading {
        "MQTT 3.1.1" => Some(expand(V311)),
        "MQTT 5.0" => Some(expand(V5)),
        _ => None,
    }
}

/// A row: the statement, what it says, its tests, and a line beside or instead of them.
#[derive(Clone, Debug)]
pub struct Row {
    /// Number without `MQTT-`, or a subject.
    pub id: String,
    /// What it says, in short.
    pub says: String,
    /// `module::test`.
    pub tests: Vec<String>,
    /// The rest of the last column.
    pub line: String,
}

/// The document's tables by their headings.
#[must_use]
pub fn rows(document: &str) -> BTreeMap<String, Vec<Row>> {
    let mut out: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let mut heading = String::new();
    for line in document.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            heading = text.trim().to_owned();
        }
        if let Some(cells) = line.strip_prefix("| ") {
            let cells: Vec<_> = cells.trim_end_matches('|').split(" | ").map(str::trim).collect();
            let is_head = |id: &str| matches!(id, "statement" | "subject" | "id");
            if let [id, says, rest] = cells[..]
                && !is_head(id)
            {
                out.entry(heading.clone()).or_default().push(row(id, says, rest));
            }
        }
    }
    out
}

fn row(id: &str, says: &str, rest: &str) -> Row {
    let quoted = |(index, text): (usize, &str)| (index % 2 == 1).then(|| text.to_owned());
    let tests = rest.split('`').enumerate().filter_map(quoted).filter(|text| text.contains("::")).collect();
    let line = rest.split('`').step_by(2).collect::<String>();
    let line = line.trim_matches([',', ' ']).to_owned();
    Row { id: id.to_owned(), says: says.to_owned(), tests, line }
}

/// The folder of the workspace.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Every test function: `module::name` for those of `tests/mqtt`, `folder::name` for those of the node's crates and the
/// end-to-end tests (`ingress-mqtt::name`, `e2e::name`).
#[must_use]
pub fn tests() -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for file in sources(&root().join("tests/conformance/tests/mqtt")) {
        let module = file.file_stem().unwrap().to_string_lossy().into_owned();
        out.extend(names(&file).map(|name| format!("{module}::{name}")));
    }
    for folder in ["node/ingress-mqtt", "node/core", "node/runtime", "node/uplink-mqtt", "tests/e2e"] {
        let folder = root().join(folder);
        let name_of = folder.file_name().unwrap().to_string_lossy().into_owned();
        for file in sources(&folder) {
            out.extend(names(&file).map(|name| format!("{name_of}::{name}")));
        }
    }
    out
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
    out
}

/// Functions behind a test attribute; between the two there may be others.
fn names(file: &Path) -> impl Iterator<Item = String> + use<> {
    let text = fs::read_to_string(file).unwrap();
    let mut out = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        let signature = line.trim_start_matches("async ");
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(rest) = signature.strip_prefix("fn ") {
            // In `proptest!` the attribute stands there, too.
            let name = rest.split('(').next().unwrap_or_default();
            if std::mem::take(&mut is_test) {
                out.push(name.to_owned());
            }
        }
    }
    out.into_iter()
}
