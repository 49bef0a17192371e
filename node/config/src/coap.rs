//! `[[listener]] kind = "coap"`: its keys, their defaults, their limits.

use crate::model::{Auth, AuthKind, Listener, ListenerKind, ListenerWhenFull, RedirectWhen};
use crate::read::Section;
use crate::sections::max_payload;
use crate::units::ByteSize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The port of the protocol (RFC 7252 section 6.1).
const PORT: u16 = 5683;

pub(crate) fn listener(s: &mut Section<'_, '_>) -> Listener {
    if s.value("auth", AuthKind::Anonymous) != AuthKind::Anonymous {
        s.problem("auth", "must be \"anonymous\" here: plain CoAP has no credentials that could be checked");
    }
    Listener {
        kind: ListenerKind::Coap,
        bind: s.value("bind", SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT)),
        auth: Auth::Anonymous,
        tls: None,
        max_connections: s.bounded("max_connections", 10_000, 16..=1_000_000),
        max_payload: max_payload(s),
        subscriptions_max: s.bounded("subscriptions_max", 10_000, 0..=1_000_000),
        queue_events: s.bounded("queue_events", 1_000, 1..=1_000_000),
        // What follows is for connections, which CoAP has none of. A full stream is answered at once: a device that is not
        // answered sends again, which helps nobody.
        when_full: ListenerWhenFull::Reject,
        logins_at_once: 1,
        keep_alive_max: None,
        connect_timeout: Duration::from_secs(10),
        receive_maximum: 1,
        send_window: 1,
        topic_alias_max: 0,
        queue_bytes: ByteSize::from_mib(1),
        redirect_to: None,
        redirect_when: RedirectWhen::Full,
        multicast: s.value("multicast", Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Auth, Config, ListenerKind, Overrides};
    use std::collections::BTreeMap;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, "node.toml", &BTreeMap::new(), &Overrides::default()).map_err(|p| p.to_string())
    }

    #[test]
    fn a_coap_listener_has_the_protocol_s_port_and_its_own_keys() {
        let config = parse("[[listener]]\n[[listener]]\nkind = \"coap\"\n").unwrap();
        let listener = &config.listeners[1];
        assert_eq!((listener.kind, listener.bind.port()), (ListenerKind::Coap, 5683));
        assert_eq!(listener.auth, Auth::Anonymous);
        assert!(listener.multicast.is_empty(), "no groups unless interfaces are named");
        let named = "[[listener]]\nkind = \"coap\"\nmulticast = [\"eth0\", \"wlan0\"]\n";
        assert_eq!(parse(named).unwrap().listeners[0].multicast, ["eth0", "wlan0"]);
        let problem = parse("[[listener]]\nkind = \"coap\"\nsend_window = 3\n").unwrap_err();
        assert!(problem.contains("send_window"), "{problem}");
    }

    #[test]
    fn tcp_and_udp_have_ports_of_their_own() {
        let both = |second: &str| {
            parse(&format!(
                "[[listener]]\nbind = \"127.0.0.1:7000\"\n[[listener]]\nkind = \"{second}\"\nbind = \"127.0.0.1:7000\"\n"
            ))
        };
        both("coap").unwrap();
        let twice =
            parse("[[listener]]\nkind = \"coap\"\nbind = \"127.0.0.1:1\"\n[[listener]]\nkind = \"coap\"\n")
                .unwrap_err();
        assert!(twice.contains("one listener takes CoAP"), "{twice}");
        assert!(both("mqtt").unwrap_err().contains("is the address of listener[0] too"));
    }

    /// P7
    #[test]
    fn a_reachable_one_says_who_gets_in_and_cannot_say_password() {
        let problem = parse("[[listener]]\nkind = \"coap\"\nbind = \"0.0.0.0:5683\"\n").unwrap_err();
        assert!(problem.contains("auth: missing"), "{problem}");
        parse("[[listener]]\nkind = \"coap\"\nbind = \"0.0.0.0:5683\"\nauth = \"anonymous\"\n").unwrap();
        let problem =
            parse("[[listener]]\nkind = \"coap\"\nauth = \"password\"\npassword_file = \"x\"\n").unwrap_err();
        assert!(problem.contains("no credentials"), "{problem}");
    }
}
