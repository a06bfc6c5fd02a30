//! `floor`: the bare server that `compare` measures the others against. See `unbuckle_bench::floor`.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use unbuckle_bench::floor::{Canned, serve_tcp, serve_udp};

fn main() -> Result<()> {
    use lexopt::prelude::*;
    let (mut port, mut udp, mut canned) = (0u16, false, Canned { request_bytes: 38, reply_bytes: 149 });
    let (mut threads, mut address) = (1, Ipv4Addr::LOCALHOST);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('p') | Long("port") => port = parser.value()?.parse()?,
            Short('l') | Long("address") => address = parser.value()?.parse()?,
            Short('u') | Long("udp") => udp = true,
            Long("request-bytes") => canned.request_bytes = parser.value()?.parse()?,
            Long("reply-bytes") => canned.reply_bytes = parser.value()?.parse()?,
            Short('t') | Long("threads") => threads = parser.value()?.parse()?,
            Short('h') | Long("help") => {
                println!(
                    "floor [--udp] [--address IP] [--port PORT] [--request-bytes N] [--reply-bytes N] [--threads N]"
                );
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if udp {
        let socket = UdpSocket::bind((address, port)).context("binding the UDP port")?;
        return serve_udp(&socket, canned.reply_bytes);
    }
    let listener = TcpListener::bind((address, port)).context("binding the TCP port")?;
    serve_tcp(&listener, canned, threads)
}
