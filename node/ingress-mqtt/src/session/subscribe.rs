//! SUBSCRIBE and UNSUBSCRIBE.

use super::answers::Answer;
use super::records;
use super::{Context, Machine, Session};
use crate::codec::{Subscribe, Unsubscribe};
use crate::reason::{Place, Reason};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Qos;
use eventmesh_edge_core::ports::hub::{Outlet, SubscribeOptions, SubscriberId};
use eventmesh_edge_core::ports::store::{StateChange, StateValue, Table};
use eventmesh_edge_core::topic::TopicFilter;
use std::sync::Arc;

/// What was subscribed before a SUBSCRIBE or UNSUBSCRIBE that is not durable yet; `None`: nothing.
pub(super) type Undo = Vec<(TopicFilter, Option<SubscribeOptions>)>;

impl Machine {
    pub(super) fn subscribe(&mut self, cx: &Context<'_>, subscribe: Subscribe) {
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let (mut undo, mut retained) = (Vec::new(), Vec::new());
        for (filter, options) in subscribe.filters {
            match self.subscribe_one(cx, filter, options) {
                Ok((filter, earlier)) => {
                    codes.push(options.qos as u8);
                    if wants_retained(&filter, options, earlier.is_none()) {
                        retained.push((filter.clone(), options));
                    }
                    undo.push((filter, earlier));
                }
                Err(reason) => codes.extend(reason.code(self.version, Place::SubAck)),
            }
        }
        self.batch().answers.push(Answer::SubAck { pid: subscribe.pid, codes, undo, retained });
    }

    /// Into the hub's index at once, so that what the same read publishes behind it is matched; into the store with the
    /// batch, so that SUBACK stands for something (P1).
    fn subscribe_one(
        &mut self,
        cx: &Context<'_>,
        filter: Text,
        options: SubscribeOptions,
    ) -> Result<(TopicFilter, Option<SubscribeOptions>), Reason> {
        // A copy: it outlives the packet it came in.
        let filter = TopicFilter::parse(Text::from(&*filter)).map_err(|_| Reason::TopicFilterInvalid)?;
        if filter.share().is_some() && !cx.sessions.shared_subscriptions() {
            return Err(Reason::SharedNotSupported);
        }
        let Some(session) = self.session.as_mut() else { return Err(Reason::Unspecified) };
        let known = session.filters.contains_key(filter.as_text());
        if !known && session.filters.len() >= cx.limits.subscriptions_max {
            return Err(Reason::QuotaExceeded);
        }
        cx.hub().subscribe(subscriber(cx, session), &filter, options);
        let earlier = session.filters.insert(filter.as_text().clone(), options);
        if let Some(number) = session.number {
            let key = records::subscription_key(number, filter.as_text());
            if wants_retained(&filter, options, earlier.is_none()) && has_retained(cx, &filter, options) {
                session.owed.insert(filter.as_text().clone(), (session.next_token, None));
            }
            let owed = session.owed.get(filter.as_text()).map(|(_, owed)| owed);
            let value = StateValue::Bytes(records::encode_subscription(options, owed));
            self.batch().state.push(StateChange::Put { table: Table::Subscription, key, value });
        }
        Ok((filter, earlier))
    }

    pub(super) fn unsubscribe(&mut self, cx: &Context<'_>, unsubscribe: Unsubscribe) {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        let mut undo = Vec::new();
        for filter in unsubscribe.filters {
            let reason = self.unsubscribe_one(cx, filter, &mut undo);
            codes.extend(reason.code(self.version, Place::UnsubAck));
        }
        self.batch().answers.push(Answer::UnsubAck { pid: unsubscribe.pid, codes, undo });
    }

    /// Out of the hub's index at once [MQTT-3.10.4-2], and into it again if the batch cannot be stored: after the next
    /// start the subscription would be there again, so it must not look gone until then.
    fn unsubscribe_one(&mut self, cx: &Context<'_>, filter: Text, undo: &mut Undo) -> Reason {
        let Ok(filter) = TopicFilter::parse(filter) else { return Reason::TopicFilterInvalid };
        let Some(session) = self.session.as_mut() else { return Reason::Unspecified };
        session.shared |= filter.share().is_some();
        let earlier = session.filters.remove(filter.as_text());
        session.owed.remove(filter.as_text());
        let existed = session.subscriber.is_some_and(|s| cx.hub().unsubscribe(s, &filter));
        if let Some(number) = session.number {
            let key = records::subscription_key(number, filter.as_text());
            self.batch().state.push(records::delete(Table::Subscription, key));
        }
        undo.extend(earlier.is_some().then_some((filter, earlier)));
        if existed { Reason::Success } else { Reason::NoSubscriptionExisted }
    }
}

/// Not for a shared subscription (MQTT 5.0 section 4.8.2).
fn wants_retained(filter: &TopicFilter, options: SubscribeOptions, is_new: bool) -> bool {
    let wanted = options.retain_handling == 0 || (options.retain_handling == 1 && is_new);
    wanted && filter.share().is_none()
}

/// Whether there is anything that would have to survive a kill.
fn has_retained(cx: &Context<'_>, filter: &TopicFilter, options: SubscribeOptions) -> bool {
    options.qos > Qos::AtMostOnce
        && cx.hub().retained(filter, options).iter().any(|delivery| delivery.qos > Qos::AtMostOnce)
}

impl Session {
    pub(super) fn undo(&mut self, cx: &Context<'_>, undo: &Undo) {
        let Some(subscriber) = self.subscriber else { return };
        for (filter, earlier) in undo.iter().rev() {
            if let Some(options) = earlier {
                cx.hub().subscribe(subscriber, filter, *options);
                self.filters.insert(Text::from(&**filter.as_text()), *options);
            } else {
                cx.hub().unsubscribe(subscriber, filter);
                self.filters.remove(filter.as_text());
                self.owed.remove(filter.as_text());
            }
        }
    }
}

/// The hub's number for this session; one that is not persistent gets it with its first subscription.
fn subscriber(cx: &Context<'_>, session: &mut Session) -> SubscriberId {
    *session.subscriber.get_or_insert_with(|| {
        let outlet: Arc<dyn Outlet> = session.link.clone();
        cx.hub().attach(session.number, Some(outlet))
    })
}
