//! From what `strace -f -y -xx` wrote to a [`Trace`].
//!
//! A system call that another thread interrupted is written in two lines; its beginning and its end are two moments. A
//! call on one line began and ended with nothing in between. An operation that this module does not know and that touches
//! the data directory is an error: nothing is passed over.

use crate::marks::Mark;
use crate::trace::{Data, Moment, Node, Op, ROOT, Step, Trace};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// The calls that a recording asks strace for.
pub const CALLS: &str = "open,openat,creat,close,dup,dup2,dup3,fcntl,write,pwrite64,writev,pwritev,pwritev2,lseek,\
     ftruncate,truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,\
     symlink,symlinkat,fsync,fdatasync,sync_file_range,sync,syncfs,mmap,sendfile,copy_file_range,splice,io_uring_setup";

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The file cannot be read.
    #[error("read the recording: {0}")]
    Io(#[from] std::io::Error),
    /// A line is not understood.
    #[error("line {line} of the recording: {why}: {text}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
        /// Its beginning.
        text: String,
    },
}

/// An open file.
#[derive(Clone, Copy)]
struct Handle {
    node: Node,
    offset: usize,
}

enum Target {
    Data(Handle),
    Marker,
}

/// Reads recordings, life after life.
pub struct Parser {
    root: PathBuf,
    marker: PathBuf,
    dirs: HashMap<Node, BTreeMap<String, Node>>,
    next_node: u32,
    handles: HashMap<i64, Target>,
    trace: Trace,
}

/// A call whose end has not been seen yet.
struct Pending {
    text: String,
    begun: Option<usize>,
}

type Fault = String;

impl Parser {
    /// Of recordings below `root`, with markers written to `marker`.
    #[must_use]
    pub fn new(root: &Path, marker: &Path) -> Self {
        Parser {
            root: root.to_owned(),
            marker: marker.to_owned(),
            dirs: HashMap::from([(ROOT, BTreeMap::new())]),
            next_node: 1,
            handles: HashMap::new(),
            trace: Trace::default(),
        }
    }

    /// What the recording found there to begin with: as if made and synced just now.
    ///
    /// # Errors
    /// From the file system.
    pub fn adopt(&mut self, path: &Path) -> std::io::Result<()> {
        self.adopt_dir(path, ROOT, "")?;
        self.trace.adopted = self.trace.steps.len();
        Ok(())
    }

