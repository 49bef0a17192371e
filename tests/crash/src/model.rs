//! What must be in an image, from the markers before the cut.

use crate::marks::{Mark, Planned, PlannedChange, PlannedEvent, Refusal, Shape, ToldEntry};
use crate::trace::Moment;
use crate::workload::{MAILBOX_MAX, NUMBERS_PER_LIFE};
use eventmesh_edge_core::event::Position;
use std::collections::{BTreeMap, HashMap};

/// A commit that was handed over before the cut.
#[derive(Clone, Debug)]
pub struct Handed {
    /// Its words.
    pub planned: Planned,
    /// Answered before the cut.
    pub answered: bool,
    /// The answer was that it is not stored.
    pub refused: bool,
    /// How many shapes had been asked for: those who read then are to get its events.
    pub shapes: usize,
    /// Its positions: as answered, else those that come next. Somebody may know them from reading.
    pub positions: Vec<u64>,
}

impl Handed {
    /// Whether it left its number in the store.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.planned
            .state
            .iter()
            .any(|c| matches!(c, PlannedChange::Put(6, key, _) if key.starts_with("last-")))
    }

    /// Which life.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.planned.number / NUMBERS_PER_LIFE
    }
}

/// A set of readers that was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which.
    pub shape: Shape,
    /// By a start; else of the open store.
    pub by_start: bool,
    /// It has been so.
    pub made: bool,
}

/// The figures of a ledger: stream, uplink and reason to events.
pub type Losses = BTreeMap<(u16, u16, u8), u64>;

/// Everything said before the cut.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Word by word: what a kept image is judged by later.
    pub marks: Vec<Mark>,
    /// In order of submission.
    pub commits: Vec<Handed>,
    /// The newest life that told of itself.
    pub life: u64,
    /// What the next event gets, if nothing goes wrong.
    next_position: u64,
    /// Highest epoch of a start that was told of.
    pub epoch: u32,
    /// The log, once it was told.
    pub log: Option<u32>,
    /// Losses that were told of.
    pub ledger: Losses,
    /// Entries of the ledger that were told of, as they were the first time.
    pub entries: BTreeMap<u64, ToldEntry>,
    /// Totals have losses of which no entries were made.
    pub older: bool,
    /// Who was to read the stream `changing`, in order.
    pub shapes: Vec<Asked>,
    /// True if the last word was that of an orderly end, and nothing began after it.
    pub closed: bool,
}

impl Said {
    /// Takes one more moment in.
    pub fn advance(&mut self, moment: &Moment) {
        match moment {
            Moment::Mark(mark) => self.mark(mark),
            Moment::Begin(_) => self.closed = false,
            Moment::End(_) | Moment::Never(_) | Moment::Life => {}
        }
    }

    /// All that a list of markers says.
    #[must_use]
    pub fn of(marks: &[Mark]) -> Said {
        let mut said = Said::default();
        for mark in marks {
            said.mark(mark);
        }
        said
    }

    fn mark(&mut self, mark: &Mark) {
        self.marks.push(mark.clone());
        self.closed = *mark == Mark::Closed;
        match mark {
            Mark::Start(shape) | Mark::Change(shape) => {
                let by_start = matches!(mark, Mark::Start(_));
                self.shapes.push(Asked { shape: shape.clone(), by_start, made: false });
            }
            Mark::Changed => self.shape_made(),
            Mark::Opened { epoch, log, life } => {
                self.shape_made();
                self.life = u64::from(*life);
                self.next_position = Position::first_of(*epoch).0;
                self.epoch = self.epoch.max(*epoch);
                self.log = Some(*log);
            }
            Mark::Submit(planned) => {
                let first = self.next_position;
                self.next_position += planned.events.len() as u64;
                self.commits.push(Handed {
                    positions: (first..self.next_position).collect(),
                    planned: planned.clone(),
                    answered: false,
                    refused: false,
                    shapes: self.shapes.len(),
                });
            }
            Mark::Answer { number, outcome } => self.answer(*number, outcome),
            Mark::Ledger(lines) => {
                for (stream, uplink, reason, events) in lines {
                    self.ledger.insert((*stream, *uplink, *reason), *events);
                }
            }
            Mark::Entries(entries) => {
                for entry in entries {
                    self.entries.entry(entry.no).or_insert_with(|| entry.clone());
                }
            }
            Mark::Older => self.older = true,
            Mark::Closed => {}
        }
    }
}

