//! TLS against the binary: real clients, certificates good and bad, what is not TLS at all, and who does not read.
//!
//! Certificates come from a throw-away authority made by `openssl`, whose client is one of the two used here.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ClientConnection, ConnectionTrafficSecrets};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use unbuckle_tests::authority::{Authority, run};
use unbuckle_tests::connection::ANSWER_MAX;
use unbuckle_tests::server::{Address, Server, Target, free_port, unbuckle_path};
use unbuckle_tests::tls::{Identity, TlsStream};
use unbuckle_tests::transcript::Transport;

fn target() -> Target {
    Target::unbuckle(unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap())
}

/// A server with TLS and these further options, and a clock that can be moved.
fn start(authority: &Authority, options: &[&str]) -> Server {
    let mut all = authority.options("server");
    all.extend(options.iter().map(|option| (*option).to_owned()));
    Server::start(&target(), &all, Transport::Tcp, true).unwrap()
}

fn port(server: &Server) -> SocketAddr {
    match &server.address {
        Address::Port(port) => *port,
        Address::Path(path) => panic!("listens on {}", path.display()),
    }
}

fn client(authority: &Authority, name: Option<&str>) -> Identity {
    Identity::new(authority, name, rustls::ALL_VERSIONS).unwrap()
}

fn connect(identity: &Identity, address: SocketAddr) -> TlsStream {
    let stream = identity.connect(address).unwrap();
    stream.socket().set_read_timeout(Some(ANSWER_MAX)).unwrap();
    stream
}

/// Sends `request` and reads until what came ends with `end`.
fn ask(stream: &mut (impl Read + Write), request: &str, end: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    stream.flush().unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(end.as_bytes()) {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the server closed after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(answer).unwrap()
}

/// Whether a client with this identity is served; the handshake's refusal may show only on the first read.
fn is_served(identity: &Identity, address: SocketAddr) -> bool {
    let mut stream = connect(identity, address);
    let mut buffer = [0; 64];
    stream.write_all(b"version\r\n").is_ok()
        && stream.flush().is_ok()
        && stream.read(&mut buffer).is_ok_and(|count| buffer[..count].starts_with(b"VERSION"))
}

fn stat(stream: &mut (impl Read + Write), group: &str, name: &str) -> u64 {
    let stats = ask(stream, &format!("stats {group}\r\n"), "END\r\n");
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {stats}")).parse().unwrap()
}

/// What openssl's client says when it has sent `version` and `quit`.
fn openssl_client(address: SocketAddr, arguments: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-crlf", "-ign_eof"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A client that was refused has gone before it reads this.
    let _ = child.stdin.take().unwrap().write_all(b"version\nquit\n");
    let output = child.wait_with_output().unwrap();
    [output.stdout, output.stderr].iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

#[test]
fn openssls_client_is_served_by_both_versions() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &[]);
    let trusted = authority.certificate("ca");
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = openssl_client(
            port(&server),
            &[version, "-CAfile", trusted.to_str().unwrap(), "-verify_return_error"],
        );
        assert!(said.contains("VERSION ") && said.contains(name), "{said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        // It was told the end: `quit` is not a connection that breaks.
        assert!(!said.contains("unexpected eof"), "{said}");
    }
}

#[test]
fn the_least_version_and_the_ciphers_are_the_users() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &["-o", "ssl_min_version=3"]);
    assert!(!openssl_client(port(&server), &["-tls1_2"]).contains("VERSION "));
    assert!(openssl_client(port(&server), &["-tls1_3"]).contains("VERSION "));
    let server =
        start(authority, &["-o", "ssl_ciphers=ECDHE-ECDSA-CHACHA20-POLY1305:TLS_AES_128_GCM_SHA256"]);
    let said = openssl_client(port(&server), &["-tls1_2"]);
    assert!(said.contains("Cipher is ECDHE-ECDSA-CHACHA20-POLY1305"), "{said}");
    let said = openssl_client(port(&server), &["-tls1_3"]);
    assert!(said.contains("Cipher is TLS_AES_128_GCM_SHA256"), "{said}");
    let said = openssl_client(port(&server), &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]);
    assert!(said.contains("handshake failure"), "{said}");
    // TLS 1.1 is not here, whatever the client would like.
    let said = openssl_client(port(&server), &["-tls1_1", "-cipher", "ALL@SECLEVEL=0"]);
    assert!(!said.contains("VERSION "), "{said}");
}

