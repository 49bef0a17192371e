//! What happens to the client, told to whoever subscribes to `$edge/clients/#` or routes it upstream.

use super::end::unattended;
use super::subscribe::Undo;
use super::{Connecting, Context, End, Machine, Output};
use crate::codec::Version;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::hub::{Publication, Submission};
use eventmesh_edge_core::telemetry::ClientEvent;

/// Codes of SUBACK from here on are failures.
const FAILURE: u8 = 0x80;

impl Machine {
    pub(super) fn tell_connected(&self, cx: &Context<'_>, connecting: &Connecting, out: &mut Output) {
        let Some(session) = self.session.as_ref() else { return };
        let keep_alive = self.keep_alive.unwrap_or_default().as_secs();
        let event = ClientEvent::Connected {
            protocol: protocol(self.version),
            user: Some(&*session.principal.name).filter(|_| !session.principal.anonymous),
            clean_start: connecting.connect.clean_start,
            session_present: connecting.session_present,
            keep_alive_s: u16::try_from(keep_alive).unwrap_or(u16::MAX),
            session_expiry_s: session.expiry_secs,
        };
        self.tell(cx, event, out);
    }

    pub(super) fn tell_disconnected(&self, cx: &Context<'_>, how: End, out: &mut Output) {
        let reason = match how {
            End::Normal => "disconnect",
            End::WithWill => "disconnect with will",
            End::Lost => "connection lost",
            End::Failed(reason) => reason.as_str(),
        };
        self.tell(cx, ClientEvent::Disconnected { reason }, out);
    }

    /// `codes` are those of SUBACK, `granted` the filters of its successes.
    pub(super) fn tell_subscribed(&self, cx: &Context<'_>, codes: &[u8], granted: &Undo, out: &mut Output) {
        if granted.is_empty() || !cx.sessions.tells_client_events() {
            return;
        }
        let codes = codes.iter().filter(|code| **code < FAILURE);
        let filters = granted.iter().zip(codes).map(|((filter, _), qos)| (filter.as_text().clone(), *qos));
        self.tell(cx, ClientEvent::Subscribed(filters.collect()), out);
    }

    pub(super) fn tell_unsubscribed(&self, cx: &Context<'_>, removed: &Undo, out: &mut Output) {
        if removed.is_empty() || !cx.sessions.tells_client_events() {
            return;
        }
        let filters = removed.iter().map(|(filter, _)| filter.as_text().clone());
        self.tell(cx, ClientEvent::Unsubscribed(filters.collect()), out);
    }

    fn tell(&self, cx: &Context<'_>, event: ClientEvent<'_>, out: &mut Output) {
        let Some(client_id) = self.client_id().filter(|_| cx.sessions.tells_client_events()) else { return };
        let (source, id): (Text, Text) = cx.sessions.client_event_identity();
        let event = event.into_event(source, id, client_id, cx.wall);
        let publications = vec![Publication { event, publisher: None }];
        // A full stream loses them rather than hold up the devices, for whom the hub's waiting room is (P5).
        let submission = Submission { publications, refuse_when_full: true, ..Submission::default() };
        unattended(submission, out);
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::V31 => "MQTT 3.1",
        Version::V311 => "MQTT 3.1.1",
        Version::V5 => "MQTT 5.0",
    }
}
