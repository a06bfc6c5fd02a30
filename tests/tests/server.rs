//! What a transcript can't say: clients that do not read, several addresses, users and limits of the process, and the
//! hangs that were found and shall not come back. Everything here waits for events; the bounds only end a hung test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use unbuckle_tests::process::Process;
use unbuckle_tests::server::unbuckle_path;

/// Ends a hung test; decides nothing else.
const HUNG: Duration = Duration::from_secs(60);

fn binary() -> PathBuf {
    unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap()
}

fn start(arguments: &[&str]) -> Process {
    Process::start(&binary(), arguments).unwrap()
}

/// A client that speaks in whole lines.
struct Client {
    lines: BufReader<TcpStream>,
}

impl Client {
    fn connect(server: &Process) -> Client {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(HUNG)).unwrap();
        stream.set_write_timeout(Some(HUNG)).unwrap();
        Client { lines: BufReader::new(stream) }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.lines.get_mut().write_all(bytes).unwrap();
    }

    /// The next line, without its end; `None` when the server has closed.
    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = self.lines.read_until(b'\n', &mut line).unwrap();
        let text = String::from_utf8_lossy(&line);
        (read > 0).then(|| text.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Sends a line, and returns the first one of the answer.
    fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.line().expect("an answer")
    }

    fn lines_up_to(&mut self, last: &str) -> Vec<String> {
        let next = || self.line().filter(|line| line != last);
        std::iter::from_fn(next).collect()
    }

    fn stat(&mut self, group: &str, name: &str) -> Option<String> {
        self.send(format!("stats {group}\r\n").as_bytes());
        let prefix = format!("STAT {name} ");
        self.lines_up_to("END").iter().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }

    fn store(&mut self, key: &str, value: &[u8]) {
        let mut request = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        self.send(&request);
        assert_eq!(self.line().as_deref(), Some("STORED"));
    }

    const FILL_BYTES: usize = 8000;

    /// Stores more than `bytes` in all.
    fn fill(&mut self, bytes: u64, round: u64) {
        const BATCH: u64 = 50;
        let value = [b'v'; Client::FILL_BYTES];
        for batch in 0..bytes / value.len() as u64 / BATCH + 2 {
            let mut requests = Vec::new();
            for number in batch * BATCH..(batch + 1) * BATCH {
                let line = format!("set {round}-{number} 0 0 {} noreply\r\n", value.len());
                requests.extend_from_slice(line.as_bytes());
                requests.extend_from_slice(&value);
                requests.extend_from_slice(b"\r\n");
            }
            self.send(&requests);
            assert_eq!(self.ask("mn"), "MN");
        }
    }

    /// Waits until some connection is in this state, as `stats conns` tells it.
    fn wait_for_state(&mut self, state: &str) {
        let wanted = format!(":state {state}");
        let started = std::time::Instant::now();
        loop {
            self.send(b"stats conns\r\n");
            if self.lines_up_to("END").iter().any(|line| line.ends_with(&wanted)) {
                return;
            }
            assert!(started.elapsed() < HUNG, "no connection is in state {state}");
        }
    }
}

/// A value that is being sent from its pin leaves nothing parked when the client stalls: all that the socket did not take
/// is made again. The connection has to be waited for all the same.
#[test]
fn a_pinned_value_goes_on_after_a_stall_with_nothing_parked() {
    const VALUE_BYTES: usize = 24 << 20;
    let server = start(&["-l", "127.0.0.1", "-p", "-1", "-m", "256", "-I", "64m", "-t", "1"]);
    let mut other = Client::connect(&server);
    let value: Vec<u8> = (0..VALUE_BYTES).map(|at| b'a' + (at % 23) as u8).collect();
    other.store("large", &value);
    let mut reader = Client::connect(&server);
    reader.send(b"get large\r\n");
    other.wait_for_state("conn_mwrite");
    assert_eq!(reader.line().unwrap(), format!("VALUE large 0 {VALUE_BYTES}"));
    let mut received = vec![0; VALUE_BYTES];
    reader.lines.read_exact(&mut received).unwrap();
    assert!(received == value, "the value arrived damaged");
    assert_eq!(reader.lines_up_to("END"), [""]);
}