#[test]
fn clients_are_verified_as_the_mode_says() {
    let authority = Authority::shared().unwrap();
    let trusted = format!("ssl_ca_cert={}", authority.certificate("ca").display());
    let names = [None, Some("client"), Some("stranger"), Some("expired")];
    for (mode, served) in [
        (0, [true, true, true, true]),
        (1, [true, true, false, false]),
        (2, [false, true, false, false]),
        (3, [false, true, false, false]),
    ] {
        let server = start(authority, &["-o", &format!("{trusted},ssl_verify_mode={mode}")]);
        let found = names.map(|name| is_served(&client(authority, name), port(&server)));
        assert_eq!(found, served, "mode {mode}, for {names:?}");
        let mut good = connect(&client(authority, Some("client")), port(&server));
        let refused = served.iter().filter(|served| !**served).count() as u64;
        assert_eq!(stat(&mut good, "", "ssl_handshake_errors"), refused);
        assert_eq!(stat(&mut good, "", "ssl_proto_errors"), 0);
    }
}

#[test]
fn without_an_authority_no_certificate_is_good() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &["-o", "ssl_verify_mode=1"]);
    assert!(is_served(&client(authority, None), port(&server)));
    assert!(!is_served(&client(authority, Some("client")), port(&server)));
    assert!(server.errors_text().contains("ssl_ca_cert"), "{}", server.errors_text());
}

#[test]
fn each_listener_has_its_own_protection() {
    let authority = Authority::shared().unwrap();
    let ports = [free_port(false).unwrap(), free_port(false).unwrap(), free_port(false).unwrap()];
    let [plain, basic, mutual] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let listeners = format!("notls:{plain},btls:{basic},mtls:{mutual}");
    let trusted = format!("ssl_ca_cert={},ssl_verify_mode=2", authority.certificate("ca").display());
    let server = start(authority, &["-l", &listeners, "-o", &trusted]);
    let mut in_the_clear = TcpStream::connect(plain).unwrap();
    assert!(ask(&mut in_the_clear, "version\r\n", "\r\n").starts_with("VERSION "));
    let (nobody, somebody) = (client(authority, None), client(authority, Some("client")));
    assert!(is_served(&nobody, basic) && is_served(&somebody, mutual) && is_served(&somebody, port(&server)));
    assert!(!is_served(&nobody, port(&server)));
    // Known from the listener that asks for nothing, and still a stranger where a certificate is asked for.
    assert!(is_served(&nobody, basic) && !is_served(&nobody, mutual));
}

#[test]
fn what_is_not_tls_is_told_so_and_disturbs_nobody() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &[]);
    let mut other = connect(&client(authority, None), port(&server));
    ask(&mut other, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    for garbage in
        [&b"get a\r\n"[..], b"\x16\x03\x01\xff\xff", &[0; 600], b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x00"]
    {
        let mut stream = TcpStream::connect(port(&server)).unwrap();
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        stream.write_all(garbage).unwrap();
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert!(answer.first().is_none_or(|kind| *kind == 21), "not an alert: {answer:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{garbage:?}"),
        }
        assert_eq!(ask(&mut other, "get a\r\n", "END\r\n"), "VALUE a 0 1\r\nx\r\nEND\r\n");
    }
    assert_eq!(stat(&mut other, "", "ssl_handshake_errors"), 4);
}

