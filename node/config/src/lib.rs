//! File and environment to a checked [`Config`]: everything is checked, nothing is opened.
//!
//! Three layers, the later one wins: the defaults in the code, `node.toml`, the environment
//! ([`variable_for`] says which variable belongs to a key). A gateway is mended by remote hands, so all problems are
//! reported at once ([`Problems`]), each with the key's full path and its line, and unknown keys fail. The only file that
//! this crate reads is the configuration itself; certificates and password files are opened by whoever uses them.

mod coap;
mod convert;
mod diff;
mod environment;
mod eventmesh;
mod http;
mod model;
mod problem;
mod read;
mod resolve;
mod sections;
mod setting;
mod slots;
mod suggest;
mod summary;
mod telemetry;
mod units;

pub use diff::{KeyChange, Plan, ReaderChange, StreamChange, UplinkChange, UplinkDiff};
pub use environment::{Environment, PREFIX, ProcessEnvironment, variable_for};
pub use eventmesh::{ConsumeMode, EventMesh};
pub use http::{Http, HttpAuth, HttpAuthKind, HttpMode, HttpUrl, OAuth2, OAuthClientAuth};
pub use model::{
    Admin, Auth, AuthKind, Class, Config, Credentials, DEFAULT_STREAM, Listener, ListenerKind, ListenerTls,
    ListenerWhenFull, Log, LogFormat, LogLevel, Mode, NODE_STREAM, Node, Order, Password, RedirectWhen,
    Route, Session, Stream, StreamWhenFull, Telemetry, TlsIdentity, Unrouted, Uplink, UplinkKind, UplinkTls,
};
pub use problem::{LoadError, Problem, Problems};
pub use resolve::reserve;
pub use sections::ADMIN_SOCKET;
pub use setting::{Endpoint, Name, Secret};
pub use slots::Slots;
pub use units::{ByteSize, UnitError, parse_size, parse_time, show_time};

use read::{Outcome, Reader};
use sections::RawListener;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Largest file that is read: a configuration is not a data set, and a wrong `--config` must not fill the memory (P5).
const FILE_MAX_BYTES: u64 = 4 << 20;

/// What the command line sets above file and environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `node.data_dir`.
    pub data_dir: Option<PathBuf>,
    /// Addresses to listen on instead of the configured ones; the other settings are those of the first listener.
    pub listen: Vec<SocketAddr>,
}

impl Config {
    /// Reads and checks a configuration file, or the defaults where there is none, under the given environment.
    ///
    /// # Errors
    /// [`LoadError::Read`] if the file cannot be read, [`LoadError::Problems`] with everything that is wrong in it.
    pub fn load(
        file: Option<&Path>,
        environment: &dyn Environment,
        overrides: &Overrides,
    ) -> Result<Config, LoadError> {
        let Some(path) = file else {
            return Ok(Config::parse("", "environment", environment, overrides)?);
        };
        let name = path.display().to_string();
        let text = read_file(path).map_err(|source| LoadError::Read { path: name.clone(), source })?;
        Ok(Config::parse(&text, &name, environment, overrides)?)
    }

    /// Checks a configuration; `source_name` is what its problems are reported under.
    ///
    /// # Errors
    /// [`Problems`]: everything that is wrong.
    pub fn parse(
        text: &str,
        source_name: &str,
        environment: &dyn Environment,
        overrides: &Overrides,
    ) -> Result<Config, Problems> {
        let (config, outcome) = read(text, environment, overrides);
        if outcome.problems.is_empty() {
            return Ok(config);
        }
        let mut problems = outcome.problems;
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Err(Problems { source_name: source_name.to_owned(), problems })
    }
}

fn read_file(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read > FILE_MAX_BYTES) {
        return Err(std::io::Error::other("larger than 4 MiB, that is no configuration"));
    }
    Ok(text)
}

/// The whole way: parse, read, override, resolve, warn. The configuration is of use only without problems.
fn read(text: &str, environment: &dyn Environment, overrides: &Overrides) -> (Config, Outcome) {
    let variables = environment.variables();
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader::new(text, &variables);
    reader.syntax_errors(syntax_errors);
    let mut raw = reader.root(document.get_ref(), sections::root);
    let mut outcome = reader.finish();
    overrides.apply(&mut raw, &outcome);
    let (mut config, problems) = resolve::resolve(raw);
    outcome.add(problems);
    config.warnings = resolve::warnings(&config);
    // Not a problem: Kubernetes sets variables like EVENTMESH_EDGE_SERVICE_HOST for a service that is named after us.
    let unused = outcome.unused_variables.iter();
    config.warnings.extend(unused.map(|name| format!("environment variable {name} belongs to no key")));
    (config, outcome)
}

impl Overrides {
    fn apply(&self, raw: &mut sections::Raw, outcome: &Outcome) {
        if let Some(data_dir) = &self.data_dir {
            if !outcome.is_given("admin.socket") {
                raw.admin.socket = data_dir.join(ADMIN_SOCKET);
            }
            raw.node.data_dir.clone_from(data_dir);
        }
        if let (false, Some(first)) = (self.listen.is_empty(), raw.listeners.first().cloned()) {
            let at = |bind: &SocketAddr| {
                let listener = Listener { bind: *bind, ..first.listener.clone() };
                RawListener { listener, ..first.clone() }
            };
            raw.listeners = self.listen.iter().map(at).collect();
        }
    }
}

#[cfg(test)]
mod docs_tests;
#[cfg(test)]
mod tests;
