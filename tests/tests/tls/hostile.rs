//! What is not TLS, what is spoiled, forged or never finished: the client's end at worst, and nobody else's.

use super::{ask, client, connect, port, start, stat};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ClientConnection, ConnectionTrafficSecrets};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use unbuckle_tests::authority::Authority;
use unbuckle_tests::connection::ANSWER_MAX;
use unbuckle_tests::tls::{Identity, TlsStream};

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