/// Megabytes of a process that are in memory.
fn resident_mb(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// What the limit no longer allows goes back to the kernel, not only to the pool; and it can be taken again.
#[test]
fn a_lower_memory_limit_is_seen_in_the_resident_memory() {
    const FULL_MB: u64 = 192;
    const LOWER_MB: u64 = 48;
    let mut server = start(&["-l", "127.0.0.1", "-p", "-1", "-m", &FULL_MB.to_string(), "-t", "2"]);
    let process = server.id();
    let mut client = Client::connect(&server);
    let empty_mb = resident_mb(process);
    for round in 0..2 {
        client.fill(FULL_MB << 20, round);
        let full_mb = resident_mb(process);
        assert!(full_mb > empty_mb + FULL_MB * 9 / 10, "{full_mb} MB resident, {empty_mb} when it was empty");
        assert_eq!(client.ask(&format!("cache_memlimit {LOWER_MB}")), "OK");
        // All but a few pages: those that are still being filled, and the index's.
        let wanted_mb = full_mb - (FULL_MB - LOWER_MB) + 8;
        let resident = |mb: u64| (mb <= wanted_mb).then_some(());
        server
            .wait_for(&format!("{full_mb} MB becoming {wanted_mb}"), || resident(resident_mb(process)))
            .unwrap();
        let items: u64 = client.stat("", "curr_items").unwrap().parse().unwrap();
        assert!(items * Client::FILL_BYTES as u64 > (LOWER_MB << 20) * 3 / 4, "{items} items are left");
        assert_eq!(client.ask(&format!("cache_memlimit {FULL_MB}")), "OK");
    }
}

/// The timer that tells a worker the second has to be read, else it tells one and no more. Two connections are closed for
/// their silence, one after the other; in between nothing happens that could wake the worker.
#[test]
fn seconds_go_on_without_traffic() {
    let server = start(&["-l", "127.0.0.1", "-p", "-1", "-t", "2", "-o", "idle_timeout=1"]);
    for _ in 0..3 {
        assert_eq!(Client::connect(&server).line(), None);
    }
}

/// The line of a `get` of many keys is looked at in the kernel's buffer. When that is full and the line's end is not in
/// it, what was seen has to be taken out, or the rest never comes.
#[test]
fn a_line_longer_than_the_kernel_buffers_arrives() {
    let scratch = std::env::temp_dir().join(format!("unbuckle-long-line-{}", std::process::id()));
    let path = scratch.to_str().unwrap();
    let mut server = start_unix(path);
    let stream = server.wait_for("the socket", || UnixStream::connect(path).ok()).unwrap();
    stream.set_read_timeout(Some(HUNG)).unwrap();
    stream.set_write_timeout(Some(HUNG)).unwrap();
    // What is unread counts against the sender's buffer.
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, 4 << 10).unwrap();
    let mut line = b"get".to_vec();
    for number in 0..7_000 {
        line.extend_from_slice(format!(" key-{number}").as_bytes());
    }
    line.extend_from_slice(b"\r\n");
    assert!(line.len() > 60 << 10);
    // In pieces, so that the server sees the beginning alone.
    for piece in line.chunks(3 << 10) {
        (&stream).write_all(piece).unwrap();
    }
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).unwrap();
    assert_eq!(answer, "END\r\n");
    let _ = std::fs::remove_file(&scratch);
}

fn start_unix(path: &str) -> Process {
    // There are no ports to be told: the file is written all the same.
    start(&["-s", path, "-t", "1"])
}

