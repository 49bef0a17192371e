//! Live change (docs/adr/0009): the file is read again, compared with what runs, judged as a whole, and applied in order.
//!
//! ```text
//! adapters built ─▶ store (durable) ─▶ routes ─▶ forwarders
//! ```
//! What can fail comes first. From the store on, what a start with the new file would find is what runs.

mod judge;
mod lane;

use super::observe::{Current, Observer, UplinkView};
use super::stage::Stage;
use super::uplinks::{self, Adapter, Built, Parts};
use anyhow::Context;
use eventmesh_edge_admin::{ReloadAnswer, ReloadAsk, ReloadFuture, ReloadSource};
use eventmesh_edge_config::{Config, Overrides, Plan, ProcessEnvironment, Slots, Uplink, UplinkDiff};
use eventmesh_edge_core::ports::store::{Consumer, Reshape, ReshapeError, StoreSpec, UplinkId};
use judge::Farewells;
pub(super) use lane::Lane;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

/// Questions that may wait while one is answered (P5).
const WAITING_MAX: usize = 4;

/// Where the configuration comes from: what it was read from at the start.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) file: Option<PathBuf>,
    pub(super) overrides: Overrides,
}

/// One question, and where its answer goes.
pub(super) struct Asked {
    ask: ReloadAsk,
    answer: oneshot::Sender<ReloadAnswer>,
}

/// Whoever may ask.
#[derive(Clone)]
pub(super) struct Changes(mpsc::Sender<Asked>);

impl Changes {
    pub(super) fn channel() -> (Changes, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Changes(sender), receiver)
    }

    /// SIGHUP: nobody is there to say what becomes of a backlog, so nothing is given up, and the log says what stands
    /// against a change.
    pub(super) async fn hang_up(&self) {
        let answer = self.reload(ReloadAsk::default()).await;
        for line in &answer.refused {
            warn!("the changed file is not applied: {line}");
        }
    }
}

impl ReloadSource for Changes {
    fn reload(&self, ask: ReloadAsk) -> ReloadFuture {
        let asked = self.0.clone();
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let refused = || ReloadAnswer {
                refused: vec!["the node is stopping".to_owned()],
                ..ReloadAnswer::default()
            };
            if asked.send(Asked { ask, answer }).await.is_err() {
                return refused();
            }
            answered.await.unwrap_or_else(|_| refused())
        })
    }
}

/// What changes the node.
pub(super) struct Live {
    source: Source,
    parts: Parts,
    observer: Arc<Observer>,
    spec: StoreSpec,
    /// By name; those that are being drained too.
    lanes: HashMap<String, Lane>,
}

/// A change that nothing stands against.
struct Work {
    new: Config,
    slots: Slots,
    plan: Plan,
    farewells: Farewells,
    /// For those whose way or forwarder is another.
    adapters: HashMap<String, Adapter>,
}

impl Live {
    pub(super) fn new(
        source: Source,
        parts: Parts,
        observer: Arc<Observer>,
        spec: StoreSpec,
        lanes: HashMap<String, Lane>,
    ) -> Live {
        Live { source, parts, observer, spec, lanes }
    }

    /// Answers one question.
    pub(super) async fn answer(&mut self, asked: Asked, stage: &mut Stage) {
        let Asked { ask, answer } = asked;
        let outcome = self.reload(&ask, stage).await;
        let said = match outcome {
            Ok(said) => said,
            Err(refused) => ReloadAnswer { refused, ..ReloadAnswer::default() },
        };
        // Whoever asked may have gone; what was done is in the log.
        drop(answer.send(said));
    }

    async fn reload(&mut self, ask: &ReloadAsk, stage: &mut Stage) -> Result<ReloadAnswer, Vec<String>> {
        let new = self.read().await?;
        let warnings = new.warnings.clone();
        let work = self.judge(new, ask)?;
        let changes: Vec<String> =
            work.plan.words().into_iter().chain(work.farewells.words.clone()).collect();
        if ask.dry_run || changes.is_empty() {
            return Ok(ReloadAnswer { applied: false, changes, refused: Vec::new(), warnings });
        }
        self.apply(work, stage).await.map_err(|why| vec![why])?;
        for change in &changes {
            info!("changed: {change}");
        }
        Ok(ReloadAnswer { applied: true, changes, refused: Vec::new(), warnings })
    }

