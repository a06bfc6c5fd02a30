//! Passwords over the life of a server: read again on SIGHUP, or at each attempt; refused at the start; never shown.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use unbuckle_tests::server::{Address, Server, Target, unbuckle_path};
use unbuckle_tests::transcript::{Transport, Users, UsersForm};

/// Longer than anything here takes: it ends a hung test.
const PATIENCE: Duration = Duration::from_secs(20);

fn unbuckle() -> PathBuf {
    unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap()
}

fn started(form: UsersForm, options: &[&str]) -> Server {
    let users = Users { form, lines: vec!["foo:old-secret".to_owned()] };
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    Server::start_guarded(&Target::unbuckle(unbuckle()), &options, Some(&users), Transport::Tcp, false)
        .unwrap()
}

fn connected(server: &Server) -> TcpStream {
    let Address::Port(address) = server.address else { panic!("expected a port") };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The first line that an attempt is answered.
fn text_attempt(server: &Server, password: &str) -> String {
    text_attempt_by(&mut connected(server), password)
}

fn text_attempt_by(stream: &mut TcpStream, password: &str) -> String {
    write!(stream, "set x 0 0 {}\r\nfoo {password}\r\n", password.len() + 4).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// The status that an attempt is answered.
fn sasl_attempt(server: &Server, password: &str) -> u16 {
    sasl_attempt_by(&mut connected(server), password)
}

fn sasl_attempt_by(stream: &mut TcpStream, password: &str) -> u16 {
    let value = format!("\0foo\0{password}");
    let mut request = vec![0x80, 0x21, 0, 5, 0, 0, 0, 0];
    request.extend((5 + value.len() as u32).to_be_bytes());
    request.extend([0; 12]);
    request.extend(b"PLAIN");
    request.extend(value.as_bytes());
    stream.write_all(&request).unwrap();
    let mut header = [0; 24];
    stream.read_exact(&mut header).unwrap();
    u16::from_be_bytes([header[6], header[7]])
}

fn hang_up(server: &Server) {
    let sent = Command::new("kill").args(["-HUP", &server.process_id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A signal is heard some time after it was sent: asks until the answer comes.
fn wait_for(what: &str, mut come: impl FnMut() -> bool) {
    let started = Instant::now();
    while !come() {
        assert!(started.elapsed() < PATIENCE, "{what} did not come");
        std::thread::yield_now();
    }
}

#[test]
fn the_file_of_users_is_read_again_on_sighup() {
    let server = started(UsersForm::Text, &["-vv"]);
    assert_eq!(text_attempt(&server, "old-secret"), "STORED");
    std::fs::write(&server.users_file, "foo:new-secret\n").unwrap();
    assert_eq!(text_attempt(&server, "new-secret"), "CLIENT_ERROR authentication failure");
    hang_up(&server);
    wait_for("the new password", || text_attempt(&server, "new-secret") == "STORED");
    assert_eq!(text_attempt(&server, "old-secret"), "CLIENT_ERROR authentication failure");
    // What cannot be read leaves the passwords in force.
    std::fs::write(&server.users_file, "no colon here: \nnor-here\n").unwrap();
    hang_up(&server);
    wait_for("a complaint", || server.errors_text().contains("stay in force"));
    assert_eq!(text_attempt(&server, "new-secret"), "STORED");
    assert!(!server.errors_text().contains("secret"), "{}", server.errors_text());
}

#[test]
fn the_database_is_read_at_each_attempt() {
    let server = started(UsersForm::Sasl, &["-vv"]);
    assert_eq!(sasl_attempt(&server, "old-secret"), 0);
    std::fs::write(&server.users_file, "foo:new-secret:\n").unwrap();
    assert_eq!(sasl_attempt(&server, "new-secret"), 0);
    assert_eq!(sasl_attempt(&server, "old-secret"), 0x20);
    std::fs::remove_file(&server.users_file).unwrap();
    assert_eq!(sasl_attempt(&server, "new-secret"), 0x20, "without users nobody comes in");
    assert!(!server.errors_text().contains("secret"), "{}", server.errors_text());
}

fn refused(options: &[&str], database: Option<&str>) -> Output {
    let mut command = Command::new(unbuckle());
    command.args(["-p", "-1", "-l", "127.0.0.1"]).args(options).stdin(Stdio::null());
    match database {
        Some(path) => command.env("MEMCACHED_SASL_PWDB", path),
        None => command.env_remove("MEMCACHED_SASL_PWDB"),
    };
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{options:?} was accepted");
    output
}

#[test]
fn a_server_without_its_users_does_not_start() {
    let told = |output: Output| String::from_utf8(output.stderr).unwrap();
    assert!(told(refused(&["-S"], None)).contains("MEMCACHED_SASL_PWDB"));
    assert!(told(refused(&["-S"], Some("/nonexistent/users"))).contains("/nonexistent/users"));
    assert!(told(refused(&["-Y", "/nonexistent/users"], None)).contains("/nonexistent/users"));
    assert!(told(refused(&["-Y", "/dev/null"], None)).contains("user:password"));
    assert!(told(refused(&["-Y", "/nonexistent/users", "-B", "binary"], None)).contains("-B ascii"));
}

/// Tries wrong passwords, each on a connection of its own, until the right one is not heard either; how many were tried.
fn guess_until_unheard(right: impl Fn() -> bool, wrong: impl Fn()) -> u32 {
    for tried in 0..2000 {
        if tried % 16 == 0 && !right() {
            return tried;
        }
        wrong();
    }
    panic!("guesses are not bounded");
}

#[test]
fn an_address_that_guesses_is_not_heard_and_others_are() {
    let server = started(UsersForm::Text, &[]);
    let mut inside = connected(&server);
    assert_eq!(text_attempt_by(&mut inside, "old-secret"), "STORED");
    let right = || text_attempt(&server, "old-secret") == "STORED";
    let tried = guess_until_unheard(right, || assert_ne!(text_attempt(&server, "guess"), "STORED"));
    assert!(tried >= 64, "{tried} wrong ones were enough");
    assert_eq!(text_attempt_by(&mut from_another_address(&server), "old-secret"), "STORED");
    // Whoever is in stays in.
    assert!(stat(&mut inside, "stats\r\n", "auth_errors") > u64::from(tried));
    assert!(stat(&mut inside, "stats unbuckle\r\n", "auth_unheard") > 0);
}

#[test]
fn the_same_holds_for_sasl() {
    let server = started(UsersForm::Sasl, &[]);
    let right = || sasl_attempt(&server, "old-secret") == 0;
    let tried = guess_until_unheard(right, || assert_eq!(sasl_attempt(&server, "guess"), 0x20));
    assert!(tried >= 64, "{tried} wrong ones were enough");
    assert_eq!(sasl_attempt_by(&mut from_another_address(&server), "old-secret"), 0);
}

/// From 127.0.0.2.
fn from_another_address(server: &Server) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let Address::Port(address) = server.address else { panic!("expected a port") };
    let stream = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&stream, &std::net::SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    connect(&stream, &address).unwrap();
    let stream = TcpStream::from(stream);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn stat(stream: &mut TcpStream, command: &str, name: &str) -> u64 {
    stream.write_all(command.as_bytes()).unwrap();
    let prefix = format!("STAT {name} ");
    // To the end, so that nothing is left behind.
    let lines = BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| line != "END");
    let lines: Vec<String> = lines.collect();
    let value = lines.iter().find_map(|line| line.strip_prefix(&prefix));
    value.unwrap_or_else(|| panic!("no {name} in {lines:?}")).parse().unwrap()
}