#[test]
fn a_watcher_that_does_not_read_slows_nobody() {
    let server =
        start(&["-l", "127.0.0.1", "-p", "-1", "-o", "watcher_logbuf_size=16,worker_logbuf_size=16"]);
    let mut watcher = Client::connect(&server);
    assert_eq!(watcher.ask("watch fetchers"), "OK");
    let mut client = Client::connect(&server);
    let key = "k".repeat(200);
    let batch = format!("get {key}\r\n").repeat(500);
    let skipped = loop {
        client.send(batch.as_bytes());
        for _ in 0..500 {
            assert_eq!(client.line().unwrap(), "END");
        }
        let skipped: u64 = client.stat("", "log_watcher_skipped").unwrap().parse().unwrap();
        if skipped > 0 {
            break skipped;
        }
    };
    // Now it reads, and is told what it has missed.
    let told = loop {
        let line = watcher.line().expect("a line");
        match line.strip_prefix("skipped=") {
            Some(count) => break count.parse::<u64>().unwrap(),
            None => assert!(line.contains(" type=item_get "), "{line}"),
        }
        client.ask("get x");
    };
    assert!(told >= 1 && told >= skipped.min(1));
    let sent: u64 = client.stat("", "log_watcher_sent").unwrap().parse().unwrap();
    let written: u64 = client.stat("", "log_worker_written").unwrap().parse().unwrap();
    assert!(sent > 0 && sent < written, "{sent} of {written} lines");
    assert_eq!(client.stat("", "log_watchers").as_deref(), Some("1"));
    drop(watcher);
    while client.stat("", "log_watchers").as_deref() != Some("0") {}
}

#[test]
fn a_dump_that_is_not_read_slows_nobody_and_is_whole_in_the_end() {
    const ITEMS: usize = 100_000;
    let server = start(&["-l", "127.0.0.1", "-p", "-1", "-m", "64", "-t", "1"]);
    let mut client = Client::connect(&server);
    let mut request = String::new();
    for number in 0..ITEMS {
        request.push_str(&format!("set a-rather-long-key-number-{number:08} 0 0 1 noreply\r\nx\r\n"));
    }
    client.send(request.as_bytes());
    assert_eq!(client.stat("", "curr_items"), Some(ITEMS.to_string()));
    let mut dumper = Client::connect(&server);
    dumper.send(b"lru_crawler metadump all\r\n");
    client.wait_for_state("conn_watch");
    for _ in 0..1000 {
        assert!(client.ask("version").starts_with("VERSION "));
    }
    // What waits for the dumper is bounded, whatever there is to dump.
    let parked: u64 = client.stat("unbuckle", "parked_bytes").unwrap().parse().unwrap();
    assert!(parked < 256 << 10, "{parked} bytes are parked");
    assert_eq!(dumper.line().unwrap(), "OK");
    let mut keys: Vec<String> = dumper
        .lines_up_to("END")
        .iter()
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), ITEMS);
    assert_eq!(keys[0], "key=a-rather-long-key-number-00000000");
    // The connection goes on.
    assert!(dumper.ask("version").starts_with("VERSION "));
}

#[test]
fn udp_replies_come_from_the_address_that_was_asked() {
    let server = start(&["-l", "0.0.0.0", "-p", "-1", "-U", "-1", "-t", "2"]);
    for last in 1..=5 {
        let asked = (Ipv4Addr::new(127, 0, 0, last), server.udp_port);
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.set_read_timeout(Some(HUNG)).unwrap();
        client.send_to(b"\0\x07\0\0\0\x01\0\0version\r\n", asked).unwrap();
        let mut reply = [0; 1500];
        let (bytes, from) = client.recv_from(&mut reply).unwrap();
        assert_eq!(from, asked.into());
        assert!(reply[..bytes].starts_with(b"\0\x07\0\0\0\x01\0\0VERSION "));
    }
}