/// Drives a handshake and a request by hand; what is sent goes through `spoil`. True: the request was answered.
fn spoiled_visit(
    identity: &Identity,
    address: SocketAddr,
    patience: Duration,
    spoil: &mut dyn FnMut(Vec<u8>) -> Vec<Vec<u8>>,
) -> bool {
    let mut machine = identity.machine().unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    machine.writer().write_all(b"version\r\n").unwrap();
    loop {
        let mut flight = Vec::new();
        while machine.wants_write() {
            machine.write_tls(&mut flight).unwrap();
        }
        for part in spoil(flight) {
            if socket.write_all(&part).is_err() {
                return false;
            }
        }
        match machine.read_tls(&mut socket) {
            Ok(count) if count > 0 => {}
            _ => return false,
        }
        if machine.process_new_packets().is_err() {
            return false;
        }
        let mut answer = [0; 64];
        if machine.reader().read(&mut answer).is_ok_and(|count| count > 0) {
            return true;
        }
    }
}

#[test]
fn spoiled_handshakes_end_no_server() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &["-t", "1", "-c", "4000"]);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) as usize % below.max(1)
    };
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let identity = Identity::new(authority, None, versions).unwrap();
        assert!(spoiled_visit(&identity, port(&server), ANSWER_MAX, &mut |flight| vec![flight]), "unspoiled");
        for round in 0..250 {
            // A spoiled length leaves both sides waiting for the rest, so that this is not what is looked at.
            let harmless = round % 5 == 0;
            let patience = if harmless { ANSWER_MAX } else { Duration::from_millis(20) };
            let answered = spoiled_visit(&identity, port(&server), patience, &mut |mut flight| {
                let place = random(flight.len());
                let length = random(flight.len() - place).min(9);
                match round % 5 {
                    _ if flight.is_empty() => {}
                    0 => return vec![flight[..place].to_vec(), flight[place..].to_vec()],
                    1 => flight[place] ^= 1 << random(8),
                    2 => drop(flight.drain(place..place + length)),
                    3 => flight.extend_from_within(place..place + length),
                    // A record that begins like a handshake message and is none, between others.
                    _ => drop(flight.splice(0..0, [22, 3, 3, 0, 3, random(25) as u8, 0, random(200) as u8])),
                }
                vec![flight]
            });
            assert!(answered || !harmless, "cut in two, in round {round}");
        }
    }
    let mut other = connect(&client(authority, None), port(&server));
    assert!(stat(&mut other, "", "ssl_handshake_errors") > 100);
}

#[test]
fn a_session_that_is_damaged_ends_and_is_counted() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &[]);
    let mut stream = connect(&client(authority, None), port(&server));
    ask(&mut stream, "version\r\n", "\r\n");
    let mut socket = stream.socket().try_clone().unwrap();
    socket.write_all(b"\x17\x03\x03\x00\x20").unwrap();
    socket.write_all(&[7; 32]).unwrap();
    assert!(stream.read(&mut [0; 64]).is_err(), "an alert is an error");
    let mut other = connect(&client(authority, None), port(&server));
    assert_eq!(stat(&mut other, "", "ssl_proto_errors"), 1);
    assert_eq!(stat(&mut other, "", "ssl_handshake_errors"), 0);
}

/// Seals records of TLS 1.3 by hand, so that they can hold what no client would send.
struct Forger {
    key: LessSafeKey,
    nonce: [u8; 12],
    sequence: u64,
}

impl Forger {
    fn new(machine: ClientConnection) -> Forger {
        let (sequence, secrets) = machine.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("another cipher") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        Forger { key, nonce: iv.as_ref().try_into().unwrap(), sequence }
    }

    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut nonce = self.nonce;
        nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        self.sequence += 1;
        let mut sealed = [content, &[kind]].concat();
        let length = (sealed.len() + AES_128_GCM.tag_len()) as u16;
        let header = [&[23, 3, 3][..], &length.to_be_bytes()].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(&header), &mut sealed).unwrap();
        [header, sealed].concat()
    }
}

