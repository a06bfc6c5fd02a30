//! What the programs in the kernel and the daemon agree on: maps by name, the configuration, the counters.
//!
//! Plain words in the machine's order. The daemon writes the configuration in memory that both map, and the programs
//! read it with one load a field; so tables are changed only while [`Config::enabled`] is 0, and every field that
//! changes while programs run is one aligned word. Nothing here is code that runs on a packet's way.
#![no_std]

/// Changes with every change of this file that the other side would misunderstand. Pinned maps of another version are
/// not taken over.
pub const VERSION: u64 = 1;

/// Names of the maps and programs in the object.
pub mod name {
    /// The region: a mappable array of elements of [`super::ELEMENT_BYTES`].
    pub const REGION: &str = "REGION";
    /// One [`super::Config`], mappable.
    pub const CONFIG: &str = "CONFIG";
    /// One [`super::Counters`] for each possible processor, mappable.
    pub const COUNTERS: &str = "COUNTERS";
    /// The programs' working memory.
    pub const SCRATCH: &str = "SCRATCH";
    /// The program for tcx ingress.
    pub const TCX: &str = "unbuckle_tcx";
    /// The program for XDP.
    pub const XDP: &str = "unbuckle_xdp";
}

/// log2 of [`ELEMENT_BYTES`].
pub const ELEMENT_BYTES_LOG2: u32 = 20;
/// Bytes of an element of the region's map. No page of the store crosses one.
pub const ELEMENT_BYTES: usize = 1 << ELEMENT_BYTES_LOG2;
/// Payload of a reply's datagram, frame header included: what passes any network unbroken, and what the server sends.
pub const DATAGRAM_BYTES_MAX: usize = 1400;
/// The smallest MTU of an interface whose requests are answered: IP packets up to this length are sent without asking for it.
pub const MTU_MIN: u64 = 576;
/// Local addresses that the programs can know. On a host with more, the rest is served by the daemon.
pub const LOCALS_MAX: usize = 32;
/// Ranges of allowed sources of each family; likewise.
pub const RANGES_MAX: usize = 16;
/// Ports that UDP sockets are bound to.
pub const PORTS_MAX: usize = 4;
/// Interfaces that programs are attached to.
pub const INTERFACES_MAX: usize = 8;

/// Bits of [`Config::flags`].
pub mod flag {
    /// Replies tell the CAS; without it (`-C`) they tell 0.
    pub const CAS: u64 = 1;
    /// The machine reorders loads: fence around what is read without locks.
    pub const FENCES: u64 = 1 << 1;
}

/// Bits of an interface's and a local address's flags.
pub mod local {
    /// It is a loopback interface: sources are our own addresses there, and ours alone.
    pub const LOOPBACK: u32 = 1;
    /// Addresses of this one are only good on the interface with their index (link-local ones).
    pub const BOUND: u32 = 1 << 1;
}

/// Up to [`PORTS_MAX`] ports, in network order; 0 where there are fewer. One word, so that all are looked at at once.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports(u64);

impl Ports {
    /// A bit for each port.
    const ONES: u64 = 0x0001_0001_0001_0001;

    /// The first of some ports.
    pub fn first(ports: impl Iterator<Item = u16>) -> Ports {
        Ports(
            ports
                .take(PORTS_MAX)
                .fold((0, 0), |(word, shift), port| (word | u64::from(port) << shift, shift + 16))
                .0,
        )
    }

    /// Whether `port` is among them; for 0, whether there are fewer than [`PORTS_MAX`].
    #[inline(always)]
    pub fn has(self, port: u16) -> bool {
        self.matches(port) != 0
    }

    /// As [`Ports::has`], for code without branches: 0 if it is not.
    #[inline(always)]
    pub fn matches(self, port: u16) -> u64 {
        // A port that is the same leaves sixteen bits of 0, and the lowest of those is the lowest to borrow.
        let different = self.0 ^ Ports::ONES.wrapping_mul(u64::from(port));
        different.wrapping_sub(Ports::ONES) & !different & (Ports::ONES << 15)
    }
}

/// An IPv4 address of this host. In network order, as in the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local4 {
    pub address: u32,
    /// Bits of [`local`].
    pub flags: u32,
    /// The ports that are served at it; none for an address that is ours and not served.
    pub ports: Ports,
}

/// An IPv6 address of this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local6 {
    pub address: [u64; 2],
    pub flags: u32,
    /// Where the address is good, with [`local::BOUND`].
    pub interface: u32,
    pub ports: Ports,
}

/// Sources whose address, masked, equals `bits`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range4 {
    pub bits: u32,
    pub mask: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range6 {
    pub bits: [u64; 2],
    pub mask: [u64; 2],
}

/// A tagged frame is one of ours if its VLAN has a bit here.
pub const VLAN_WORDS: usize = 4096 / 64;