/// Requests that came while the server was stopped are answered together: equal neighbours leave as one message, which
/// the kernel cuts apart again.
#[test]
fn udp_replies_that_leave_together_arrive_one_by_one() {
    const ROUNDS: u16 = 60;
    let mut server = start(&["-l", "127.0.0.1", "-p", "-1", "-U", "-1", "-t", "1"]);
    let mut client = Client::connect(&server);
    let values = [b"a".repeat(30), b"b".repeat(30), b"c".repeat(31), b"d".repeat(10_000), Vec::new()];
    for (name, value) in ["k0", "k1", "k2", "k3", "k4"].iter().zip(&values) {
        client.store(name, value);
    }
    let process = rustix::process::Pid::from_raw(server.id() as i32).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    let status = format!("/proc/{}/stat", server.id());
    server
        .wait_for("the stop", || std::fs::read_to_string(&status).ok()?.contains(") T ").then_some(()))
        .unwrap();
    let clients: Vec<UdpSocket> = (0..3)
        .map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.set_read_timeout(Some(HUNG)).unwrap();
            socket.connect((Ipv4Addr::LOCALHOST, server.udp_port)).unwrap();
            socket
        })
        .collect();
    // Runs of one client and one length, of every length from 1 to 9, and changes of both.
    let asked = |round: u16| (usize::from(round / 4) % 3, usize::from(round * round / 31) % 5);
    for round in 0..ROUNDS {
        let (client, key) = asked(round);
        let [high, low] = round.to_be_bytes();
        let mut request = vec![high, low, 0, 0, 0, 1, 0, 0];
        request.extend_from_slice(format!("get k{key}\r\n").as_bytes());
        clients[client].send(&request).unwrap();
    }
    rustix::process::kill_process(process, rustix::process::Signal::CONT).unwrap();
    for round in 0..ROUNDS {
        let (client, key) = asked(round);
        let mut expected = format!("VALUE k{key} 0 {}\r\n", values[key].len()).into_bytes();
        expected.extend_from_slice(&values[key]);
        expected.extend_from_slice(b"\r\nEND\r\n");
        let total = expected.len().div_ceil(1392) as u16;
        let mut message = Vec::new();
        for sequence in 0..total {
            let mut reply = [0; 1500];
            let bytes = clients[client].recv(&mut reply).unwrap();
            let frame: Vec<u8> =
                [round, sequence, total, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
            assert_eq!(reply[..8], frame);
            message.extend_from_slice(&reply[8..bytes]);
        }
        assert!(message == expected, "round {round}, key {key}");
    }
}

#[test]
fn stats_bytes_tells_large_values_too() {
    let server = start(&["-l", "127.0.0.1", "-p", "-1"]);
    let mut client = Client::connect(&server);
    client.store("large", &[b'x'; 900_000]);
    client.send(b"stats\r\n");
    let lines = client.lines_up_to("END");
    let bytes = lines.iter().find_map(|line| line.strip_prefix("STAT bytes ")).expect("the line");
    assert!((900_000..920_000).contains(&bytes.parse::<u64>().unwrap()), "{bytes}");
}

#[test]
fn shutdown_ends_the_server_well() {
    for command in ["shutdown", "shutdown graceful"] {
        let mut server = start(&["-l", "127.0.0.1", "-p", "-1", "-A"]);
        let mut client = Client::connect(&server);
        assert_eq!(client.ask("shutdown now"), "CLIENT_ERROR invalid shutdown mode");
        client.send(format!("{command}\r\n").as_bytes());
        assert_eq!(client.line(), None);
        assert!(server.wait_for_end().unwrap().success(), "{command}");
    }
}

