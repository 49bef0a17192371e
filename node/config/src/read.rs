//! Walks the parsed file section by section, with the environment laid over it, and collects every problem.
//!
//! serde would stop at the first problem and forget where it was; this walker asks each section for the keys it may
//! have, remembers which were asked for (so the rest is unknown) and what their defaults are (so that the sample file
//! can be checked against the code).

use crate::environment::variable_for;
use crate::problem::Problem;
use crate::setting::Setting;
use crate::suggest::nearest;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A key that the reader asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// `uplink[0].name`.
    pub(crate) path: String,
    /// As it would be written in the file; `None` if there is no default.
    pub(crate) default: Option<String>,
    /// What was given, in the same notation.
    pub(crate) given: Option<String>,
}

/// The whole walk.
pub(crate) struct Reader<'a> {
    text: &'a str,
    variables: &'a BTreeMap<String, String>,
    used_variables: BTreeSet<String>,
    lines: BTreeMap<String, usize>,
    problems: Vec<Problem>,
    known: Vec<Known>,
    /// After a syntax error what is missing may just not have been understood.
    partial: bool,
}

/// What the walk found.
pub(crate) struct Outcome {
    pub(crate) problems: Vec<Problem>,
    pub(crate) known: Vec<Known>,
    pub(crate) unused_variables: Vec<String>,
    pub(crate) lines: BTreeMap<String, usize>,
}

impl Outcome {
    /// Whether a key was set by file or environment.
    pub(crate) fn is_given(&self, path: &str) -> bool {
        self.known.iter().any(|known| known.path == path && known.given.is_some())
    }

    /// Adds problems found later, with the lines of their keys, or of their sections where the key is what is missing.
    pub(crate) fn add(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
        for problem in &mut self.problems {
            if problem.line.is_none() {
                let path = problem.path();
                let section = path.rsplit_once('.').map(|(section, _)| section);
                let line = self.lines.get(path).or_else(|| self.lines.get(section?));
                problem.line = line.copied();
            }
        }
    }
}

type Table<'a> = Option<&'a DeTable<'a>>;

/// One table being read.
pub(crate) struct Section<'r, 'a> {
    reader: &'r mut Reader<'a>,
    table: Table<'a>,
    path: String,
    asked: Vec<&'static str>,
    /// Required, not there; with an example.
    missing: Vec<(&'static str, String)>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str, variables: &'a BTreeMap<String, String>) -> Reader<'a> {
        Reader {
            text,
            variables,
            used_variables: BTreeSet::new(),
            lines: BTreeMap::new(),
            problems: Vec::new(),
            known: Vec::new(),
            partial: false,
        }
    }

    /// Notes what the parser itself did not understand.
    pub(crate) fn syntax_errors(&mut self, errors: Vec<toml::de::Error>) {
        self.partial |= !errors.is_empty();
        for error in errors {
            let line = error.span().map(|span| self.line_at(span.start));
            // One line is one mistake: the parser tends to stumble on over the rest of it.
            if line.is_none() || self.problems.last().is_none_or(|p| p.line != line) {
                self.problems.push(Problem { line, key: String::new(), what: error.message().to_owned() });
            }
        }
    }

    /// Reads the file's outermost table.
    pub(crate) fn root<T>(
        &mut self,
        table: &'a DeTable<'a>,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        self.section(Some(table), String::new(), read)
    }

    pub(crate) fn finish(self) -> Outcome {
        let used = &self.used_variables;
        let unused_variables = self.variables.keys().filter(|name| !used.contains(*name)).cloned().collect();
        Outcome { problems: self.problems, known: self.known, unused_variables, lines: self.lines }
    }

    fn section<T>(
        &mut self,
        table: Table<'a>,
        path: String,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        let mut section = Section { reader: self, table, path, asked: Vec::new(), missing: Vec::new() };
        let value = read(&mut section);
        section.refuse_the_rest();
        value
    }

    fn line_at(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
    }

    fn has_variable_below(&self, path: &str) -> bool {
        let prefix = variable_for(path) + "_";
        self.variables.keys().any(|name| name.starts_with(&prefix))
    }
}

