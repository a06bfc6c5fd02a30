//! The fast path's life: what starts and ends it, and what outlives a daemon.
//!
//! Each test has a network and, if it pins, a bpffs of its own. What is answered is in the conformance suite and in
//! `torture.rs`, who is not in `fastpath_attack.rs`.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use unbuckle_tests::datagram::{connect, get};
use unbuckle_tests::line::Line;
use unbuckle_tests::network::{Namespace, Pins, output, runs_as_root};
use unbuckle_tests::server::{Server, Target, count, stats, unbuckle_path};
use unbuckle_tests::torture::value::{Kind, value};
use unbuckle_tests::transcript::Transport;

/// After this long without a byte an answer is taken as missing.
const ANSWER_MAX: Duration = Duration::from_secs(10);

fn binary() -> PathBuf {
    unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn start(options: &str) -> Server {
    Server::start(&Target::unbuckle(binary()), &words(options), Transport::Udp, false).unwrap()
}

fn own_stats(server: SocketAddr) -> BTreeMap<String, String> {
    stats(server, "stats unbuckle\r\n").unwrap()
}

#[test]
fn hits_count_like_any_others() {
    if !runs_as_root("the fast path's counters") {
        return;
    }
    Namespace::make().unwrap().within(|| {
        let server = start("--fastpath lo --fastpath-required");
        let address = server.socket_address().unwrap();
        Line::open(address).unwrap().set("a", b"hello").unwrap();
        let socket = connect(address).unwrap();
        for _ in 0..50 {
            assert_eq!(get(&socket, "a").unwrap(), b"hello");
            assert_eq!(get(&socket, "b").unwrap(), b"");
        }
        let own = own_stats(address);
        assert_eq!(own["fastpath"], "lo:tcx");
        assert_eq!((count(&own, "fastpath_served"), count(&own, "fastpath_hits")), (50, 50));
        assert_eq!(count(&own, "fastpath_passed_miss"), 50);
        let general = stats(address, "stats\r\n").unwrap();
        for (name, value) in [("cmd_get", 100), ("get_hits", 50), ("get_misses", 50)] {
            assert_eq!(count(&general, name), value, "{name}");
        }
        assert!(count(&general, "bytes_read") > 100 * 15 && count(&general, "bytes_written") > 100 * 13);
    });
}

#[test]
fn whoever_watches_gets_sees_all_of_them() {
    if !runs_as_root("watching with a fast path") {
        return;
    }
    Namespace::make().unwrap().within(|| {
        let server = start("--fastpath lo --fastpath-required");
        let address = server.socket_address().unwrap();
        let mut line = Line::open(address).unwrap();
        line.set("a", b"hello").unwrap();
        let socket = connect(address).unwrap();
        let served = || count(&own_stats(address), "fastpath_served");
        let is_served = || {
            let before = served();
            assert_eq!(get(&socket, "a").unwrap(), b"hello");
            served() > before
        };
        assert!(is_served());
        let mut watcher = Line::open(address).unwrap();
        assert_eq!(watcher.ask(b"watch fetchers\r\n").unwrap(), "OK");
        for _ in 0..3 {
            assert!(!is_served());
            let told = watcher.answer().unwrap();
            assert!(told.contains("type=item_get key=a status=found"), "{told}");
        }
        // It is a second until the server looks again.
        drop(watcher);
        let began = Instant::now();
        while !is_served() {
            assert!(began.elapsed() < ANSWER_MAX, "nobody watches any more");
        }
        // Statistics by prefix count each get.
        assert_eq!(line.ask(b"stats detail on\r\n").unwrap(), "OK");
        assert!(!is_served());
        assert_eq!(line.ask(b"stats detail off\r\n").unwrap(), "OK");
        assert!(is_served());
    });
}

#[test]
fn privileges_are_dropped_when_all_is_attached_and_an_orderly_end_detaches() {
    if !runs_as_root("dropping privileges with a fast path") {
        return;
    }
    Namespace::make().unwrap().within(|| {
        let mut server = start("--fastpath lo --fastpath-required -u nobody");
        let address = server.socket_address().unwrap();
        Line::open(address).unwrap().set("a", b"hello").unwrap();
        assert_eq!(get(&connect(address).unwrap(), "a").unwrap(), b"hello");
        assert_eq!(count(&own_stats(address), "fastpath_served"), 1);
        let options = format!("ctl doctor -l 127.0.0.1 -U {} --fastpath lo", address.port());
        let doctor = || {
            let words = words(&options);
            output(&binary(), &words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
        };
        let (code, text) = doctor();
        assert!(code == 0 && text.contains("lo: unbuckle_tcx") && !text.contains("MISSING"), "{text}");
        assert!(server.end("TERM").unwrap().success());
        let (_, text) = doctor();
        assert!(text.contains("lo: no program of ours"), "{text}");
    });
}

#[test]
fn what_is_missing_is_said_and_service_goes_on_without() {
    if !runs_as_root("a fast path that can't be") {
        return;
    }
    Namespace::make().unwrap().within(|| {
        let server = start("--fastpath nowhere0");
        let address = server.socket_address().unwrap();
        Line::open(address).unwrap().set("a", b"hello").unwrap();
        assert_eq!(get(&connect(address).unwrap(), "a").unwrap(), b"hello");
        assert!(server.errors_text().contains("no interface \"nowhere0\""), "{}", server.errors_text());
        assert!(!own_stats(address).contains_key("fastpath"));
        for (arguments, what) in [
            (&["--fastpath", "lo", "--fastpath-required", "-p", "0"][..], "UDP is off"),
            (&["--fastpath", "nope", "--fastpath-required", "-U", "7"], "no interface \"nope\""),
            (
                &["--fastpath", "lo", "--fastpath-pin=/etc/x", "--fastpath-required", "-U", "7"],
                "not in a bpffs",
            ),
        ] {
            let (code, text) = output(&binary(), arguments).unwrap();
            assert!(code == 71 && text.contains(what), "{arguments:?} ended with {code}: {text}");
            let (code, text) = output(&binary(), &[&["ctl", "doctor"], arguments].concat()).unwrap();
            assert!(code == 1 && text.contains("MISSING") && text.contains(what), "{code}: {text}");
        }
    });
}

#[test]
fn detach_ends_what_a_daemon_has_left_but_not_what_it_has() {
    if !runs_as_root("detaching") {
        return;
    }
    let pins = Pins::make().unwrap();
    Namespace::make().unwrap().within(|| {
        let folder = pins.folder();
        let detach = || output(&binary(), &["ctl", "detach", folder.to_str().unwrap()]).unwrap();
        let (code, text) = detach();
        assert!(code == 0 && text.contains("nothing is pinned"), "{text}");
        let mut server =
            start(&format!("--fastpath lo --fastpath-required --fastpath-pin={}", folder.display()));
        let address = server.socket_address().unwrap();
        Line::open(address).unwrap().set("a", b"hello").unwrap();
        let (code, text) = detach();
        assert!(code == 1 && text.contains("running"), "{text}");
        assert!(server.end("TERM").unwrap().success());
        assert_eq!(
            get(&connect(address).unwrap(), "a").unwrap(),
            b"hello",
            "the kernel answers without the daemon"
        );
        let (code, text) = detach();
        assert!(code == 0 && text.contains("detached: tcx-lo"), "{text}");
        let socket = connect(address).unwrap();
        assert_eq!(get(&socket, "a"), None, "nobody answers");
        assert!(!folder.exists());
    });
}

#[test]
fn a_pinned_cache_of_another_size_makes_room() {
    if !runs_as_root("pins of another size") {
        return;
    }
    let pins = Pins::make().unwrap();
    Namespace::make().unwrap().within(|| {
        let options = |memory| {
            format!(
                "--fastpath lo --fastpath-required --fastpath-pin={} -m {memory}",
                pins.folder().display()
            )
        };
        let mut server = start(&options(32));
        let address = server.socket_address().unwrap();
        Line::open(address).unwrap().set("a", b"old").unwrap();
        server.end("KILL").unwrap();
        let server =
            Server::start_again(&Target::unbuckle(binary()), &words(&options(16)), address.port()).unwrap();
        assert!(server.errors_text().contains("starts empty"), "{}", server.errors_text());
        assert_eq!(
            get(&connect(address).unwrap(), "a").unwrap(),
            b"",
            "what an earlier daemon had is not this one's"
        );
    });
}

#[test]
fn a_server_without_a_fast_path_silences_what_an_earlier_one_has_left() {
    if !runs_as_root("silencing") {
        return;
    }
    let pins = Pins::make().unwrap();
    Namespace::make().unwrap().within(|| {
        let folder = pins.folder();
        let pinned = format!("--fastpath lo --fastpath-required --fastpath-pin={}", folder.display());
        let mut server = start(&pinned);
        let address = server.socket_address().unwrap();
        Line::open(address).unwrap().set("a", b"old").unwrap();
        server.end("KILL").unwrap();
        assert_eq!(get(&connect(address).unwrap(), "a").unwrap(), b"old");
        // This one can't have a fast path: the interface is wrong.
        let without = format!("--fastpath nope --fastpath-pin={}", folder.display());
        let server =
            Server::start_again(&Target::unbuckle(binary()), &words(&without), address.port()).unwrap();
        assert!(server.errors_text().contains("switched off"), "{}", server.errors_text());
        assert_eq!(
            get(&connect(address).unwrap(), "a").unwrap(),
            b"",
            "no answer from memory that is not the server's"
        );
    });
}

/// Items that are there before the daemon is killed, and their size.
const STABLE_ITEMS: usize = 60_000;
const HOT_KEYS: usize = 16;
const HOT: Kind = Kind::Fixed(600);

#[test]
fn killed_under_load_hits_go_on_and_the_next_daemon_has_every_acknowledged_item() {
    if !runs_as_root("killing a pinned daemon") {
        return;
    }
    let pins = Pins::make().unwrap();
    Namespace::make().unwrap().within(|| killed_under_load(&pins.folder()));
}

fn stable(number: usize) -> (String, Vec<u8>) {
    (format!("stable{number}"), value(Kind::Varied(1200), number, 1))
}

fn killed_under_load(folder: &Path) {
    let options = format!(
        "--fastpath lo --fastpath-required --fastpath-pin={} --fastpath-grace 3 -m 256 -v",
        folder.display()
    );
    let mut server = start(&options);
    let address = server.socket_address().unwrap();
    fill(address, STABLE_ITEMS);
    // For each hot key the number of the last write that was acknowledged; one more may be under way.
    let acknowledged: Vec<usize> = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_until_killed(address));
        let socket = connect(address).unwrap();
        for number in 0..2000 {
            let (key, value) = stable(number * 7 % STABLE_ITEMS);
            assert_eq!(get(&socket, &key).unwrap(), value);
        }
        server.end("KILL").unwrap();
        writer.join().unwrap()
    });
    let killed = Instant::now();
    let socket = connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let answered = (0..500).filter(|number| {
        let (key, value) = stable(*number);
        get(&socket, &key).inspect(|got| assert_eq!(*got, value)).is_some()
    });
    let (answered, within) = (answered.count(), killed.elapsed());
    assert!(answered == 500 || within > Duration::from_secs(2), "{answered} of 500 hits within {within:?}");
    for (key, acknowledged) in acknowledged.iter().enumerate() {
        if let Some(got) = get(&socket, &format!("hot{key}")) {
            assert!(
                (0..2).any(|more| got == value(HOT, key, acknowledged + more)),
                "hot{key} is old or torn"
            );
        }
    }
    // The grace ends: then the kernel passes everything, and nobody is there.
    let (key, _) = stable(0);
    while get(&socket, &key).is_some() {
        assert!(killed.elapsed() < Duration::from_secs(60), "the grace is 3 s");
    }
    let begun = Instant::now();
    let server = Server::start_again(&Target::unbuckle(binary()), &words(&options), address.port()).unwrap();
    let listens = begun.elapsed();
    stats(address, "stats\r\n").unwrap();
    println!("listens after {listens:?}, serves after {:?}: {}", begun.elapsed(), server.errors_text());
    check_all(address, &acknowledged).unwrap();
    let socket = connect(address).unwrap();
    let served = count(&own_stats(address), "fastpath_served");
    let (key, value) = stable(0);
    assert_eq!(get(&socket, &key).unwrap(), value);
    assert_eq!(count(&own_stats(address), "fastpath_served"), served + 1, "the kernel answers again");
}

