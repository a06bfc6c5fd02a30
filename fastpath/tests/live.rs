//! Programs at real interfaces in network namespaces, and a client that speaks UDP. Nobody listens behind them: what they
//! do not answer, nobody answers.

#![allow(unsafe_code)]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use support::{Rig, ip, private_bpffs, private_network, runs_as_root};
use unbuckle_fastpath::{Error, Hook, Loader, unpin};

const MIB: u64 = 1 << 20;
/// After this long nothing comes any more.
const ANSWER_MAX: Duration = Duration::from_secs(10);

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
    client.set_read_timeout(Some(ANSWER_MAX)).expect("a limit");
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
fn veth() {
    if !runs_as_root("veth") {
        return;
    }
    // The client has a namespace of its own: this thread's. The programs' end of the cable is in another one.
    private_network();
    let (send, receive) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    // SAFETY: no arguments, cannot fail.
    let client_thread = unsafe { libc::gettid() };
    let server = std::thread::spawn(move || {
        private_network();
        ip(&format!(
            "link add name near address 02:00:00:00:00:01 type veth peer name far netns {client_thread}"
        ));
        ip("address add 10.0.0.1/24 dev near");
        ip("address add fc00::1/64 dev near nodad");
        ip("link set near up");
        let mut rig = Rig::new(16 * MIB, &["near"]);
        rig.set(b"key", 7, 0, b"value");
        send.send(()).expect("the test waits");
        wait.recv().expect("the test ends");
        rig.loader.maps().counters().served
    });
    receive.recv().expect("the rig stands");
    ip("address add 10.0.0.2/24 dev far");
    ip("address add fc00::2/64 dev far nodad");
    ip("link set far up");
    for (from, to) in [("10.0.0.2:0", "10.0.0.1:11211"), ("[fc00::2]:0", "[fc00::1]:11211")] {
        let client = client(from, to);
        for _ in 0..100 {
            assert_eq!(ask(&client, b"get key\r\n").unwrap(), reply(b"VALUE key 7 5\r\nvalue\r\nEND\r\n"));
        }
    }
    done.send(()).expect("the rig waits");
    assert_eq!(server.join().expect("the rig's thread"), 200);
}

/// A program that another test of this process starts holds the folder's lock, too, from its fork until its exec.
fn when_free<T>(mut take: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let began = Instant::now();
    loop {
        match take() {
            Err(Error::Busy(_)) if began.elapsed() < ANSWER_MAX => std::thread::yield_now(),
            taken => return taken,
        }
    }
}

#[test]
fn pinned_programs_outlive_their_daemon() {
    if !runs_as_root("pinned_programs_outlive_their_daemon") {
        return;
    }
    private_network();
    let mount = std::env::temp_dir().join(format!("unbuckle-bpffs-{}", std::process::id()));
    private_bpffs(&mount);
    let folder = mount.join("unbuckle");
    let (loader, adopted) = Loader::pinned(16 * MIB, &folder).unwrap();
    assert!(!adopted);
    let mut rig = Rig::over(loader, 16 * MIB, &["lo"], true);
    rig.set(b"key", 7, 0, b"value");
    let client = client("127.0.0.1:0", "127.0.0.1:11211");
    let expected = reply(b"VALUE key 7 5\r\nvalue\r\nEND\r\n");
    assert_eq!(ask(&client, b"get key\r\n").unwrap(), expected);
    assert!(matches!(Loader::pinned(16 * MIB, &folder), Err(Error::Busy(_))));
    assert!(matches!(unpin(&folder), Err(Error::Busy(_))));
    drop(rig);
    assert_eq!(ask(&client, b"get key\r\n").unwrap(), expected, "nobody is there but the programs");
    assert!(matches!(when_free(|| Loader::pinned(32 * MIB, &folder)), Err(Error::Geometry { .. })));
    let (mut loader, adopted) = when_free(|| Loader::pinned(16 * MIB, &folder)).unwrap();
    assert!(adopted);
    loader.attach("lo", Hook::Tcx).unwrap();
    assert_eq!(ask(&client, b"get key\r\n").unwrap(), expected, "by the new program");
    assert_eq!(loader.maps().counters().served, 3);
    drop(loader);
    when_free(|| unpin(&folder)).unwrap();
    let refused = ask(&client, b"get key\r\n").map_err(|error| error.kind());
    assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused));
    assert!(!folder.exists());
}

/// Prints what a get costs in the program, by the kernel's count. A get is two runs: the program sees its own replies on
/// `lo`, too, and lets them go by.
fn measure(rig: &mut Rig, what: &str, client: &UdpSocket, texts: &[String]) {
    const GETS: usize = 100_000;
    /// Under way at once: a program that runs once in a while finds its code in no cache.
    const BATCH: usize = 32;
    let served = rig.loader.maps().counters().served;
    let before = rig.run_time(Hook::Tcx);
    let mut reply = vec![0; 2048];
    for batch in 0..GETS / BATCH {
        for place in 0..BATCH {
            let text = &texts[(batch * BATCH + place) * 7919 % texts.len()];
            client.send(&[&b"\x12\x34\0\0\0\x01\0\0"[..], text.as_bytes()].concat()).expect("sent");
        }
        for _ in 0..BATCH {
            client.recv(&mut reply).expect("answered");
        }
    }
    let after = rig.run_time(Hook::Tcx);
    let served = rig.loader.maps().counters().served - served;
    println!("{what}: {:.0} ns per served get", (after.1 - before.1) as f64 / served as f64);
}

#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_get() {
    private_network();
    let mut rig = Rig::new(64 * MIB, &["lo"]);
    let _counting = aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("root");
    let key = |number: usize| format!("key{number:029}");
    let gets = |command: &str, keys: usize, rest: &str| -> Vec<String> {
        (0..keys).map(|number| format!("{command} {}{rest}\r\n", key(number))).collect()
    };
    for bytes in [32, 1300] {
        for number in 0..10_000 {
            rig.set(key(number).as_bytes(), 0, 0, &vec![b'x'; bytes]);
        }
        for (from, to) in [("127.0.0.1:0", "127.0.0.1:11211"), ("[::1]:0", "[::1]:11211")] {
            let client = client(from, to);
            for keys in [1, 10_000] {
                let what = format!("{to} value {bytes}, {keys} keys");
                measure(&mut rig, &what, &client, &gets("get", keys, ""));
            }
        }
    }
    rig.set(key(0).as_bytes(), 0, 0, &[b'x'; 32]);
    let client = client("127.0.0.1:0", "127.0.0.1:11211");
    measure(&mut rig, "gets", &client, &gets("gets", 1, ""));
    measure(&mut rig, "mg v", &client, &gets("mg", 1, " v"));
    rig.set(key(0).as_bytes(), 0, 3600, &[b'x'; 32]);
    measure(&mut rig, "an item with an expiry", &client, &gets("get", 1, ""));
    rig.set(key(0).as_bytes(), 0, 0, &[b'x'; 32]);
    no_checksums(&client);
    measure(&mut rig, "no checksum", &client, &gets("get", 1, ""));
}

/// From now on this socket sends datagrams without a checksum.
fn no_checksums(socket: &UdpSocket) {
    let yes: libc::c_int = 1;
    // SAFETY: the option's value is an int, and its size is told.
    let failed = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const yes).cast(),
            size_of_val(&yes) as libc::socklen_t,
        )
    };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}
