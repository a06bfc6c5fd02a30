//! A network of its own for a server: a namespace with one end of a veth pair, the load at the other end.
//!
//! Over loopback the sender of a datagram pays for its delivery, both ways; over a veth pair, as with a network card, a
//! server pays for what it receives and sends, and no more. Needs root and iproute2; made for one run, gone with it.

use anyhow::{Context, Result, ensure};
use std::net::Ipv4Addr;
use std::process::Command;

#[derive(Clone, Debug)]
pub struct Place {
    pub namespace: String,
    pub address: Ipv4Addr,
}

/// The namespace and the pair; removed when dropped.
#[derive(Debug)]
pub struct Veth {
    place: Place,
}

impl Veth {
    /// An error says what is missing: root, or `ip`.
    pub fn make() -> Result<Veth> {
        let process = std::process::id();
        let namespace = format!("unbuckle-bench-{process}");
        let [_, _, high, low] = process.to_be_bytes();
        // A network of four addresses among 10.128.0.0/9, where nothing else on this machine should be.
        let network = Ipv4Addr::new(10, 128 | (high >> 1), low, (high & 1) << 7);
        let host = |number: u8| {
            let [a, b, c, d] = network.octets();
            Ipv4Addr::new(a, b, c, d | number)
        };
        let (near, far) = (format!("ubn{process}"), format!("ubf{process}"));
        ip(&["netns", "add", &namespace])?;
        let veth = Veth { place: Place { namespace: namespace.clone(), address: host(2) } };
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &namespace])?;
        ip(&["address", "add", &format!("{}/30", host(1)), "dev", &near])?;
        ip(&["link", "set", &near, "up"])?;
        for arguments in [
            &["address", "add", &format!("{}/30", host(2)), "dev", &far][..],
            &["link", "set", &far, "up"],
            &["link", "set", "lo", "up"],
        ] {
            ip(&[&["-n", &namespace], arguments].concat())?;
        }
        Ok(veth)
    }

    pub fn place(&self) -> &Place {
        &self.place
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // The pair goes with the namespace. There is nobody to tell of a failure.
        let _ = ip(&["netns", "delete", &self.place.namespace]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip (apt-get install iproute2)")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), errors.trim());
    Ok(())
}
