//! What is wrong with a configuration, in the words of whoever wrote it: all of it at once, with key and line.

use std::fmt;

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; `None` if it is not in the file (missing, or from the environment).
    pub line: Option<usize>,
    /// The key's full path as written, with its value unless that is a secret: `uplink[0].addresses = "x"`. Empty for a
    /// problem of the whole file.
    pub key: String,
    /// What is wrong and what would be right.
    pub what: String,
}

impl Problem {
    /// A problem of a key whose line is looked up by the reader.
    pub(crate) fn of(key: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem { line: None, key: key.into(), what: what.into() }
    }

    /// The path alone, without the value.
    pub(crate) fn path(&self) -> &str {
        self.key.split(" = ").next().unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// Everything that is wrong, never empty. Displays as one line per problem: `node.toml:12: uplink[0].adress: unknown …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// What the lines start with: the file's name, or `environment` where there is no file.
    pub source_name: String,
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.source_name)?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("read {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It was read and is wrong.
    #[error(transparent)]
    Problems(#[from] Problems),
}