    fn adopt_dir(&mut self, path: &Path, dir: Node, shown: &str) -> std::io::Result<()> {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let below = if shown.is_empty() { name.clone() } else { format!("{shown}/{name}") };
            let is_dir = entry.file_type()?.is_dir();
            let node = self.node();
            self.add(Op::Link { dir, name: name.clone(), node, is_dir }, &below);
            self.dirs.entry(dir).or_default().insert(name, node);
            if is_dir {
                self.dirs.insert(node, BTreeMap::new());
                self.adopt_dir(&entry.path(), node, &below)?;
            } else {
                let data = Data::new(std::fs::read(entry.path())?);
                self.add(Op::Write { node, offset: 0, data }, &below);
                self.add(Op::Sync { node, data_only: true }, &below);
            }
        }
        self.add(Op::Sync { node: dir, data_only: false }, shown);
        Ok(())
    }

    /// Goes on after the first `upto` moments of a trace, at which the process was killed: writes that had begun are done,
    /// syncs and renames that had not returned are not.
    #[must_use]
    pub fn resume(root: &Path, marker: &Path, trace: &Trace, upto: usize) -> Self {
        let mut this = Parser::new(root, marker);
        let moments = trace.moments.iter().take(upto);
        let steps =
            moments.clone().filter_map(|m| if let Moment::Begin(step) = m { Some(step + 1) } else { None });
        let steps = steps.max().unwrap_or(0);
        this.trace.steps = trace.steps.iter().take(steps).cloned().collect();
        this.trace.adopted = trace.adopted;
        let mut open = BTreeSet::new();
        for moment in moments {
            match moment {
                Moment::Begin(step) => {
                    open.insert(*step);
                }
                Moment::End(step) | Moment::Never(step) => {
                    open.remove(step);
                }
                _ => {}
            }
            this.follow(moment.clone());
        }
        for step in open {
            let is_write = matches!(
                this.trace.steps.get(step).map(|s| &s.op),
                Some(Op::Write { .. } | Op::SetLen { .. })
            );
            this.follow(if is_write { Moment::End(step) } else { Moment::Never(step) });
        }
        this.follow(Moment::Life);
        this
    }

    fn follow(&mut self, moment: Moment) {
        if let Moment::End(step) = moment
            && let Some(op) = self.trace.steps.get(step).map(|s| s.op.clone())
        {
            self.take_over(op);
        }
        self.trace.moments.push(moment);
    }

    /// Bytes that somebody changed while no process ran: as if written and synced.
    pub fn meddle(&mut self, path: &str, offset: usize, bytes: Vec<u8>) -> bool {
        let Some(node) = self.find(path) else { return false };
        self.add(Op::Write { node, offset, data: Data::new(bytes) }, path);
        self.add(Op::Sync { node, data_only: true }, path);
        true
    }

    /// How many moments there are so far.
    #[must_use]
    pub fn moments(&self) -> usize {
        self.trace.moments.len()
    }

    /// What there is.
    #[must_use]
    pub fn finish(self) -> Trace {
        self.trace
    }

    fn node(&mut self) -> Node {
        let node = Node(self.next_node);
        self.next_node += 1;
        node
    }

    fn add(&mut self, op: Op, path: &str) {
        let begun = self.begin(op, path);
        self.trace.moments.push(Moment::End(begun));
    }

    fn begin(&mut self, op: Op, path: &str) -> usize {
        let step = self.trace.steps.len();
        self.trace.steps.push(Step { op, path: path.to_owned() });
        self.trace.moments.push(Moment::Begin(step));
        step
    }

    /// Reads one process's recording.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn life(&mut self, input: impl BufRead) -> Result<(), ParseError> {
        self.handles.clear();
        let first = self.trace.steps.len();
        let mut waiting: HashMap<String, Pending> = HashMap::new();
        for (index, line) in input.lines().enumerate() {
            let line = line?;
            self.line(&line, &mut waiting).map_err(|why| ParseError::Line {
                line: index + 1,
                why,
                text: line.chars().take(200).collect(),
            })?;
        }
        self.decide(first);
        self.trace.moments.push(Moment::Life);
        Ok(())
    }

    /// What had begun when the process ended has happened by now, or never will.
    fn decide(&mut self, first: usize) {
        let ended: HashSet<usize> = self.trace.moments.iter().filter_map(Moment::ended).collect();
        for step in (first..self.trace.steps.len()).filter(|step| !ended.contains(step)) {
            let Some(op) = self.trace.steps.get(step).map(|s| s.op.clone()) else { continue };
            if let Op::Write { node, offset, data } = &op {
                self.cut_to_what_is_there(step, *node, *offset, data.clone());
            }
            let Some(op) = self.trace.steps.get(step).map(|s| s.op.clone()) else { continue };
            let happened = self.has_happened(&op);
            if happened {
                self.take_over(op);
            }
            self.trace.moments.push(if happened { Moment::End(step) } else { Moment::Never(step) });
        }
    }

    /// A kill may stop a write between two pages.
    fn cut_to_what_is_there(&mut self, step: usize, node: Node, offset: usize, mut asked: Data) {
        let there = std::fs::read(self.root.join(self.path_of(node))).unwrap_or_default();
        let there = there.get(offset..).unwrap_or_default();
        let wanted = asked.to_vec();
        let same = wanted.iter().zip(there).take_while(|(wanted, there)| wanted == there).count();
        if same == 0 || same == wanted.len() {
            return;
        }
        asked.truncate(same);
        if let Some(Op::Write { data, .. }) = self.trace.steps.get_mut(step).map(|s| &mut s.op) {
            *data = asked;
        }
    }

    fn has_happened(&self, op: &Op) -> bool {
        let at = |dir: &Node, name: &str| self.root.join(self.path_of(*dir)).join(name);
        match op {
            Op::Link { dir, name, .. } => at(dir, name).exists(),
            Op::Unlink { dir, name } => !at(dir, name).exists(),
            Op::Rename { from, name, to, new } => at(to, new).exists() && !at(from, name).exists(),
            Op::Write { node, offset, data } => {
                let bytes = std::fs::read(self.root.join(self.path_of(*node))).unwrap_or_default();
                bytes.get(*offset..offset + data.len()) == Some(data.to_vec().as_slice())
            }
            Op::SetLen { node, len } => {
                let found = std::fs::metadata(self.root.join(self.path_of(*node)));
                found.is_ok_and(|found| found.len() == *len as u64)
            }
            // That it returned is not known, so nothing can rest on it.
            Op::Sync { .. } | Op::SyncRange { .. } => false,
        }
    }

    fn line(&mut self, line: &str, waiting: &mut HashMap<String, Pending>) -> Result<(), Fault> {
        let (thread, rest) = line.split_once(' ').ok_or("no thread")?;
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            return Ok(());
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let pending = waiting.remove(thread).ok_or("resumed, but not begun")?;
            let (_, tail) = resumed.split_once("resumed>").ok_or("no `resumed>`")?;
            if pending.text.starts_with("close(") {
                // Its number was free from the beginning on, and may be somebody else's by now.
                return Ok(());
            }
            return self.call(&format!("{}{}", pending.text, tail), pending.begun);
        }
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            let begun_step = self.begin_call(begun)?;
            let pending = Pending { text: begun.trim_end().to_owned(), begun: begun_step };
            waiting.insert(thread.to_owned(), pending);
            return Ok(());
        }
        self.call(rest, None)
    }

    /// The step of a call that is known from its arguments alone.
    fn begin_call(&mut self, text: &str) -> Result<Option<usize>, Fault> {
        let (name, args) = split(text)?;
        if name == "close" {
            self.handles.remove(&number(args.first())?);
        }
        let Some((op, path)) = self.early(name, &args)? else { return Ok(None) };
        Ok(Some(self.begin(op, &path)))
    }

    fn call(&mut self, text: &str, begun: Option<usize>) -> Result<(), Fault> {
        let (call, result) = text.rsplit_once(" = ").ok_or("no result")?;
        let (name, args) = split(call.trim_end())?;
        match name {
            // The second is no error that there is: what strace shows for a thread that died in its call.
            _ if result.starts_with('?') || result.starts_with("-1 (errno ") => {
                self.cut_short(name, &args, begun)
            }
            _ if result.starts_with("-1") => self.failed(name, &args, begun),
            "open" | "openat" | "creat" => self.open(name, &args, result),
            "close" => {
                self.handles.remove(&number(args.first())?);
                Ok(())
            }
            "write" => self.write(&args, result, begun),
            "mmap" => self.mmap(&args),
            "lseek" => {
                if let Some(Target::Data(handle)) = self.handles.get_mut(&number(args.first())?) {
                    handle.offset = unsigned(result)?;
                }
                Ok(())
            }
            "fcntl" if !args.get(1).is_some_and(|c| c.starts_with("F_DUPFD")) => Ok(()),
            "dup" | "dup2" | "dup3" | "fcntl" | "writev" | "pwritev" | "pwritev2" | "sendfile"
            | "copy_file_range" | "splice" => self.unknown(name, &args),
            "sync" | "syncfs" | "io_uring_setup" => Err(format!("{name} is not understood")),
            _ => self.plain(name, &args, result, begun),
        }
    }

    /// Calls that do what their arguments say.
    fn plain(&mut self, name: &str, args: &[&str], result: &str, begun: Option<usize>) -> Result<(), Fault> {
        let step = match begun {
            Some(step) => Some(step),
            None => self.early(name, args)?.map(|(op, path)| self.begin(op, &path)),
        };
        let Some(step) = step else { return Ok(()) };
        let Some(op) = self.trace.steps.get(step).map(|s| s.op.clone()) else { return Ok(()) };
        let expected = if let Op::Write { data, .. } = &op { data.len() } else { 0 };
        if unsigned(result)? != expected {
            // No write of a recording is short, no other call gives anything but zero: strace 6.1 shows a stale result for
            // a thread that died in its call. What became of it is looked up when the process has ended.
            return Ok(());
        }
        self.take_over(op);
        self.trace.moments.push(Moment::End(step));
        Ok(())
    }

    fn take_over(&mut self, op: Op) {
        match op {
            Op::Link { dir, name, node, is_dir } => {
                self.next_node = self.next_node.max(node.0 + 1);
                self.dirs.entry(dir).or_default().insert(name, node);
                if is_dir {
                    self.dirs.insert(node, BTreeMap::new());
                }
            }
            Op::Unlink { dir, name } => {
                self.dirs.entry(dir).or_default().remove(&name);
            }
            Op::Rename { from, name, to, new } => {
                if let Some(node) = self.dirs.entry(from).or_default().remove(&name) {
                    self.dirs.entry(to).or_default().insert(new, node);
                }
            }
            _ => {}
        }
    }

    /// The process ended before the call did: it stays begun, its effect is unknown.
    fn cut_short(&mut self, name: &str, args: &[&str], begun: Option<usize>) -> Result<(), Fault> {
        if begun.is_some() {
            return Ok(());
        }
        if name == "write"
            && let Some(Target::Data(Handle { node, offset })) = self.handles.get(&number(args.first())?)
        {
            let op = Op::Write { node: *node, offset: *offset, data: Data::new(bytes(args.get(1))?) };
            let path = self.path_of(*node);
            self.begin(op, &path);
        } else if let Some((op, path)) = self.early(name, args)? {
            self.begin(op, &path);
        }
        Ok(())
    }

    /// Asking for what is not there is usual; a write that fails in a recording is not.
    fn failed(&mut self, name: &str, args: &[&str], begun: Option<usize>) -> Result<(), Fault> {
        self.trace.moments.extend(begun.map(Moment::Never));
        let writes = ["write", "pwrite64", "fsync", "fdatasync", "ftruncate", "fallocate"].contains(&name);
        if writes && self.early(name, args)?.is_some() {
            return Err("a failed write or sync".to_owned());
        }
        Ok(())
    }

    fn early(&mut self, name: &str, args: &[&str]) -> Result<Option<(Op, String)>, Fault> {
        match name {
            "pwrite64" => {
                let Some(node) = self.data_node(args.first())? else { return Ok(None) };
                let (data, offset) = (bytes(args.get(1))?, unsigned(args.get(3).ok_or("no offset")?)?);
                let path = self.path_of(node);
                Ok(Some((Op::Write { node, offset, data: Data::new(data) }, path)))
            }
            "ftruncate" => {
                let Some(node) = self.data_node(args.first())? else { return Ok(None) };
                let len = unsigned(args.get(1).ok_or("no length")?)?;
                Ok(Some((Op::SetLen { node, len }, self.path_of(node))))
            }
            // Room for a file that was just made: its length, and zeros.
            "fallocate" => {
                let Some(node) = self.data_node(args.first())? else { return Ok(None) };
                if args.get(1) != Some(&"0") || args.get(2) != Some(&"0") {
                    return Err("fallocate that is not of a whole new file is not understood".into());
                }
                let len = unsigned(args.get(3).ok_or("no length")?)?;
                Ok(Some((Op::SetLen { node, len }, self.path_of(node))))
            }
            "fsync" | "fdatasync" => {
                let node = self.data_node(args.first())?;
                let data_only = name == "fdatasync";
                Ok(node.map(|node| (Op::Sync { node, data_only }, self.path_of(node))))
            }
            "sync_file_range" => {
                let node = self.data_node(args.first())?;
                Ok(node.map(|node| (Op::SyncRange { node }, self.path_of(node))))
            }
            _ => self.early_names(name, args),
        }
    }

    fn early_names(&mut self, name: &str, args: &[&str]) -> Result<Option<(Op, String)>, Fault> {
        match name {
            "rename" => self.rename((None, args.first()), (None, args.get(1))),
            "renameat" | "renameat2" => self.rename((args.first(), args.get(1)), (args.get(2), args.get(3))),
            "unlink" | "rmdir" => self.unlink((None, args.first())),
            "unlinkat" => self.unlink((args.first(), args.get(1))),
            "mkdir" => self.mkdir((None, args.first())),
            "mkdirat" => self.mkdir((args.first(), args.get(1))),
            "link" | "linkat" | "symlink" | "symlinkat" | "truncate" => {
                Err(format!("{name} is not understood"))
            }
            _ => Ok(None),
        }
    }

    fn rename(
        &mut self,
        from: (Option<&&str>, Option<&&str>),
        to: (Option<&&str>, Option<&&str>),
    ) -> Result<Option<(Op, String)>, Fault> {
        let (Some((from, name, path)), Some((to, new, _))) = (self.place(from)?, self.place(to)?) else {
            return Ok(None);
        };
        Ok(Some((Op::Rename { from, name, to, new }, path)))
    }

    fn unlink(&mut self, at: (Option<&&str>, Option<&&str>)) -> Result<Option<(Op, String)>, Fault> {
        Ok(self.place(at)?.map(|(dir, name, path)| (Op::Unlink { dir, name }, path)))
    }

    fn mkdir(&mut self, at: (Option<&&str>, Option<&&str>)) -> Result<Option<(Op, String)>, Fault> {
        let Some((dir, name, path)) = self.place(at)? else { return Ok(None) };
        let node = self.node();
        Ok(Some((Op::Link { dir, name, node, is_dir: true }, path)))
    }

    fn write(&mut self, args: &[&str], result: &str, begun: Option<usize>) -> Result<(), Fault> {
        let fd = number(args.first())?;
        let written: usize = unsigned(result)?;
        match self.handles.get_mut(&fd) {
            None => Ok(()),
            Some(Target::Marker) => {
                let text = bytes(args.get(1))?;
                let mark: Mark = serde_json::from_slice(&text).map_err(|e| format!("marker: {e}"))?;
                self.trace.moments.push(Moment::Mark(mark));
                Ok(())
            }
            Some(Target::Data(handle)) => {
                let Handle { node, offset } = *handle;
                handle.offset += written;
                let data = bytes(args.get(1))?;
                let path = self.path_of(node);
                if data.len() != written {
                    // As in `plain`.
                    self.begin(Op::Write { node, offset, data: Data::new(data) }, &path);
                    return Ok(());
                }
                // Only files that one thread has use `write`: that it began a little earlier changes nothing.
                debug_assert!(begun.is_none());
                self.add(Op::Write { node, offset, data: Data::new(data) }, &path);
                Ok(())
            }
        }
    }

    fn open(&mut self, name: &str, args: &[&str], result: &str) -> Result<(), Fault> {
        let fd = number(Some(&result))?;
        self.handles.remove(&fd);
        let (at, path, flags) = match name {
            "openat" => (args.first(), args.get(1), args.get(2)),
            _ => (None, args.first(), args.get(1)),
        };
        let flags = flags.copied().unwrap_or("O_CREAT|O_TRUNC");
        if at.is_none_or(|at| at.starts_with("AT_FDCWD")) && self.absolute(path)? == self.marker {
            self.handles.insert(fd, Target::Marker);
            return Ok(());
        }
        let Some((dir, name, shown)) = self.place((at, path))? else {
            if self.names_root(at, path)? {
                self.handles.insert(fd, Target::Data(Handle { node: ROOT, offset: 0 }));
            }
            return Ok(());
        };
        if flags.contains("O_APPEND") || flags.contains("O_TMPFILE") {
            return Err("opened in a way that is not understood".to_owned());
        }
        let known = self.dirs.get(&dir).and_then(|names| names.get(&name)).copied();
        let node = match known {
            Some(node) => node,
            None if flags.contains("O_CREAT") => {
                let node = self.node();
                self.add(Op::Link { dir, name: name.clone(), node, is_dir: false }, &shown);
                self.dirs.entry(dir).or_default().insert(name, node);
                node
            }
            None => return Err(format!("{shown} is opened but was never made")),
        };
        if flags.contains("O_TRUNC") && known.is_some() {
            self.add(Op::SetLen { node, len: 0 }, &shown);
        }
        self.handles.insert(fd, Target::Data(Handle { node, offset: 0 }));
        Ok(())
    }

    fn mmap(&self, args: &[&str]) -> Result<(), Fault> {
        let shared = args.get(3).is_some_and(|flags| flags.contains("MAP_SHARED"));
        let writes = args.get(2).is_some_and(|protection| protection.contains("PROT_WRITE"));
        if shared && writes && number(args.get(4)).is_ok_and(|fd| self.handles.contains_key(&fd)) {
            return Err("a file of the store is mapped for writing".to_owned());
        }
        Ok(())
    }

    fn unknown(&self, name: &str, args: &[&str]) -> Result<(), Fault> {
        let touches = args.iter().any(|arg| number(Some(arg)).is_ok_and(|fd| self.handles.contains_key(&fd)));
        if touches { Err(format!("{name} on a file of the store is not understood")) } else { Ok(()) }
    }

    fn data_node(&self, arg: Option<&&str>) -> Result<Option<Node>, Fault> {
        match self.handles.get(&number(arg)?) {
            Some(Target::Data(handle)) => Ok(Some(handle.node)),
            _ => Ok(None),
        }
    }

    fn absolute(&self, path: Option<&&str>) -> Result<PathBuf, Fault> {
        let bytes = bytes(path)?;
        String::from_utf8(bytes).map(PathBuf::from).map_err(|_| "a path that is not UTF-8".to_owned())
    }

    fn names_root(&self, at: Option<&&str>, path: Option<&&str>) -> Result<bool, Fault> {
        Ok(at.is_none_or(|at| at.starts_with("AT_FDCWD")) && self.absolute(path)? == self.root)
    }

    /// Directory, name and shown path of an argument that lies in the data directory.
    fn place(
        &self,
        (at, path): (Option<&&str>, Option<&&str>),
    ) -> Result<Option<(Node, String, String)>, Fault> {
        let path = self.absolute(path)?;
        let (base, relative) = match at {
            Some(at) if !at.starts_with("AT_FDCWD") => match self.data_node(Some(at))? {
                Some(node) => (node, path.as_path()),
                None => return Ok(None),
            },
            _ => match path.strip_prefix(&self.root) {
                Ok(relative) if !relative.as_os_str().is_empty() => (ROOT, relative),
                _ => return Ok(None),
            },
        };
        let mut dir = base;
        let mut names: Vec<&str> = relative.iter().filter_map(|name| name.to_str()).collect();
        let last = names.pop().ok_or("an empty path")?;
        for name in names {
            dir = *self.dirs.get(&dir).and_then(|d| d.get(name)).ok_or("a path through nowhere")?;
        }
        let parent = self.path_of(dir);
        let shown = if parent.is_empty() { last.to_owned() } else { format!("{parent}/{last}") };
        Ok(Some((dir, last.to_owned(), shown)))
    }

    fn find(&self, path: &str) -> Option<Node> {
        let mut node = ROOT;
        for name in path.split('/') {
            node = *self.dirs.get(&node)?.get(name)?;
        }
        Some(node)
    }

    /// Where a node is now; by search, because few are there.
    fn path_of(&self, node: Node) -> String {
        if node == ROOT {
            return String::new();
        }
        for (dir, names) in &self.dirs {
            if let Some((name, _)) = names.iter().find(|(_, n)| **n == node) {
                let parent = self.path_of(*dir);
                return if parent.is_empty() { name.clone() } else { format!("{parent}/{name}") };
            }
        }
        "(removed)".to_owned()
    }
}