    async fn read(&self) -> Result<Config, Vec<String>> {
        let Source { file, overrides } = self.source.clone();
        let Some(file) = file else {
            return Err(vec![
                "the node was started without --config: there is no file to read again".to_owned(),
            ]);
        };
        let read = move || Config::load(Some(&file), &ProcessEnvironment, &overrides);
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(config)) => Ok(config),
            Ok(Err(error)) => Err(error.to_string().lines().map(str::to_owned).collect()),
            Err(error) => Err(vec![error.to_string()]),
        }
    }

    /// Everything that can be said against it, and everything that can fail without the store.
    fn judge(&self, new: Config, ask: &ReloadAsk) -> Result<Work, Vec<String>> {
        let current = self.observer.current();
        let plan = Plan::between(&current.config, &new);
        let farewells = judge::farewells(&plan, &new, &current, ask, &*self.parts.store);
        let (adapters, broken) = self.adapters(&plan, &new);
        let mut slots = current.slots.clone();
        slots.extend(&new);
        match farewells {
            Ok(farewells) if broken.is_empty() => Ok(Work { new, slots, plan, farewells, adapters }),
            other => Err(other.err().unwrap_or_default().into_iter().chain(broken).collect()),
        }
    }

    /// One for each uplink that needs a new one, and why some cannot be made.
    fn adapters(&self, plan: &Plan, new: &Config) -> (HashMap<String, Adapter>, Vec<String>) {
        let mut adapters = HashMap::new();
        let mut broken = Vec::new();
        for uplink in new.uplinks.iter().filter(|uplink| is_touched(plan, uplink.name.as_str())) {
            match uplinks::adapter(new, uplink, &self.parts) {
                Ok(adapter) => drop(adapters.insert(uplink.name.to_string(), adapter)),
                Err(error) => broken.push(format!("uplink \"{}\": {error:#}", uplink.name)),
            }
        }
        (adapters, broken)
    }

    async fn apply(&mut self, work: Work, stage: &mut Stage) -> Result<(), String> {
        let Work { new, slots, plan, farewells, mut adapters } = work;
        let router = new.router_in(&slots).map_err(|error| error.to_string())?;
        let spec = new.store_spec_in(&slots, &self.spec);
        self.reshape(spec, farewells.drain.clone(), farewells.drop).await.map_err(|e| words(&e, &slots))?;
        self.parts.hub.reroute(router.clone());
        self.parts.routes.set(router);
        let before = self.observer.current();
        let mut views: BTreeMap<UplinkId, UplinkView> =
            before.uplinks.iter().map(|view| (view.id, view.clone())).collect();
        for uplink in &new.uplinks {
            let Some(adapter) = adapters.remove(uplink.name.as_str()) else { continue };
            match self.take_over(&new, (&slots, &farewells.drain), &plan, uplink, adapter, &views, stage) {
                Ok(view) => drop(views.insert(view.id, view)),
                // The configuration was checked: what fails here is a bug, and the old one goes on.
                Err(error) => {
                    error!(uplink = %uplink.name, error = format_args!("{error:#}"), "uplink is not changed")
                }
            }
        }
        self.keep(Current {
            config: new,
            slots,
            uplinks: views.into_values().collect(),
            draining: farewells.drain,
        });
        Ok(())
    }

    async fn reshape(
        &mut self,
        spec: StoreSpec,
        drain: Vec<Consumer>,
        drop: Vec<Consumer>,
    ) -> Result<(), ReshapeError> {
        let (done, outcome) = oneshot::channel();
        let change = Reshape { spec: spec.clone(), drain, drop };
        // Whoever waits for the outcome is this very task.
        self.parts.store.reshape(change, Box::new(move |outcome| std::mem::drop(done.send(outcome))));
        outcome.await.unwrap_or(Err(ReshapeError::Closed))?;
        self.spec = spec;
        Ok(())
    }

    /// A new adapter for the forwarder that there is, or a new forwarder.
    #[expect(
        clippy::too_many_arguments,
        reason = "one uplink of a change; all of it is needed for either way"
    )]
    fn take_over(
        &mut self,
        new: &Config,
        (slots, draining): (&Slots, &[Consumer]),
        plan: &Plan,
        uplink: &Uplink,
        (adapter, figures): Adapter,
        views: &BTreeMap<UplinkId, UplinkView>,
        stage: &mut Stage,
    ) -> anyhow::Result<UplinkView> {
        let id = slots.uplink(uplink.name.as_str()).context("an uplink without a number")?;
        if let Some(view) = views.get(&id).filter(|_| is_only_its_way(plan, uplink.name.as_str())) {
            view.handle.replace(adapter);
            return Ok(UplinkView { config: uplink.clone(), figures: Arc::new(figures), ..view.clone() });
        }
        let Built { forward, view } =
            uplinks::forward(new, slots, draining, uplink, &self.parts, (adapter, figures))?;
        match self.lanes.get(uplink.name.as_str()) {
            Some(lane) => lane.follow(forward),
            None => drop(self.lanes.insert(uplink.name.to_string(), Lane::start(stage, forward))),
        }
        Ok(view)
    }

    /// What runs from now on. Whoever has no place any more and nothing to drain is taken away.
    fn keep(&mut self, mut current: Current) {
        let place =
            |view: &UplinkView| current.config.uplinks.iter().position(|u| u.name == view.config.name);
        let drains = |view: &UplinkView| current.draining.iter().any(|consumer| consumer.uplink == view.id);
        let mut views = current.uplinks.clone();
        views.retain(|view| place(view).is_some() || drains(view));
        views.sort_by_key(|view| place(view).unwrap_or(usize::MAX));
        self.lanes.retain(|name, _| views.iter().any(|view| view.config.name.as_str() == name));
        current.uplinks = views;
        self.observer.set_current(current);
    }

    /// True while there is somebody to be looked after.
    pub(super) fn is_draining(&self) -> bool {
        !self.observer.current().draining.is_empty()
    }

    /// Takes those away that have got all they were to get.
    pub(super) async fn look_after_drains(&mut self) {
        let current = self.observer.current();
        let waits = |consumer: &&Consumer| self.parts.store.backlog(**consumer).events > 0;
        let drain: Vec<Consumer> = current.draining.iter().filter(waits).copied().collect();
        if drain.len() == current.draining.len() {
            return;
        }
        match self.reshape(self.spec.clone(), drain.clone(), Vec::new()).await {
            Ok(()) => {
                for consumer in current.draining.iter().filter(|consumer| !drain.contains(consumer)) {
                    let uplink = current.slots.uplink_name(consumer.uplink);
                    let stream = current.slots.stream_name(consumer.stream);
                    info!(uplink, stream, "drained: everything that waited is handed on");
                }
                self.keep(Current { draining: drain, ..Current::clone(&current) });
            }
            Err(error) => warn!(%error, "a drained uplink cannot be taken away yet"),
        }
    }
}

/// True if an uplink needs a new adapter: its settings differ, or the streams that its forwarder is to read. One that only
/// reads less goes on as it is.
fn is_touched(plan: &Plan, name: &str) -> bool {
    plan.uplinks.iter().any(|change| change.name == name) || begins_to_read(plan, name)
}

fn begins_to_read(plan: &Plan, name: &str) -> bool {
    plan.readers.iter().any(|reader| reader.begins && reader.uplink == name)
}

fn is_only_its_way(plan: &Plan, name: &str) -> bool {
    let way = |what: &UplinkDiff| matches!(what, UplinkDiff::Way(_));
    let only = plan.uplinks.iter().any(|change| change.name == name && way(&change.what));
    only && !begins_to_read(plan, name)
}

/// The store's refusal in the names of the file.
fn words(error: &ReshapeError, slots: &Slots) -> String {
    match error {
        ReshapeError::Waiting { consumer, events } => {
            let uplink = slots.uplink_name(consumer.uplink).unwrap_or("?");
            format!(
                "{events} events came for uplink \"{uplink}\" meanwhile: say --drain {uplink} or --drop {uplink}"
            )
        }
        other => other.to_string(),
    }
}
