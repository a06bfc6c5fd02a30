//! TLS against the binary: real clients, and who does not read. Beside it: certificates good and bad, what is not TLS at all.
//!
//! Certificates come from a throw-away authority made by `openssl`, whose client is one of the two used here.

mod certificates;
mod hostile;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use unbuckle_tests::authority::Authority;
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