#[test]
fn half_a_handshake_message_behind_a_request_does_not_stop_its_answer() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &["-t", "1", "-o", "ssl_ciphers=TLS_AES_128_GCM_SHA256"]);
    let mut machine = client(authority, None).revealing_machine().unwrap();
    let mut socket = TcpStream::connect(port(&server)).unwrap();
    socket.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    machine.complete_io(&mut socket).unwrap();
    let mut forger = Forger::new(machine);
    let (handshake, data) = (22, 23);
    // The beginning of a change of keys.
    let request = [forger.seal(data, b"version\r\n"), forger.seal(handshake, &[24, 0, 0])].concat();
    socket.write_all(&request).unwrap();
    let mut other = connect(&client(authority, None), port(&server));
    let answered = |other: &mut TlsStream| stat(other, "", "bytes_written");
    let started = Instant::now();
    while answered(&mut other) == 0 {
        assert!(started.elapsed() < ANSWER_MAX);
    }
    // The rest of it, another request with the old keys, which is wrong: that client's end, and nobody else's.
    socket.write_all(&[forger.seal(handshake, &[1, 0]), forger.seal(data, b"version\r\n")].concat()).unwrap();
    let _ = socket.read_to_end(&mut Vec::new());
    assert_eq!(stat(&mut other, "", "ssl_proto_errors"), 1);
}

/// The first message of a handshake, as a client would send it.
fn hello(authority: &Authority) -> Vec<u8> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = client(authority, None).connect(listener.local_addr().unwrap()).unwrap();
    let (mut end, _) = listener.accept().unwrap();
    stream.socket().set_nonblocking(true).unwrap();
    assert_eq!(stream.flush().map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    let mut header = [0; 5];
    end.read_exact(&mut header).unwrap();
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    end.read_exact(&mut body).unwrap();
    [&header[..], &body].concat()
}

#[test]
fn half_a_handshake_is_counted_disturbs_nobody_and_is_given_up() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &["-t", "1"]);
    let hello = hello(authority);
    let half = &hello[..hello.len() / 2];
    let mut silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(port(&server)).unwrap()).collect();
    for stream in &mut silent {
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        stream.write_all(half).unwrap();
    }
    let mut other = connect(&client(authority, None), port(&server));
    let started = Instant::now();
    while stat(&mut other, "unbuckle", "parked_bytes") < (half.len() * silent.len()) as u64 {
        assert!(started.elapsed() < ANSWER_MAX, "halves are parked, and counted");
    }
    // One second less than the limit would leave them alone; the server's seconds may be about to change.
    ask(&mut other, "debugtime 62\r\n", "OK\r\n");
    for stream in &mut silent {
        assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "closed without a word");
    }
    assert_eq!(stat(&mut other, "unbuckle", "parked_bytes"), 0);
    assert_eq!(stat(&mut other, "", "ssl_handshake_errors"), silent.len() as u64);
}

#[test]
fn a_handshake_may_come_byte_by_byte() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &["-t", "1"]);
    let mut stream = TcpStream::connect(port(&server)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    for byte in hello(authority) {
        stream.write_all(&[byte]).unwrap();
    }
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 22, "a handshake record");
}

#[test]
fn a_batch_of_replies_is_one_record() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &["-R", "1000"]);
    let mut stream = connect(&client(authority, None), port(&server));
    ask(&mut stream, &format!("set a 0 0 100\r\n{}\r\n", "x".repeat(100)), "STORED\r\n");
    let before = stream.data_records();
    ask(&mut stream, &format!("{}mn\r\n", "get a\r\n".repeat(100)), "MN\r\n");
    assert_eq!(stream.data_records() - before, 1);
}