/// Stores what stays, several at a time.
fn fill(server: SocketAddr, items: usize) {
    const TOGETHER: usize = 100;
    let mut line = Line::open(server).unwrap();
    for first in (0..items).step_by(TOGETHER) {
        let mut request = Vec::new();
        for number in first..first + TOGETHER {
            let (key, value) = stable(number);
            request.extend_from_slice(format!("set {key} 0 0 {}\r\n", value.len()).as_bytes());
            request.extend_from_slice(&value);
            request.extend_from_slice(b"\r\n");
        }
        let mut answer = line.ask(&request).unwrap();
        for number in 0..TOGETHER {
            assert_eq!(answer, "STORED");
            if number + 1 < TOGETHER {
                answer = line.answer().unwrap();
            }
        }
    }
}

/// Rewrites the hot keys one after another. The number of each one's last acknowledged write.
fn write_until_killed(server: SocketAddr) -> Vec<usize> {
    let mut line = Line::open(server).unwrap();
    let mut acknowledged = vec![0; HOT_KEYS];
    for write in 0.. {
        let key = write % HOT_KEYS;
        if line.set(&format!("hot{key}"), &value(HOT, key, acknowledged[key] + 1)).is_err() {
            break;
        }
        acknowledged[key] += 1;
    }
    acknowledged
}

