//! Who can reach this server, and whether that has to be said.
//!
//! memcached listens on all addresses unless told otherwise, and asks for no password: caches have been emptied, filled and
//! used for attacks through that. A start script for memcached works here unchanged, but not silently.

use crate::listen::{Listener, Listening, Place};
use crate::options::{Cidr, Options, Protection, VerifyMode};
use std::net::SocketAddr;

/// What to say at the start. `guarded`: clients have to authenticate. Where a client's certificate is demanded, they have, too.
pub(crate) fn notice(options: &Options, listening: &Listening, guarded: bool) -> Option<String> {
    let asks_nobody = |listener: &&Listener| match listener.protection {
        Protection::Mutual => false,
        Protection::Configured => options.extended.tls.verify_mode != VerifyMode::Require,
        Protection::None | Protection::ServerOnly => true,
    };
    let listeners = listening.listeners.iter().filter(asks_nobody);
    let streams = listeners.filter_map(|listener| match listener.place {
        Place::Tcp(address) | Place::Udp(address) => Some(address),
        Place::Unix(_) => None,
    });
    let datagrams = listening.datagram_doors.iter().map(|door| door.address);
    let public = streams.chain(datagrams).find(is_public);
    match public {
        Some(address) if !guarded => Some(format!(
            "warning: no password is asked on {address}{}: whoever can reach it can read and change everything; -l chooses \
             other addresses, -Y and -S ask for passwords",
            if options.listen.is_empty() { " (all addresses)" } else { "" }
        )),
        Some(_) if options.listen.is_empty() => {
            Some("listening on all addresses; -l chooses fewer".to_owned())
        }
        _ => None,
    }
}

/// Neither this machine's alone nor of a private network; or all there are.
fn is_public(address: &SocketAddr) -> bool {
    !Cidr::private_ranges().iter().any(|range| range.contains(address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{ListenAddress, Protocol};

    fn told(address: &str, all: bool, guarded: bool) -> Option<String> {
        told_with(address, all, guarded, Protection::None)
    }

    fn told_with(address: &str, all: bool, guarded: bool, protection: Protection) -> Option<String> {
        let socket = std::fs::File::open("/dev/null").unwrap().into();
        let place = Place::Tcp(address.parse().unwrap());
        let listener = Listener { socket, place, protection, protocol: Protocol::Auto };
        let listening = Listening { listeners: vec![listener], ..Listening::default() };
        let mut options = Options::default();
        if !all {
            options.listen = vec![ListenAddress::everywhere()];
        }
        notice(&options, &listening, guarded)
    }

    #[test]
    fn an_open_door_to_the_public_is_told() {
        for address in ["0.0.0.0:11211", "[::]:11211", "203.0.113.5:11211", "[2001:db8::1]:11211"] {
            assert!(told(address, false, false).unwrap().starts_with("warning: "), "{address}");
            assert_eq!(told(address, false, true), None, "{address}");
        }
        assert!(told("0.0.0.0:11211", true, false).unwrap().contains("all addresses"));
        assert!(!told("0.0.0.0:11211", true, true).unwrap().contains("warning"));
        assert_eq!(told_with("0.0.0.0:11211", true, false, Protection::Mutual), None);
        for address in ["127.0.0.1:11211", "[::1]:11211", "10.1.2.3:11211", "192.168.0.1:11211"] {
            assert_eq!(told(address, false, false), None, "{address}");
        }
    }
}