#[test]
fn who_does_not_read_holds_little_and_gets_everything_in_the_end() {
    let authority = Authority::shared().unwrap();
    let server = start(authority, &["-t", "1"]);
    let identity = client(authority, None);
    let mut other = connect(&identity, port(&server));
    let value = "v".repeat(4000);
    for number in 0..50 {
        ask(&mut other, &format!("set key{number} 0 0 4000\r\n{value}\r\n"), "STORED\r\n");
    }
    let keys: Vec<String> = (0..50).map(|number| format!("key{number}")).collect();
    let request = format!("get {}\r\n", keys.join(" "));
    let rounds = 100;
    let mut slow: Vec<TlsStream> = (0..8).map(|_| connect(&identity, port(&server))).collect();
    for stream in &mut slow {
        stream.write_all(request.repeat(rounds).as_bytes()).unwrap();
        stream.flush().unwrap();
    }
    // 160 MB were asked for. Others are served meanwhile, and what the server holds is small.
    let started = Instant::now();
    while stat(&mut other, "unbuckle", "parked_bytes") == 0 {
        assert!(started.elapsed() < ANSWER_MAX, "eight clients do not read, and nothing is parked");
    }
    let parked = stat(&mut other, "unbuckle", "parked_bytes");
    assert!(parked < (8 * 128) << 10, "{parked} bytes for eight clients");
    let expected: String = keys
        .iter()
        .map(|key| format!("VALUE {key} 0 4000\r\n{value}\r\n"))
        .chain(["END\r\n".into()])
        .collect();
    for stream in &mut slow {
        for _ in 0..rounds {
            let mut answer = vec![0; expected.len()];
            stream.read_exact(&mut answer).unwrap();
            assert!(answer == expected.as_bytes());
        }
        ask(stream, "mn\r\n", "MN\r\n");
    }
    assert_eq!(stat(&mut other, "unbuckle", "parked_bytes"), 0);
}

#[test]
fn sessions_are_resumed_until_the_certificates_are_read_again() {
    let authority = Authority::shared().unwrap();
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let server = start(authority, &["-o", "ssl_session_cache"]);
        let identity = Identity::new(authority, None, versions).unwrap();
        let visit = || {
            let mut stream = connect(&identity, port(&server));
            let sessions = stat(&mut stream, "", "ssl_new_sessions");
            (stream.was_resumed(), sessions, stream)
        };
        let (resumed, sessions, _) = visit();
        assert!(!resumed && sessions == 1);
        let (resumed, sessions, mut stream) = visit();
        assert!(resumed && sessions == 1);
        ask(&mut stream, "refresh_certs\r\n", "OK\r\n");
        let (resumed, sessions, _) = visit();
        assert!(!resumed && sessions == 2, "whom the server trusts may have changed");
    }
}

/// Replaces the files of `server` by those of `name`.
fn become_other(authority: &Authority, name: &str) {
    std::fs::copy(authority.key(name), authority.key("server")).unwrap();
    std::fs::copy(authority.certificate(name), authority.certificate("server")).unwrap();
}

#[test]
fn certificates_are_read_again_by_command_and_what_cannot_be_stays() {
    let authority = Authority::new().unwrap();
    authority.issue("ca", "second", 7).unwrap();
    let server = start(&authority, &[]);
    let identity = client(&authority, None);
    let mut first = connect(&identity, port(&server));
    ask(&mut first, "version\r\n", "\r\n");
    let shown = |identity: &Identity| {
        let mut stream = connect(identity, port(&server));
        ask(&mut stream, "version\r\n", "\r\n");
        stream.peer_certificate()
    };
    let old = first.peer_certificate();
    assert_eq!(shown(&identity), old);

    become_other(&authority, "second");
    assert_eq!(shown(&client(&authority, None)), old, "not before it is told");
    ask(&mut first, "debugtime 100\r\n", "OK\r\n");
    assert!(stat(&mut first, "", "time_since_server_cert_refresh") >= 100);
    assert_eq!(ask(&mut first, "refresh_certs\r\n", "\r\n"), "OK\r\n");
    let new = shown(&client(&authority, None));
    assert!(new != old);
    assert!(stat(&mut first, "", "time_since_server_cert_refresh") < 100, "the old session goes on");

    for (break_it, reason) in [
        (
            (|authority| std::fs::write(authority.certificate("server"), "garbage").unwrap())
                as fn(&Authority),
            "chain",
        ),
        (|authority| std::fs::remove_file(authority.certificate("server")).unwrap(), "chain"),
        (|authority| std::fs::write(authority.key("server"), "").unwrap(), "key"),
        (
            |authority| assert!(std::fs::copy(authority.key("client"), authority.key("server")).is_ok()),
            "is not that of",
        ),
    ] {
        become_other(&authority, "second");
        break_it(&authority);
        let answer = ask(&mut first, "refresh_certs\r\n", "\r\n");
        assert!(answer.starts_with("Error ") && answer.contains(reason), "{answer}");
        assert_eq!(shown(&client(&authority, None)), new);
    }
}

