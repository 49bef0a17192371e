//! Environment variables as a layer above the file: `EVENTMESH_EDGE_NODE_NAME` is `node.name`,
//! `EVENTMESH_EDGE_UPLINK_0_PASSWORD` is `uplink[0].password`.
//!
//! Through a trait, so that tests need no process state.

use std::collections::BTreeMap;

/// What every variable of ours starts with.
pub const PREFIX: &str = "EVENTMESH_EDGE_";

/// Where variables come from.
pub trait Environment {
    /// All variables whose name starts with [`PREFIX`].
    fn variables(&self) -> BTreeMap<String, String>;
}

/// The process's own environment. Variables that are not UTF-8 are not ours.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variables(&self) -> BTreeMap<String, String> {
        let utf8 = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        utf8.filter(|(name, _)| name.starts_with(PREFIX)).collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn variables(&self) -> BTreeMap<String, String> {
        self.iter()
            .filter(|(name, _)| name.starts_with(PREFIX))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect()
    }
}

/// The variable that overrides a key: `uplink[0].tls.ca` is `EVENTMESH_EDGE_UPLINK_0_TLS_CA`.
#[must_use]
pub fn variable_for(path: &str) -> String {
    let path = path.replace('[', "_").replace(']', "").replace('.', "_").to_ascii_uppercase();
    format!("{PREFIX}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_variable_each() {
        assert_eq!(variable_for("node.data_dir"), "EVENTMESH_EDGE_NODE_DATA_DIR");
        assert_eq!(variable_for("uplink[1].tls.ca"), "EVENTMESH_EDGE_UPLINK_1_TLS_CA");
    }
}