/// Name and arguments of `name(a, b`, with or without the closing parenthesis.
fn split(text: &str) -> Result<(&str, Vec<&str>), Fault> {
    let (name, args) = text.split_once('(').ok_or("not a call")?;
    let args = args.trim_end();
    let args = args.strip_suffix(')').unwrap_or(args);
    Ok((name, args.split(',').map(str::trim).filter(|arg| !arg.is_empty()).collect()))
}

/// `5` of `5</path>`.
fn number(arg: Option<&&str>) -> Result<i64, Fault> {
    let arg = arg.ok_or("an argument is missing")?;
    let digits = arg.split('<').next().unwrap_or(arg);
    let digits = digits.split(' ').next().unwrap_or(digits);
    digits.parse().map_err(|_| format!("{digits:?} is not a number"))
}

fn unsigned(arg: &str) -> Result<usize, Fault> {
    let number = number(Some(&arg))?;
    usize::try_from(number).map_err(|_| format!("{number} is negative"))
}

/// The bytes of `"\x61\x62"`.
fn bytes(arg: Option<&&str>) -> Result<Vec<u8>, Fault> {
    let arg = arg.ok_or("an argument is missing")?;
    let inner = arg.strip_prefix('"').and_then(|a| a.strip_suffix('"')).ok_or("a string cut short")?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    inner
        .as_bytes()
        .chunks(4)
        .map(|escape| match escape {
            [b'\\', b'x', high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| "not a string of escapes".to_owned())
}
