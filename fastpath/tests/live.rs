//! Programs at real interfaces in network namespaces, and a client that speaks UDP. Nobody listens behind them: what they
//! do not answer, nobody answers.

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use support::{Rig, private_network, runs_as_root};
use unbuckle_fastpath::Hook;

const MIB: u64 = 1 << 20;

/// Sends a request and waits for its reply.
fn ask(client: &UdpSocket, text: &[u8]) -> std::io::Result<Vec<u8>> {
    client.send(&[&b"\x12\x34\0\0\0\x01\0\0"[..], text].concat())?;
    let mut reply = vec![0; 2048];
    let len = client.recv(&mut reply)?;
    reply.truncate(len);
    Ok(reply)
}

fn client(from: &str, to: &str) -> UdpSocket {
    let client = UdpSocket::bind(from).expect("a socket");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    client.connect(to.parse::<SocketAddr>().expect("an address")).expect("connected");
    client
}

fn reply(text: &[u8]) -> Vec<u8> {
    [&b"\x12\x34\0\0\0\x01\0\0"[..], text].concat()
}

#[test]
fn loopback() {
    if !runs_as_root("loopback") {
        return;
    }
    private_network();
    let mut rig = Rig::new(16 * MIB, &["lo"]);
    rig.set(b"key", 7, 0, b"value");
    let long = vec![b'x'; 1360];
    rig.set(b"long", 0, 0, &long);
    let expected_long = [&b"VALUE long 0 1360\r\n"[..], &long, b"\r\nEND\r\n"].concat();
    for (from, to) in [("127.0.0.1:0", "127.0.0.1:11211"), ("[::1]:0", "[::1]:11211")] {
        let client = client(from, to);
        for _ in 0..1000 {
            assert_eq!(ask(&client, b"get key\r\n").unwrap(), reply(b"VALUE key 7 5\r\nvalue\r\nEND\r\n"));
            assert_eq!(ask(&client, b"get long\r\n").unwrap(), reply(&expected_long));
            assert_eq!(ask(&client, b"mg key v\r\n").unwrap(), reply(b"VA 5\r\nvalue\r\n"));
        }
        // Nobody is behind the programs.
        let refused = ask(&client, b"get none\r\n").map_err(|error| error.kind());
        assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused));
    }
    assert_eq!(rig.loader.maps().counters().served, 6000);
}

#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_get() {
    private_network();
    let mut rig = Rig::new(64 * MIB, &["lo"]);
    let _counting = aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("root");
    for (bytes, keys) in [(32, 1), (32, 10_000), (1300, 1), (1300, 10_000)] {
        let key = |number: usize| format!("key{number:029}");
        for number in 0..keys {
            rig.set(key(number).as_bytes(), 0, 0, &vec![b'x'; bytes]);
        }
        for (from, to) in [("127.0.0.1:0", "127.0.0.1:11211"), ("[::1]:0", "[::1]:11211")] {
            let client = client(from, to);
            let texts: Vec<String> = (0..keys).map(|number| format!("get {}\r\n", key(number))).collect();
            let served = rig.loader.maps().counters().served;
            let before = rig.run_time(Hook::Tcx);
            let start = std::time::Instant::now();
            let rounds = 200_000;
            for round in 0..rounds {
                ask(&client, texts[round * 7919 % keys].as_bytes()).unwrap();
            }
            let elapsed = start.elapsed();
            let after = rig.run_time(Hook::Tcx);
            let served = rig.loader.maps().counters().served - served;
            // The program sees its own replies on `lo`, too, and lets them go by.
            println!(
                "{to} value {bytes} of {keys} keys: {:.0} ns per served get ({} runs), {:.0} requests/s",
                (after.1 - before.1) as f64 / served as f64,
                after.0 - before.0,
                rounds as f64 / elapsed.as_secs_f64()
            );
        }
    }
}