impl Said {
    fn shape_made(&mut self) {
        if let Some(asked) = self.shapes.last_mut() {
            asked.made = true;
        }
    }

    /// What a start after the cut is configured with: what was asked for last. `None`: there is no stream `changing` yet.
    #[must_use]
    pub fn configured(&self) -> Option<Configured> {
        let readers = self.shapes.last()?.shape.readers.clone();
        let known = self.shapes.iter().flat_map(|asked| &asked.shape.readers).copied().max();
        Some(Configured { readers, known })
    }

    fn answer(&mut self, number: u64, outcome: &Result<Vec<u64>, Refusal>) {
        let Some(at) = self.commits.iter().rposition(|c| c.planned.number == number) else { return };
        let Some(found) = self.commits.get_mut(at) else { return };
        found.answered = outcome.is_ok();
        found.refused = outcome.is_err();
        found.positions = outcome.clone().unwrap_or_default();
        if *outcome == Err(Refusal::Full) {
            // What is refused for want of room has used no positions: the next ones take them.
            let unused = found.planned.events.len() as u64;
            self.next_position -= unused;
            for later in self.commits.iter_mut().skip(at + 1) {
                later.positions.iter_mut().for_each(|position| *position -= unused);
            }
        }
    }
}

/// The stream `changing` as a store is to have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// Who reads it.
    pub readers: Vec<u16>,
    /// The highest number that ever read it.
    pub known: Option<u16>,
}

/// An event that must be known.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its words.
    pub planned: PlannedEvent,
    /// Where it stands, if anybody was ever told.
    pub position: Option<u64>,
    /// Its number among those of its source.
    pub of_source: u64,
    /// Its number among those of its source in its stream.
    pub of_stream: u64,
    /// How many shapes had been asked for.
    pub shapes: usize,
}

/// What a key must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The position of the event with this tag, and `!`.
    Position(u64),
    /// The record of the event with this tag.
    Record(u64),
}

/// One entry of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which event.
    pub tag: u64,
    /// Its position, if known.
    pub position: Option<u64>,
    /// Latest options.
    pub options: u8,
}

/// The state after the commits that are in the image.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Events by tag.
    pub events: HashMap<u64, Known>,
    /// Tags per stream, in order.
    pub streams: BTreeMap<u16, Vec<u64>>,
    /// Tables.
    pub tables: BTreeMap<(u8, String), Value>,
    /// Mailboxes.
    pub mailboxes: BTreeMap<u64, Vec<Claim>>,
    /// Given up by mailboxes.
    pub mailbox_losses: u64,
    /// Cursors that must have been reached.
    pub cursors: BTreeMap<(u16, u16), u64>,
    /// Cursors that may have been reached.
    pub cursors_may: BTreeMap<(u16, u16), u64>,
    /// Losses that commits brought along and the ledger must have.
    pub losses: Losses,
    /// Those that it may have.
    pub losses_may: Losses,
    /// Entries of the ledger up to here must not be given out again.
    pub forgotten: u64,
    /// And up to here need not.
    pub forgotten_may: u64,
    sources: HashMap<u8, u64>,
    sources_in_stream: HashMap<(u8, u16), u64>,
}

