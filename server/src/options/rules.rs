//! Rules that span flags: what goes together, what excludes what, and what one implies for another.

use super::{Options, Protection, Protocol, Refusal, Seen};

/// Rules that span flags, in memcached's order.
pub(super) fn check(options: &mut Options, seen: &Seen, any_flag: bool) -> Result<(), Refusal> {
    if options.item_bytes_max < 1024 {
        return Err(Refusal::usage("-I: the largest item cannot be below 1024 bytes"));
    }
    if options.item_bytes_max > options.memory_bytes / 2 {
        let asked = seen.item_bytes_max.as_deref().unwrap_or("1m");
        return Err(Refusal::usage(format!(
            "-I {asked}: the largest item cannot exceed half of the memory (-m)"
        )));
    }
    if options.item_bytes_max > 1 << 30 {
        return Err(Refusal::usage("-I: the largest item cannot exceed 1024m"));
    }
    check_authentication(options, seen)?;
    if options.udp_port.is_some() && !seen.tcp_port {
        options.tcp_port = options.udp_port;
    }
    if options.memory_file.is_some() && !options.fastpath.interfaces.is_empty() {
        return Err(Refusal::usage(
            "-e and --fastpath exclude each other: with --fastpath the cache is in the kernel's maps, which no file can \
             stand behind; --fastpath-pin keeps it over restarts of the server, though not of the machine",
        ));
    }
    if options.fastpath.is_idle() {
        return Err(Refusal::usage(
            "--fastpath-hook, --fastpath-pin and --fastpath-required need --fastpath",
        ));
    }
    check_tls(options)?;
    if options.unix_socket.is_some() {
        options.tcp_port = None;
        options.udp_port = None;
    } else if options.tcp_port.is_none() && options.udp_port.is_none() {
        options
            .notes
            .push("nothing to listen on: -p and -U are both 0, and there is no unix socket (-s)".to_owned());
    } else if !any_flag {
        // Whoever starts it like this is new here, and would see nothing at all.
        options.notes.push("listening on loopback, port 11211, with 64 MB; -h lists the options".to_owned());
    }
    Ok(())
}

/// `-l` and `-Z` may stand in any order, so that this is known only at the end.
fn check_tls(options: &mut Options) -> Result<(), Refusal> {
    if !options.tls_enabled {
        if options.listen.iter().any(|address| address.protection != Protection::default()) {
            return Err(Refusal::usage("-l: notls:, btls: and mtls: are valid only with TLS (-Z)"));
        }
        if options.extended.tls.is_set() {
            options.notes.push("the ssl_ options of -o have no effect without -Z".to_owned());
        }
        return Ok(());
    }
    if options.tcp_port.is_none() {
        return Err(Refusal::usage("-Z: TLS needs a TCP port (-p)"));
    }
    if options.unix_socket.is_some() {
        options.notes.push("-Z: a unix socket is served in the clear".to_owned());
    } else if options.udp_port.is_some() {
        options.notes.push("-Z: UDP is served in the clear; -U 0 turns it off".to_owned());
    }
    options.extended.tls.check(&mut options.notes)
}

/// Whoever has to authenticate speaks the protocol in which that is possible, and none without connections.
fn check_authentication(options: &mut Options, seen: &Seen) -> Result<(), Refusal> {
    let (flag, protocol, name) = match (options.sasl, &options.auth_file) {
        (false, None) => return Ok(()),
        (true, None) => ("-S", Protocol::Binary, "binary"),
        (false, Some(_)) => ("-Y", Protocol::Ascii, "ascii"),
        (true, Some(_)) => {
            return Err(Refusal::usage(
                "-S is for the binary protocol and -Y for the text protocol: choose one",
            ));
        }
    };
    if seen.protocol && options.protocol != protocol {
        return Err(Refusal::usage(format!(
            "{flag} needs -B {name}: no other protocol can authenticate by it"
        )));
    }
    if options.udp_port.is_some() {
        return Err(Refusal::usage(format!("{flag} cannot be used with UDP (-U 0 turns it off)")));
    }
    options.protocol = protocol;
    for address in &mut options.listen {
        match address.protocol {
            Some(Protocol::Auto) if protocol == Protocol::Ascii => {
                options
                    .notes
                    .push("-l proto[negotiating]: ascii only, as -Y is for the text protocol".to_owned());
                address.protocol = Some(protocol);
            }
            Some(other) if other != protocol => {
                return Err(Refusal::usage(format!(
                    "-l: {flag} needs proto[{name}], or none: no other protocol can authenticate by it"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}
