//! Multicast: requests to the groups of all CoAP nodes (RFC 7252 sections 8 and 12.8). Off unless interfaces are named.
//!
//! A datagram does not say where it was sent to, so each group has a socket of its own, bound to the group's address: what it
//! receives was sent to the group. Answers go out by the listener's own socket, whose address a client can go on with
//! (section 8.1).

use rustix::net::netdevice::name_to_index;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};

/// All CoAP Nodes.
const IPV4: Ipv4Addr = Ipv4Addr::new(224, 0, 1, 187);
/// The same over IPv6, link-local and site-local.
const IPV6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfd), Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0xfd)];

/// The listener's own socket. `shares`: others listen at its port for the groups.
pub(crate) fn unicast(address: SocketAddr, shares: bool) -> io::Result<UdpSocket> {
    if !shares {
        return UdpSocket::bind(address);
    }
    let socket = new(Domain::for_address(address))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The sockets of the groups, over the interfaces named.
///
/// # Errors
/// An interface is not there, or has neither kind of address.
pub(crate) fn join(own: SocketAddr, interfaces: &[String]) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    for name in interfaces {
        let before = sockets.len();
        let index = name_to_index(new(Domain::IPV4)?, name)?;
        let dual = own.is_ipv6() && own.ip().is_unspecified();
        let mut failed = None;
        if own.is_ipv4() || dual {
            match join_v4(own.port(), index) {
                Ok(socket) => sockets.push(socket),
                Err(error) => failed = Some(error),
            }
        }
        for group in IPV6.into_iter().filter(|_| own.is_ipv6()) {
            match join_v6(group, own.port(), index) {
                Ok(socket) => sockets.push(socket),
                Err(error) => failed = Some(error),
            }
        }
        // An interface may have only one of the two.
        match failed {
            Some(error) if sockets.len() == before => return Err(error),
            Some(error) => tracing::info!(interface = name, %error, "a group was not joined"),
            None => {}
        }
    }
    Ok(sockets)
}

fn join_v4(port: u16, index: u32) -> io::Result<UdpSocket> {
    let socket = new(Domain::IPV4)?;
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(IPV4, port)).into())?;
    socket.join_multicast_v4_n(&IPV4, &InterfaceIndexOrAddress::Index(index))?;
    Ok(socket.into())
}

fn join_v6(group: Ipv6Addr, port: u16, index: u32) -> io::Result<UdpSocket> {
    let socket = new(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.bind(&SocketAddr::V6(SocketAddrV6::new(group, port, 0, index)).into())?;
    socket.join_multicast_v6(&group, index)?;
    Ok(socket.into())
}

/// A socket that shares its port, and receives only from groups that it has joined itself (ip(7), `IP_MULTICAST_ALL`).
fn new(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_multicast_all_v4(false)?;
    if domain == Domain::IPV6 {
        socket.set_multicast_all_v6(false)?;
    }
    Ok(socket)
}

/// A peer as the listener's own socket names it.
pub(crate) fn as_seen_by(own: SocketAddr, peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(peer) if own.is_ipv6() => {
            SocketAddr::V6(SocketAddrV6::new(peer.ip().to_ipv6_mapped(), peer.port(), 0, 0))
        }
        peer => peer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_an_ipv4_peer_goes_out_of_a_socket_of_both_kinds() {
        let peer: SocketAddr = "192.0.2.1:5683".parse().unwrap();
        assert_eq!(
            as_seen_by("[::]:5683".parse().unwrap(), peer),
            "[::ffff:192.0.2.1]:5683".parse().unwrap()
        );
        assert_eq!(as_seen_by("0.0.0.0:5683".parse().unwrap(), peer), peer);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let own = "127.0.0.1:9".parse().unwrap();
        assert!(join(own, &["no-such-interface".to_owned()]).is_err());
        assert!(join(own, &[]).unwrap().is_empty());
    }

    /// What was sent to the group comes to the group's socket, and only there.
    #[test]
    fn a_group_s_datagrams_are_told_from_others() {
        let own = unicast("0.0.0.0:0".parse().unwrap(), true).unwrap();
        let port = own.local_addr().unwrap().port();
        let group = join(own.local_addr().unwrap(), &["lo".to_owned()]).unwrap().remove(0);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_ip_multicast_if(&client, &Ipv4Addr::LOCALHOST).unwrap();
        client.send_to(b"to all", (IPV4, port)).unwrap();
        client.send_to(b"to one", (Ipv4Addr::LOCALHOST, port)).unwrap();
        for (socket, expected) in [(group, &b"to all"[..]), (own, b"to one")] {
            let mut buffer = [0; 16];
            let (length, _) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected);
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv_from(&mut buffer).is_err(), "nothing else");
        }
    }
}
