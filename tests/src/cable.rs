//! A cable for the fast path: a veth pair, the server's network namespace at one end and the clients' at the other.

use crate::network::Namespace;
use crate::server::{Place, Server, Target};
use crate::transcript::Transport;
use anyhow::Result;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The addresses of the server's end.
pub const HOME4: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
pub const HOME6: Ipv6Addr = Ipv6Addr::new(0xfc00, 7, 0, 0, 0, 0, 0, 1);

#[derive(Debug)]
pub struct Cable {
    pub home: Namespace,
    pub outside: Namespace,
    /// Has a program at the clients' end that passes everything.
    peer: Option<Server>,
}

impl Cable {
    /// Both ends are `veth0`.
    pub fn lay() -> Result<Cable> {
        let (home, outside) = (Namespace::make()?, Namespace::make()?);
        home.veth(&outside, "10.7.0.1/24", "10.7.0.2/24")?;
        for (namespace, host) in [(&home, 1), (&outside, 2)] {
            namespace.ip(&format!("address add fc00:7::{host}/64 dev veth0 nodad"))?;
        }
        Ok(Cable { home, outside, peer: None })
    }

    /// Prepares the clients' end for a server that answers from XDP: `veth` loses what is sent from there if there is no
    /// XDP program at the other end, and what is sent to there has no checksum unless its sender completes it.
    pub fn suit_xdp(&mut self, target: &Target) -> Result<()> {
        self.outside.ethtool("-K veth0 tx off")?;
        let options = ["--fastpath", "veth0", "--fastpath-hook", "xdp", "--fastpath-required", "-m", "8"];
        let options = options.map(str::to_owned);
        self.peer = Some(self.outside.within(|| Server::start(target, &options, Transport::Udp, false))?);
        Ok(())
    }

    /// Where servers are to be started for clients in `outside`.
    pub fn place(&self) -> Place {
        Place { namespace: self.home.name().to_owned(), address: HOME4 }
    }
}
