//! What every message says about its sender.

use crate::options::{Claimed, Options};
use crate::wire::attributes;
use bytes::Bytes;

/// Attributes that never change, in protobuf already.
#[derive(Debug)]
pub(crate) struct Preambles {
    /// Of a publish.
    pub(crate) publish: Bytes,
    /// Of a subscription and of a heartbeat.
    pub(crate) consume: Bytes,
}

impl Preambles {
    pub(crate) fn new(options: &Options) -> Preambles {
        let claimed = options.claimed.clone().unwrap_or_else(|| Claimed::of(&options.node, &options.name));
        let pid = claimed.pid.to_string();
        let ttl = options.ttl.as_millis().to_string();
        let login = options.credentials.as_ref();
        // Both are required and must not be empty (code 6), whether the cluster looks at them or not.
        let username = login.map_or("edge", |c| c.username.as_str());
        let password = login.and_then(|c| c.password.as_ref()).map_or("none", |p| p.reveal());
        let common = [
            ("env", options.env.as_str()),
            ("idc", &options.idc),
            ("ip", &claimed.ip),
            ("pid", &pid),
            ("sys", &options.sys),
            ("username", username),
            ("passwd", password),
            ("language", "RUST"),
            ("protocoltype", "cloudevents"),
            // Anything else: acknowledged, and never delivered to a gRPC consumer.
            ("protocoldesc", "grpc-cloud-event"),
            ("protocolversion", "1.0"),
        ];
        let publish = [("producergroup", options.producer_group.as_str()), ("ttl", &ttl)];
        let consume =
            [("consumergroup", options.down.group.as_str()), ("datacontenttype", "application/json")];
        Preambles {
            publish: attributes(common.into_iter().chain(publish)),
            consume: attributes(common.into_iter().chain(consume)),
        }
    }
}

impl Claimed {
    /// What a node calls itself if it is not told otherwise.
    ///
    /// The runtime knows a consumer by the `ip` and `pid` that it claims: with the same pair a dead stream is replaced at once, with another
    /// one what is routed to the dead stream is lost until its heartbeat expires; and two nodes with one pair would replace each other. So
    /// the pair is made of the node's and the uplink's name: 24 bits of a loopback address, which is nobody's, and 31 bits of a number.
    #[must_use]
    pub fn of(node: &str, uplink: &str) -> Claimed {
        let hash = fnv1a(node.bytes().chain([0]).chain(uplink.bytes()));
        let [a, b, c, d, e, f, g, _] = hash.to_be_bytes();
        Claimed { ip: format!("127.{a}.{b}.{c}"), pid: u32::from_be_bytes([d & 0x7f, e, f, g]).max(1) }
    }
}

/// FNV-1a, 64 bits: the same in every version of the program, which the standard library's hashes are not.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_stable_and_each_nodes_own() {
        let of = Claimed::of;
        assert_eq!(of("plant-7", "cloud"), of("plant-7", "cloud"));
        // Written down: a new version of the program must not become another consumer.
        assert_eq!(of("plant-7", "cloud"), Claimed { ip: IP.to_owned(), pid: PID });
        let all =
            [of("plant-7", "cloud"), of("plant-8", "cloud"), of("plant-7", "b"), of("plant", "-7cloud")];
        for (i, one) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|other| one != other), "{one:?}");
        }
    }

    const IP: &str = "127.1.113.205";
    const PID: u32 = 1_024_179_216;

    #[test]
    fn fnv1a_is_fnv1a() {
        assert_eq!(fnv1a(b"".iter().copied()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a".iter().copied()), 0xaf63_dc4c_8601_ec8c);
    }
}