#[test]
fn certificates_are_read_again_on_a_hangup() {
    let authority = Authority::new().unwrap();
    authority.issue("ca", "second", 7).unwrap();
    let server = start(&authority, &[]);
    let shown = || {
        let mut stream = connect(&client(&authority, None), port(&server));
        ask(&mut stream, "version\r\n", "\r\n");
        stream.peer_certificate()
    };
    let hang_up = || run(Command::new("kill").args(["-HUP", &server.process_id().to_string()])).unwrap();
    let wait_for = |what: &str, happened: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !happened() {
            assert!(started.elapsed() < ANSWER_MAX, "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let old = shown();
    std::fs::write(authority.certificate("server"), "garbage").unwrap();
    hang_up();
    wait_for("the server says what is wrong", &|| server.errors_text().contains("stay as they are"));
    assert_eq!(shown(), old);
    become_other(&authority, "second");
    hang_up();
    wait_for("the new certificate is shown", &|| shown() != old);
}

#[test]
fn a_server_that_cannot_have_its_certificate_does_not_start() {
    let authority = Authority::new().unwrap();
    let folder = authority.folder().to_owned();
    let key = authority.key("server");
    let encrypted = folder.join("encrypted.key");
    run(Command::new("openssl")
        .args(["ec", "-aes128", "-passout", "pass:secret", "-in"])
        .arg(&key)
        .arg("-out")
        .arg(&encrypted))
    .unwrap();
    let start = |certificate: &Path, key: &Path, more: &str| {
        let options = format!("ssl_chain_cert={},ssl_key={}{more}", certificate.display(), key.display());
        let output = Command::new(&target().path)
            .args(["-l", "127.0.0.1", "-p", "-1", "-Z", "-o", &options])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let certificate = authority.certificate("server");
    let absent = folder.join("absent");
    let of_another = authority.key("client");
    for (certificate, key, more, reason) in [
        (&absent, &key, "", "absent"),
        (&certificate, &absent, "", "absent"),
        (&key, &key, "", "no certificate"),
        (&certificate, &certificate, "", "no private key"),
        (&certificate, &encrypted, "", "encrypted"),
        (&certificate, &of_another, "", "is not that of"),
        (&certificate, &key, ",ssl_keyformat=2", "Error loading the key"),
        (&certificate, &key, ",ssl_ca_cert=/dev/null", "Error loading the CA certificate"),
        (&certificate, &key, ",ssl_ciphers=RC4-SHA", "RC4-SHA"),
        (&certificate, &key, ",ssl_min_version=3,ssl_ciphers=fooble", "fooble"),
        (&certificate, &folder, "", "directory"),
    ] {
        let (code, said) = start(certificate, key, more);
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains(reason) && !said.contains("PRIVATE KEY"), "expected {reason}: {said}");
    }
}

#[test]
fn keys_in_der_and_certificates_of_the_first_version_are_served() {
    let authority = Authority::new().unwrap();
    let der = authority.folder().join("server.der");
    run(Command::new("openssl")
        .args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"])
        .arg(authority.key("server"))
        .arg("-out")
        .arg(&der))
    .unwrap();
    let options = format!("ssl_key={},ssl_keyformat=2", der.display());
    let server = start(&authority, &["-o", &options]);
    assert!(is_served(&client(&authority, None), port(&server)));
    // openssl's x509 -req makes these when it is given no extensions.
    authority.issue_plain("ca", "server").unwrap();
    let server = start(&authority, &[]);
    assert!(openssl_client(port(&server), &[]).contains("VERSION "));
}
