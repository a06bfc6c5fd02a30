//! Certificates, keys and sessions: what is accepted, read again, and given up.

use super::{ask, client, connect, is_served, openssl_client, port, start, stat, target};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use unbuckle_tests::authority::{Authority, run};
use unbuckle_tests::connection::ANSWER_MAX;
use unbuckle_tests::tls::Identity;

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
