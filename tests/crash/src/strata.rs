//! Which part of the store an operation belongs to: what the cuts are spread over, and what kind of sync a sync is.

use crate::trace::{Moment, Node, Op, ROOT, Trace};
use std::collections::{HashMap, HashSet};

/// A part of the store's work.
pub type Stratum = &'static str;

/// A kind of operation.
pub type Kind = &'static str;

/// A kind of sync: where in the code it is called.
pub type SyncKind = &'static str;

/// The syncs of its log that sled calls itself. Nothing may rest on them: they do nothing in the sweeps. Those of its
/// snapshots count: it writes one at an open for reading, too, when no sync of ours follows.
pub const SLED: SyncKind = "sled's own, of db";
const SLED_SNAPSHOT: SyncKind = "sled's own, of a snapshot";

/// What kind of operation an operation is.
#[must_use]
pub fn kind_of(op: &Op) -> Kind {
    match op {
        Op::Link { is_dir: true, .. } => "mkdir",
        Op::Link { .. } => "create",
        Op::Unlink { .. } => "remove",
        Op::Rename { .. } => "rename",
        Op::Write { .. } => "write",
        Op::SetLen { .. } => "resize",
        Op::Sync { .. } => "sync",
        Op::SyncRange { .. } => "sync_file_range",
    }
}

/// What a cut after the given moment falls into: a part of the store's work, and a kind of operation.
#[must_use]
pub fn cell(trace: &Trace, strata: &[Stratum], moment: &Moment) -> (Stratum, Kind) {
    match moment {
        Moment::Begin(step) | Moment::End(step) | Moment::Never(step) => {
            let stratum = strata.get(*step).copied().unwrap_or("other");
            (stratum, trace.steps.get(*step).map_or("other", |step| kind_of(&step.op)))
        }
        Moment::Mark(_) => ("answers", "answer"),
        Moment::Life => ("ends of lives", "end"),
    }
}

/// The stratum of every step.
#[must_use]
pub fn strata(trace: &Trace) -> Vec<Stratum> {
    let mut roles = HashMap::new();
    trace.steps.iter().map(|step| stratum(&step.op, &step.path, &mut roles)).collect()
}

/// The kind of every step that is a sync; `None` for the others, and for what only stands for a directory that was there.
#[must_use]
pub fn sync_kinds(trace: &Trace) -> Vec<Option<SyncKind>> {
    let mut roles = HashMap::new();
    let mut last_name: HashMap<Node, &'static str> = HashMap::new();
    let mut dirs = HashSet::from([ROOT]);
    let mut kinds = Vec::new();
    for (index, step) in trace.steps.iter().enumerate() {
        let stratum = stratum(&step.op, &step.path, &mut roles);
        match &step.op {
            Op::Link { dir, node, is_dir, .. } => {
                if *is_dir {
                    dirs.insert(*node);
                }
                last_name.insert(*dir, name_kind(&step.op, &step.path));
            }
            Op::Unlink { dir, .. } => {
                last_name.insert(*dir, name_kind(&step.op, &step.path));
            }
            Op::Rename { from, to, .. } => {
                for dir in [from, to] {
                    last_name.insert(*dir, name_kind(&step.op, &step.path));
                }
            }
            _ => {}
        }
        kinds.push(match &step.op {
            _ if index < trace.adopted => None,
            Op::Sync { node, .. } if dirs.contains(node) => {
                Some(dir_sync(&step.path, stratum, last_name.get(node).copied()))
            }
            Op::Sync { data_only, .. } => Some(file_sync(&step.path, *data_only, stratum)),
            _ => None,
        });
    }
    kinds
}

/// What the bytes of a journal segment are that were written last.
type Roles = HashMap<Node, Stratum>;

fn stratum(op: &Op, path: &str, roles: &mut Roles) -> Stratum {
    let top = path.split('/').next().unwrap_or(path);
    match top {
        "journal" if path.ends_with("/reserve") || path.ends_with("/ballast") => "journal: reserve",
        "journal" => journal(op, roles),
        "meta-a" | "meta-b" => "epoch",
        "format" | ".format.new" => "format",
        "lock" => "lock",
        "quarantine" => "quarantine",
        "generations" => generation(op, path),
        "" => "data directory",
        _ if top.ends_with(".proof") || top.ends_with(".new") => "views: proof",
        _ if top.ends_with(".filling") => "views: filling",
        _ if top.starts_with("views-") => match op {
            Op::Unlink { .. } => "views: removal",
            _ => "views: in place",
        },
        _ => "other",
    }
}

