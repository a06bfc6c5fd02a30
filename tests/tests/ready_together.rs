//! Many connections that are found ready by one poll: the server reads several of them before it answers any, and must
//! still give every one its own replies, whatever the others have sent.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use unbuckle_tests::server::{Address, Server, Target, unbuckle_path};
use unbuckle_tests::transcript::Transport;

fn signal(server: &Server, name: &str) {
    let kill = Command::new("kill").args([name, &server.process_id().to_string()]).status().unwrap();
    assert!(kill.success(), "kill {name}: {kill}");
}

fn line(reader: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

#[test]
fn each_gets_its_own_replies() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Target::unbuckle(unbuckle_path(&here.join("..")).unwrap());
    let one_thread = ["-t".to_owned(), "1".to_owned()];
    let server = Server::start(&target, &one_thread, Transport::Tcp, false).unwrap();
    let Address::Port(address) = server.address else { panic!("a port was asked for") };
    let mut clients: Vec<_> = (0..40).map(|_| BufReader::new(TcpStream::connect(address).unwrap())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let value = format!("value of {number}");
        write!(client.get_mut(), "set key{number} 0 0 {}\r\n{value}\r\n", value.len()).unwrap();
        assert_eq!(line(client), "STORED\r\n");
    }
    // Stopped, the server finds what all of them have sent in one poll.
    signal(&server, "-STOP");
    let many = "mn\r\n".repeat(3000); // more than is read ahead
    for (number, client) in clients.iter_mut().enumerate() {
        let stream = client.get_mut();
        match number % 5 {
            0 => write!(stream, "get key{number}\r\n").unwrap(),
            1 => write!(stream, "get key{number} key{}\r\nmn\r\n", number - 1).unwrap(),
            2 => write!(stream, "get ke").unwrap(),
            3 => write!(stream, "{many}get key{number}\r\n").unwrap(),
            _ => {
                write!(stream, "get key{number}\r\n").unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
        }
    }
    signal(&server, "-CONT");
    for (number, client) in clients.iter_mut().enumerate() {
        let hit = |number: usize, client: &mut BufReader<TcpStream>| {
            let value = format!("value of {number}");
            assert_eq!(line(client), format!("VALUE key{number} 0 {}\r\n", value.len()));
            assert_eq!(line(client), format!("{value}\r\n"));
        };
        match number % 5 {
            0 => hit(number, client),
            1 => {
                hit(number, client);
                hit(number - 1, client);
            }
            2 => {
                write!(client.get_mut(), "y{number}\r\n").unwrap();
                hit(number, client);
            }
            3 => {
                for _ in 0..3000 {
                    assert_eq!(line(client), "MN\r\n");
                }
                hit(number, client);
            }
            _ => hit(number, client),
        }
        assert_eq!(line(client), "END\r\n", "client {number}");
        if number % 5 == 1 {
            assert_eq!(line(client), "MN\r\n");
        }
        if number % 5 == 4 {
            assert_eq!(line(client), "", "the end");
        }
    }
}