/// An interface that a program is attached to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// 0: the entry is free.
    pub index: u32,
    /// Bits of [`local`].
    pub flags: u32,
    /// Its MAC address in the first six bytes, as in the frame.
    pub mac: u64,
    /// VLANs that end at this host, in this namespace, under the same MAC address.
    pub vlans: [u64; VLAN_WORDS],
}

impl Default for Interface {
    fn default() -> Interface {
        Interface { index: 0, flags: 0, mac: 0, vlans: [0; VLAN_WORDS] }
    }
}

/// Everything that the programs go by, beside the region's header.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// [`VERSION`] while the programs may answer; 0 makes them pass everything.
    pub enabled: u64,
    /// [`VERSION`] of the daemon that made the maps.
    pub version: u64,
    /// CLOCK_BOOTTIME in nanoseconds when the daemon last said that it lives.
    pub heartbeat_ns: u64,
    /// How much later than the heartbeat the programs still answer.
    pub grace_ns: u64,
    /// CLOCK_BOOTTIME in nanoseconds (wrapping) when the region's count of seconds was 0.
    pub second_zero_ns: u64,
    /// Bits of [`flag`].
    pub flags: u64,
    /// All ports of all locals, in network order: what makes a packet worth a closer look. 0: none.
    pub ports: Ports,
    pub locals4_count: u32,
    pub locals6_count: u32,
    pub ranges4_count: u32,
    pub ranges6_count: u32,
    pub locals4: [Local4; LOCALS_MAX],
    pub locals6: [Local6; LOCALS_MAX],
    pub ranges4: [Range4; RANGES_MAX],
    pub ranges6: [Range6; RANGES_MAX],
    pub interfaces: [Interface; INTERFACES_MAX],
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: 0,
            version: VERSION,
            heartbeat_ns: 0,
            grace_ns: 0,
            second_zero_ns: 0,
            flags: 0,
            ports: Ports::default(),
            locals4_count: 0,
            locals6_count: 0,
            ranges4_count: 0,
            ranges6_count: 0,
            locals4: [Local4::default(); LOCALS_MAX],
            locals6: [Local6::default(); LOCALS_MAX],
            ranges4: [Range4::default(); RANGES_MAX],
            ranges6: [Range6::default(); RANGES_MAX],
            interfaces: [Interface::default(); INTERFACES_MAX],
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident / $text:literal,)+) => {
        /// Why a packet for one of our ports was passed on to the network stack.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Reason { $($(#[$doc])* $name,)+ }

        impl Reason {
            /// How many reasons there are.
            pub const COUNT: usize = [$($text),+].len();
            /// What statistics call them, in order.
            pub const NAMES: [&'static str; Reason::COUNT] = [$($text),+];
            pub const ALL: [Reason; Reason::COUNT] = [$(Reason::$name),+];
        }
    };
}

reasons! {
    /// The daemon has switched the programs off.
    Disabled / "disabled",
    /// The daemon has not been heard of for longer than the grace.
    Silent / "silent",
    /// An aggregate of several packets, or too long for a request.
    Size / "size",
    /// Lengths, options, fragments or checksums of IP.
    Network / "network",
    /// Not to one of our addresses, or not to this host.
    Foreign / "foreign",
    /// From where no request can come: multicast, martian, port 0, ourselves.
    Source / "source",
    /// Not from an allowed range: the daemon gives it its rate.
    Policy / "policy",
    /// The UDP checksum or length.
    Transport / "transport",
    /// The UDP frame, or a request in several datagrams.
    Frame / "frame",
    /// No `get`, `gets` or plain `mg`, or several commands.
    Command / "command",
    /// The item is not there, or dead.
    Miss / "miss",
    /// A writer was at work.
    Torn / "torn",
    /// The item is large, stale or has a binary key.
    Special / "special",
    /// The reply is longer than one datagram, or than the interface takes.
    Long / "long",
    /// The packet could not be made as long as the reply.
    Resize / "resize",
    /// Something is not as it should be; should never be counted.
    Internal / "internal",
}

/// What one processor has counted. Only it writes here.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests answered.
    pub served: u64,
    /// Keys answered: each is a get and a hit.
    pub hits: u64,
    /// Bytes of these requests and replies, UDP frames included.
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Packets passed on, by [`Reason`].
    pub passed: [u64; Reason::COUNT],
}

/// Bytes behind the configuration's last field.
pub const CONFIG_SPARE_BYTES: usize = 56;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found() {
        let some = [11211u16, 1, 0xffff, 0x8000];
        for count in 0..=PORTS_MAX {
            let ports = Ports::first(some.into_iter().take(count));
            for port in 1..=u16::MAX {
                assert_eq!(ports.has(port), some[..count].contains(&port), "{port} of {count}");
            }
            assert_eq!(ports.has(0), count < PORTS_MAX);
        }
    }
}