/// Every acknowledged item is there; one in mid-write is the old, the new or absent.
fn check_all(server: SocketAddr, acknowledged: &[usize]) -> Result<()> {
    let stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut stream = BufReader::new(stream);
    let mut fetch = |key: &str| -> Result<Option<Vec<u8>>> {
        stream.get_mut().write_all(format!("get {key}\r\n").as_bytes())?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if line == "END\r\n" {
            return Ok(None);
        }
        let length: usize = line.trim_end().rsplit(' ').next().context("a header")?.parse()?;
        let mut value = vec![0; length + "\r\nEND\r\n".len()];
        std::io::Read::read_exact(&mut stream, &mut value)?;
        value.truncate(length);
        Ok(Some(value))
    };
    for number in 0..STABLE_ITEMS {
        let (key, value) = stable(number);
        anyhow::ensure!(fetch(&key)?.as_deref() == Some(&value[..]), "{key} is lost or wrong");
    }
    let mut absent = 0;
    for (key, acknowledged) in acknowledged.iter().enumerate() {
        match fetch(&format!("hot{key}"))? {
            Some(got) => {
                let right = (0..2).any(|more| got == value(HOT, key, acknowledged + more));
                anyhow::ensure!(right, "hot{key} is neither write {acknowledged} nor the next");
            }
            None => absent += 1,
        }
    }
    // The writer had one key in hand.
    anyhow::ensure!(absent <= 1, "{absent} acknowledged items are lost");
    Ok(())
}