#[test]
fn verbosity_tells_requests() {
    let mut server = start(&["-l", "127.0.0.1", "-p", "-1", "-vv"]);
    let mut client = Client::connect(&server);
    client.store("a", b"hidden");
    client.ask("get a");
    drop(client);
    let log = server.folder.join("errors");
    let text = server
        .wait_for("the end of the connection", || {
            let text = std::fs::read_to_string(&log).ok()?;
            text.contains(" connection closed.").then_some(text)
        })
        .unwrap();
    assert!(text.contains("slab class   1: chunk size        96 perslab   10922\n"), "{text}");
    for line in [
        " new auto-negotiating client connection\n",
        " set a 0 0 6\n",
        " STORED\n",
        " get a\n",
        " sending key a\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    assert!(!text.contains("hidden"), "{text}");
}

/// A field of /proc/PID/status or limits.
fn of_process(server: &Process, file: &str, field: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", server.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn user_core_files_locked_memory_and_pid_file() {
    if !rustix::process::geteuid().is_root() {
        // In CI this runs as root.
        assert!(std::env::var_os("CI").is_none(), "needs root");
        eprintln!("SKIPPED user_core_files_locked_memory_and_pid_file: needs root");
        return;
    }
    let folder = std::env::temp_dir().join(format!("unbuckle-pid-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    // The user that the server becomes has to be able to remove it.
    std::os::unix::fs::chown(&folder, Some(65_534), Some(65_534)).unwrap();
    let pid_file = folder.join("pid");
    let mut server = start(&[
        "-l",
        "127.0.0.1",
        "-p",
        "-1",
        "-A",
        "-u",
        "nobody",
        "-r",
        "-k",
        "-m",
        "16",
        "-P",
        pid_file.to_str().unwrap(),
    ]);
    let id = server.id().to_string();
    let text = server.wait_for("the pid file", || std::fs::read_to_string(&pid_file).ok()).unwrap();
    assert_eq!(text.trim(), id);
    assert_eq!(of_process(&server, "status", "Uid:"), ["65534"; 4]);
    let [soft, hard, ..] = &of_process(&server, "limits", "Max core file size")[..] else {
        panic!("no limits")
    };
    assert_eq!(soft, hard);
    let locked_kib: u64 = of_process(&server, "status", "VmLck:")[0].parse().unwrap();
    assert!(locked_kib >= 16 << 10 || server.errors().contains("-k has no effect"), "{locked_kib} KiB");
    let mut client = Client::connect(&server);
    client.send(b"shutdown\r\n");
    assert_eq!(client.line(), None);
    assert!(server.wait_for_end().unwrap().success());
    assert!(!pid_file.exists());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_port_below_1024_is_bound_before_privileges_go() {
    if !rustix::process::geteuid().is_root() {
        // In CI this runs as root.
        assert!(std::env::var_os("CI").is_none(), "needs root");
        eprintln!("SKIPPED a_port_below_1024_is_bound_before_privileges_go: needs root");
        return;
    }
    // An address of this test's own, so that the port is free on it.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 77, high, low);
    let server = start(&["-l", &address.to_string(), "-p", "79", "-U", "79", "-u", "nobody"]);
    let mut client = BufReader::new(TcpStream::connect((address, 79)).unwrap());
    client.get_mut().set_read_timeout(Some(HUNG)).unwrap();
    client.get_mut().write_all(b"mn\r\n").unwrap();
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    assert_eq!(line, "MN\r\n");
    assert_eq!(of_process(&server, "status", "Uid:"), ["65534"; 4]);
}

/// What a client gets back for `request` at `host`; empty when it is closed without an answer.
fn first_answer(server: &Process, host: [u8; 4], request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::from(host), server.tcp_port)).unwrap();
    stream.set_read_timeout(Some(HUNG)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = [0; 24];
    let read = stream.read(&mut answer).unwrap_or_default();
    answer[..read].to_vec()
}

#[test]
fn each_address_has_its_own_protocol() {
    let listen =
        "proto[ascii]:127.0.0.1,proto[binary]:127.0.0.2,proto[negotiating]:tag_blue_:127.0.0.3,127.0.0.4";
    let server = start(&["-p", "-1", "-U", "-1", "-l", listen, "-B", "binary", "-vv"]);
    let noop = [&[0x80, 0x0a][..], &[0; 22], b"\r\n"].concat();
    // Address, and whether it answers a line and a frame.
    for (last, line, frame) in [(1, true, false), (2, false, true), (3, true, true), (4, false, true)] {
        // Longer than the header of a frame.
        let text = first_answer(&server, [127, 0, 0, last], b"get no_such_key_as_this_one\r\n");
        assert_eq!(text == b"END\r\n", line, "127.0.0.{last}: {}", text.escape_ascii());
        let binary = first_answer(&server, [127, 0, 0, last], &noop);
        assert_eq!(binary.starts_with(&[0x81, 0x0a]), frame, "127.0.0.{last}: {}", binary.escape_ascii());
        let socket = UdpSocket::bind((Ipv4Addr::from([127, 0, 0, last]), 0)).unwrap();
        socket.set_read_timeout(Some(HUNG)).unwrap();
        let header = [0, 1, 0, 0, 0, 1, 0, 0];
        // What is not spoken is refused in the words of what is, or dropped: this one is answered everywhere.
        let (request, answer) =
            if line { (&b"mn\r\n"[..], &b"MN"[..]) } else { (&noop[..24], &[0x81, 0x0a][..]) };
        socket
            .send_to(&[&header, request].concat(), (Ipv4Addr::from([127, 0, 0, last]), server.udp_port))
            .unwrap();
        let mut reply = [0; 64];
        let read = socket.recv(&mut reply).unwrap();
        assert!(reply[8..read].starts_with(answer), "127.0.0.{last}: {}", reply[..read].escape_ascii());
    }
    for told in
        ["new ascii client connection.", "new binary client connection.", "new auto-negotiating client"]
    {
        assert!(server.errors().contains(told), "{told} in {}", server.errors());
    }
}