fn journal(op: &Op, roles: &mut Roles) -> Stratum {
    match op {
        Op::Link { .. } => "journal: prepare",
        Op::Rename { .. } => "journal: recycle",
        Op::Unlink { .. } => "journal: remove",
        Op::Write { node, offset, data } => {
            let role = match (offset, data.len()) {
                _ if data.is_blank() => "journal: prepare",
                (0, _) | (_, 64) => "journal: header",
                _ => "journal: append",
            };
            roles.insert(*node, role);
            role
        }
        Op::SetLen { .. } => "journal: prepare",
        Op::Sync { node, .. } | Op::SyncRange { node } => {
            roles.get(node).copied().unwrap_or("journal: names")
        }
    }
}

fn generation(op: &Op, path: &str) -> Stratum {
    match op {
        Op::Rename { .. } if path.ends_with(".building") => "generation: rename",
        Op::Rename { .. } => "generation: removal",
        _ if path.contains(".building") => "generation: building",
        _ if path.contains(".removing") => "generation: removal",
        _ if path == "generations" => "generation: names",
        _ => "generation: sealed",
    }
}

fn name_kind(op: &Op, path: &str) -> &'static str {
    let top = path.split('/').next().unwrap_or(path);
    match op {
        Op::Link { .. } if top == "journal" => "prepared",
        Op::Link { .. } => "created",
        Op::Unlink { .. } if top == "journal" => "removed",
        Op::Unlink { .. } if top.ends_with(".proof") => "proof removed",
        Op::Unlink { .. } => "removed",
        Op::Rename { .. } if top == "journal" => "recycled",
        Op::Rename { .. } if path.ends_with(".building") => "sealed",
        Op::Rename { .. } if top == "generations" => "consumed",
        Op::Rename { .. } if top.ends_with(".format.new") => "format",
        Op::Rename { .. } if top.ends_with(".new") => "proof",
        Op::Rename { .. } if top.ends_with(".filling") => "views filled",
        Op::Rename { .. } => "renamed",
        _ => "other",
    }
}

fn file_sync(path: &str, data_only: bool, stratum: Stratum) -> SyncKind {
    let file = path.rsplit('/').next().unwrap_or(path);
    match stratum {
        "journal: append" => "journal group",
        "journal: header" => "journal header",
        "journal: prepare" => "journal zeros",
        "journal: reserve" => "journal reserve",
        "epoch" => "meta",
        "format" => "format",
        "views: proof" => "views proof",
        "quarantine" => "quarantine",
        "generation: building" | "generation: sealed" if file.starts_with("extents") => "generation extents",
        _ if !data_only && file.starts_with("snap.") => SLED_SNAPSHOT,
        _ if !data_only => SLED,
        "views: in place" => "views in place, files",
        "views: filling" => "views filling, files",
        "generation: building" => "generation files",
        _ => "other file",
    }
}

fn dir_sync(path: &str, stratum: Stratum, last: Option<&'static str>) -> SyncKind {
    match (stratum, last) {
        _ if path.ends_with("blobs") => "blobs directory",
        ("journal: names", Some("recycled")) => "journal directory, recycled",
        ("journal: names", Some("removed")) => "journal directory, removed",
        ("journal: names", _) => "journal directory, prepared",
        ("data directory", Some("proof")) => "data directory, proof",
        ("data directory", Some("proof removed")) => "data directory, proof removed",
        ("data directory", Some("views filled")) => "data directory, views filled",
        ("data directory", Some("format")) => "data directory, format",
        ("data directory", _) => "data directory, created",
        ("views: in place", _) => "views in place, directory",
        ("views: filling", _) => "views filling, directory",
        ("generation: building", _) => "generation directory",
        ("generation: names", Some("sealed")) => "generations, sealed",
        ("generation: names", Some("consumed")) => "generations, consumed",
        ("generation: names", _) => "generations, created",
        ("quarantine", _) => "quarantine",
        _ => "other directory",
    }
}