impl<'a> Section<'_, 'a> {
    /// A key that has a default.
    pub(crate) fn value<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.read(key, Some(default.show())).unwrap_or(default)
    }

    /// A number, size or time that has a default and limits.
    pub(crate) fn bounded<T: Setting + PartialOrd + Clone>(
        &mut self,
        key: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        let value = self.value(key, default.clone());
        if range.contains(&value) {
            return value;
        }
        let what = format!("must be between {} and {}", range.start().show(), range.end().show());
        self.problem_with(key, &value.show(), what);
        default
    }

    /// A key that may be missing.
    pub(crate) fn optional<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.read(key, None)
    }

    /// A key that must be there.
    pub(crate) fn required<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let before = self.reader.problems.len();
        let value = self.read(key, None);
        let reported = self.reader.problems.len() > before;
        if value.is_none() && !reported && !self.reader.partial {
            self.missing.push((key, T::example()));
        }
        value
    }

    /// A table that always counts as being there.
    pub(crate) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, 'a>) -> T) -> T {
        let table = self.find(key).and_then(|value| self.as_table(key, value));
        let path = self.path_of(key);
        self.reader.section(table, path, read)
    }

    /// A table that says something by being there.
    pub(crate) fn optional_table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> Option<T> {
        let given = self.find(key);
        let path = self.path_of(key);
        if given.is_none() && !self.reader.has_variable_below(&path) {
            return None;
        }
        let table = given.and_then(|value| self.as_table(key, value));
        Some(self.reader.section(table, path, read))
    }

    /// A list of tables, `[[key]]`; `None` if there is none at all. Variables may add entries behind the file's.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        implied: usize,
        mut read: impl FnMut(&mut Section<'_, 'a>) -> T,
    ) -> Vec<T> {
        let given = self.entries(key);
        let mut items = Vec::new();
        loop {
            let index = items.len();
            let path = format!("{}[{index}]", self.path_of(key));
            let table = match &given {
                Some(entries) => entries.get(index).copied(),
                None => (index < implied).then_some(None),
            };
            let Some(table) = table.or_else(|| self.reader.has_variable_below(&path).then_some(None)) else {
                return items;
            };
            items.push(self.reader.section(table, path, &mut read));
        }
    }

    /// Whether the file or the environment has the key, whatever its value is worth.
    pub(crate) fn is_stated(&self, key: &str) -> bool {
        let in_file = self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref() == key));
        in_file || self.reader.variables.contains_key(&variable_for(&self.path_of(key)))
    }

    /// Adds a problem of this table's own.
    pub(crate) fn problem(&mut self, key: &str, what: impl Into<String>) {
        let key = self.path_of(key);
        self.reader.problems.push(Problem::of(key, what));
    }

    fn problem_with(&mut self, key: &str, shown: &str, what: String) {
        let key = format!("{} = {shown}", self.path_of(key));
        self.reader.problems.push(Problem::of(key, what));
    }

    fn entries(&mut self, key: &'static str) -> Option<Vec<Table<'a>>> {
        let value = self.find(key)?;
        let path = self.path_of(key);
        let DeValue::Array(array) = value.get_ref() else {
            self.problem(key, format!("is a list: write [[{path}]] with two brackets"));
            return Some(Vec::new());
        };
        let mut tables = Vec::new();
        for (index, entry) in array.iter().enumerate() {
            let line = self.reader.line_at(entry.span().start);
            self.reader.lines.insert(format!("{path}[{index}]"), line);
            match entry.get_ref() {
                DeValue::Table(table) => tables.push(Some(table)),
                _ => self.problem(key, format!("is a list of tables: write [[{path}]] and its keys below")),
            }
        }
        Some(tables)
    }

    fn as_table(&mut self, key: &'static str, value: &'a Spanned<DeValue<'a>>) -> Table<'a> {
        let path = self.path_of(key);
        match value.get_ref() {
            DeValue::Table(table) => return Some(table),
            DeValue::Array(_) => self.problem(key, format!("is one table: write [{path}] with one bracket")),
            _ => self.problem(key, format!("is a table: write {key} = {{ … }} or [{path}]")),
        }
        None
    }

    /// The key's entry in the file; from now on the key is known, and so is its line.
    fn find(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        let line = self.reader.line_at(name.span().start);
        self.reader.lines.insert(self.path_of(key), line);
        Some(value)
    }

    fn read<T: Setting>(&mut self, key: &'static str, default: Option<String>) -> Option<T> {
        let in_file = self.find(key);
        let path = self.path_of(key);
        let variable = variable_for(&path);
        let value = match self.reader.variables.get(&variable) {
            Some(text) => {
                self.reader.used_variables.insert(variable.clone());
                from_variable::<T>(text)
                    .map(Some)
                    .map_err(|what| Problem::of(variable, format!("{path}: {what}")))
            }
            None => match in_file {
                Some(value) => T::read(value.get_ref())
                    .map(Some)
                    .map_err(|what| Problem::of(self.quoted::<T>(&path, value), what)),
                None => Ok(None),
            },
        };
        let value = value.unwrap_or_else(|problem| {
            self.reader.problems.push(problem);
            None
        });
        let given = value.as_ref().map(Setting::show);
        self.reader.known.push(Known { path, default, given });
        value
    }

    /// The key with what was given, for the message; never a secret, never more than fits a line (P7).
    fn quoted<T: Setting>(&self, path: &str, value: &Spanned<DeValue<'_>>) -> String {
        let text = self.reader.text.get(value.span()).unwrap_or_default();
        let first_line = text.lines().next().unwrap_or_default();
        if T::SECRET || first_line.is_empty() {
            return path.to_owned();
        }
        let short: String = first_line.chars().take(60).collect();
        let dots = if short.len() < text.len() { "…" } else { "" };
        format!("{path} = {short}{dots}")
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Ends the section: what was not asked for is unknown, what was not found is missing. A mistyped key is both, and
    /// reported once.
    fn refuse_the_rest(self) {
        let Section { reader, table, path, asked, mut missing } = self;
        let path_of = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        for (name, _) in table.into_iter().flatten() {
            let typed: &str = name.get_ref();
            if asked.contains(&typed) {
                continue;
            }
            let meant = nearest(typed, asked.iter().copied());
            missing.retain(|(key, _)| Some(*key) != meant);
            let what = unknown(meant, &asked, if path.is_empty() { "section" } else { "key" });
            let line = Some(reader.line_at(name.span().start));
            reader.problems.push(Problem { line, key: path_of(typed), what });
        }
        let line = reader.lines.get(&path).copied();
        reader.problems.extend(missing.into_iter().map(|(key, example)| {
            let what = format!("missing, write for example {key} = {example}");
            Problem { line, key: path_of(key), what }
        }));
    }
}

fn unknown(meant: Option<&str>, asked: &[&'static str], noun: &str) -> String {
    match meant {
        Some(meant) => format!("unknown {noun}, did you mean \"{meant}\"?"),
        None => format!("unknown {noun}, known here are {}", asked.join(", ")),
    }
}

/// A variable holds the bare text of a string, or any other value as TOML: `EVENTMESH_EDGE_NODE_NAME=plant-7`,
/// `EVENTMESH_EDGE_UPLINK_0_ADDRESSES=["a:1883", "b:1883"]`.
fn from_variable<T: Setting>(text: &str) -> Result<T, String> {
    let as_text = T::read(&DeValue::String(text.into()));
    as_text.or_else(|what| match DeValue::parse(text) {
        Ok(value) => T::read(value.get_ref()),
        Err(_) => Err(what),
    })
}