impl Expected {
    /// After `durable`; the cursors of `maybe` may be in or not.
    #[must_use]
    pub fn after(durable: &[&Handed], maybe: &[&Handed]) -> Expected {
        let mut this = Expected::default();
        for commit in durable {
            this.commit(commit);
        }
        this.cursors_may = this.cursors.clone();
        this.losses_may = this.losses.clone();
        this.forgotten_may = this.forgotten;
        for commit in maybe {
            move_cursors(&mut this.cursors_may, &commit.planned);
            add_losses(&mut this.losses_may, &commit.planned);
            this.forgotten_may = this.forgotten_may.max(forgets(&commit.planned));
        }
        this
    }

    fn commit(&mut self, commit: &Handed) {
        for (index, planned) in commit.planned.events.iter().enumerate() {
            let position = commit.positions.get(index).copied();
            self.event(planned, position, commit.shapes);
        }
        for change in &commit.planned.state {
            self.change(change, &commit.planned);
        }
        move_cursors(&mut self.cursors, &commit.planned);
        add_losses(&mut self.losses, &commit.planned);
        self.forgotten = self.forgotten.max(forgets(&commit.planned));
    }

    fn event(&mut self, planned: &PlannedEvent, position: Option<u64>, shapes: usize) {
        let of_source = self.sources.entry(planned.source).or_default();
        *of_source += 1;
        let of_source = *of_source;
        let mut of_stream = 0;
        if let Some(stream) = planned.stream {
            let count = self.sources_in_stream.entry((planned.source, stream)).or_default();
            *count += 1;
            of_stream = *count;
            self.streams.entry(stream).or_default().push(planned.tag);
        }
        let known = Known { planned: planned.clone(), position, of_source, of_stream, shapes };
        self.events.insert(planned.tag, known);
        for (session, options) in &planned.mailboxes {
            let mailbox = self.mailboxes.entry(*session).or_default();
            mailbox.push(Claim { tag: planned.tag, position, options: *options });
            while mailbox.len() as u64 > MAILBOX_MAX {
                mailbox.remove(0);
                self.mailbox_losses += 1;
            }
        }
    }

    fn change(&mut self, change: &PlannedChange, planned: &Planned) {
        let tag = |event: &usize| planned.events.get(*event).map_or(0, |e| e.tag);
        match change {
            PlannedChange::Put(table, key, value) => {
                self.tables.insert((*table, key.clone()), Value::Bytes(value.clone().into_bytes()));
            }
            PlannedChange::PutPosition(table, key, event) => {
                self.tables.insert((*table, key.clone()), Value::Position(tag(event)));
            }
            PlannedChange::PutRecord(table, key, event) => {
                self.tables.insert((*table, key.clone()), Value::Record(tag(event)));
            }
            PlannedChange::Delete(table, key) => {
                self.tables.remove(&(*table, key.clone()));
            }
            PlannedChange::MailboxRemove(session, position) => {
                let mailbox = self.mailboxes.entry(*session).or_default();
                mailbox.retain(|claim| claim.position != Some(*position));
            }
            PlannedChange::MailboxUpdate(session, position, options) => {
                let mailbox = self.mailboxes.entry(*session).or_default();
                for claim in mailbox.iter_mut().filter(|c| c.position == Some(*position)) {
                    claim.options = *options;
                }
            }
            PlannedChange::MailboxClear(session) => {
                self.mailboxes.remove(session);
            }
            PlannedChange::LedgerForget(_) => {}
        }
    }
}

/// Up to which entry of the ledger a commit says that it was handed on.
fn forgets(planned: &Planned) -> u64 {
    let through = planned.state.iter().filter_map(|change| match change {
        PlannedChange::LedgerForget(through) => Some(*through),
        _ => None,
    });
    through.max().unwrap_or(0)
}

fn add_losses(losses: &mut Losses, planned: &Planned) {
    for loss in &planned.losses {
        *losses.entry((loss.of.0, loss.of.1, loss.reason)).or_default() += 1;
    }
}

fn move_cursors(cursors: &mut BTreeMap<(u16, u16), u64>, planned: &Planned) {
    for (stream, uplink, acked) in &planned.cursors {
        let cursor = cursors.entry((*stream, *uplink)).or_default();
        *cursor = (*cursor).max(*acked);
    }
}
