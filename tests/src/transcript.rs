//! A transcript file: cases, each a header and the steps of a conversation.
//!
//! This file only reads the form that `tests/README.md` describes; [`crate::play`] gives the steps their meaning.

use crate::escape::{self, Piece};
use crate::frame::{self, Direction};
use anyhow::{Context, Result, bail};
use std::path::Path;

/// The ways in which a case can reach a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    /// TCP, one byte a segment: the parser meets every possible cut.
    Drip,
    /// TCP under TLS.
    Tls,
    Unix,
    /// What is sent goes in one framed datagram, and replies are read without their frames.
    Udp,
    /// Each line is one datagram, frame included, in both directions.
    Datagram,
}

impl Transport {
    pub const ALL: [Transport; 6] = [
        Transport::Tcp,
        Transport::Drip,
        Transport::Tls,
        Transport::Unix,
        Transport::Udp,
        Transport::Datagram,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Drip => "drip",
            Transport::Tls => "tls",
            Transport::Unix => "unix",
            Transport::Udp => "udp",
            Transport::Datagram => "datagram",
        }
    }

    pub fn named(name: &str) -> Result<Transport> {
        Transport::ALL.into_iter().find(|transport| transport.name() == name).with_context(|| {
            format!("expected a transport (tcp, drip, tls, unix, udp or datagram), got `{name}`")
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Send(Vec<Piece>),
    Expect(Vec<Piece>),
    /// What follows happens on the connection of this name, opened when first named.
    Connection(String),
    /// The server must close the connection.
    Closed,
    /// We shut down our side for writing.
    Finish,
    /// We close the connection.
    Close,
    /// The connection is left in the middle of something: it is not checked at the end.
    Abandon,
    /// The server's clock is moved by so many seconds.
    Time(u32),
    /// Real time passes: only for what no event announces.
    Wait {
        ms: u64,
    },
    /// One value of `stats`, or of `stats GROUP`.
    Stat {
        group: String,
        name: String,
        value: String,
    },
}

/// What makes the server ask for passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    pub form: UsersForm,
    /// The lines of the file of users.
    pub lines: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsersForm {
    /// `-Y`
    Text,
    /// `-S`, with the file named by MEMCACHED_SASL_PWDB
    Sasl,
}

/// One conversation with a server of its own.
#[derive(Clone, Debug)]
pub struct Case {
    /// `folder/file: title`.
    pub name: String,
    pub line: usize,
    pub options: Vec<String>,
    /// Who may come in: `None` is everybody.
    pub users: Option<Users>,
    /// Empty: every transport that the steps fit.
    transports: Vec<Transport>,
    /// Empty: every target.
    pub targets: Vec<String>,
    /// Targets that it is not for, although it is for the others.
    pub except: Vec<String>,
    pub steps: Vec<Step>,
}

/// A datagram's payload that every client may send.
const UDP_REQUEST_BYTES_MAX: usize = 1392;
/// More is not worth sending one byte at a time.
const DRIP_BYTES_MAX: usize = 3000;

/// A number of `stats` that a reset does not set back.
fn is_level(name: &str) -> bool {
    !["cmd_", "get_", "delete_", "incr_", "decr_", "cas_", "touch_"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// Commands that ask for statistics, or change settings that outlive their connection.
fn names_an_instance(line: &[u8]) -> bool {
    let words: [&[u8]; 4] = [b"stats", b"cache_memlimit", b"verbosity", b"lru_crawler"];
    words.iter().any(|word| line.starts_with(word))
}

impl Case {
    /// Does the case need a clock that can be moved?
    pub fn moves_time(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Time(_)))
    }

    /// Can the case tell a server that was emptied, and whose counters were reset, from a new one?
    pub fn sees_the_past(&self) -> bool {
        self.steps.iter().any(|step| match step {
            Step::Stat { group, name, .. } => !group.is_empty() || is_level(name),
            Step::Send(pieces) => {
                pieces.iter().any(|piece| matches!(piece, Piece::Bytes(bytes) if names_an_instance(bytes)))
            }
            _ => false,
        })
    }

    pub fn fits(&self, transport: Transport) -> bool {
        if !self.transports.is_empty() {
            return self.transports.contains(&transport);
        }
        if self.users.is_some() && matches!(transport, Transport::Udp | Transport::Datagram) {
            return false;
        }
        match transport {
            Transport::Tcp | Transport::Tls | Transport::Unix => true,
            Transport::Drip => self.sent_bytes() <= DRIP_BYTES_MAX,
            Transport::Udp => self.fits_udp(),
            Transport::Datagram => false,
        }
    }

    fn sent_bytes(&self) -> usize {
        self.steps.iter().map(|step| if let Step::Send(pieces) = step { length(pieces) } else { 0 }).sum()
    }

    /// One client that only asks and is answered, each time in one datagram of modest size.
    fn fits_udp(&self) -> bool {
        let mut burst_bytes = 0;
        self.steps.iter().all(|step| match step {
            Step::Send(pieces) => {
                burst_bytes += length(pieces);
                burst_bytes <= UDP_REQUEST_BYTES_MAX
            }
            Step::Expect(_) => {
                burst_bytes = 0;
                true
            }
            Step::Connection(_) | Step::Closed | Step::Finish | Step::Close | Step::Abandon => false,
            Step::Time(_) | Step::Wait { .. } | Step::Stat { .. } => true,
        })
    }
}

fn length(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| if let Piece::Bytes(bytes) = piece { bytes.len() } else { 20 }).sum()
}

/// Reads every `*.txt` under `folder`, in order of name.
pub fn read_folder(folder: &Path) -> Result<Vec<Case>> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let shown = file.strip_prefix(folder).unwrap_or(&file).with_extension("");
        let found =
            read(&shown.display().to_string(), &text).with_context(|| format!("in {}", file.display()))?;
        cases.extend(found);
    }
    Ok(cases)
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            files.push(path);
        }
    }
    Ok(())
}

/// Reads the cases of one file.
pub fn read(file: &str, text: &str) -> Result<Vec<Case>> {
    let lines = unrolled(text)?;
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in lines {
        let context = || format!("line {number}: {line}");
        if let Some(title) = line.strip_prefix("== ") {
            cases.push(Case {
                name: format!("{file}: {title}"),
                line: number,
                options: Vec::new(),
                users: None,
                transports: Vec::new(),
                targets: Vec::new(),
                except: Vec::new(),
                steps: Vec::new(),
            });
        } else if line.is_empty() || line.starts_with('#') {
        } else {
            let case =
                cases.last_mut().with_context(|| format!("line {number}: a case starts with `== title`"))?;
            read_line(case, &line).with_context(context)?;
        }
    }
    Ok(cases)
}

/// First and last number, and the lines to repeat.
type Round = (u64, u64, Vec<(usize, String)>);

/// Repeats what stands between `! for FROM TO` and `! end`, with `{i}` replaced. They do not nest.
fn unrolled(text: &str) -> Result<Vec<(usize, String)>> {
    let mut lines = Vec::new();
    let mut round: Option<Round> = None;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if let Some(bounds) = line.strip_prefix("! for ") {
            let (from, to) =
                bounds.split_once(' ').with_context(|| format!("line {number}: expected `! for FROM TO`"))?;
            round = Some((from.parse()?, to.parse()?, Vec::new()));
        } else if line == "! end" {
            let (from, to, body) =
                round.take().with_context(|| format!("line {number}: `! end` without `! for`"))?;
            for i in from..=to {
                lines
                    .extend(body.iter().map(|(number, line)| (*number, line.replace("{i}", &i.to_string()))));
            }
        } else if let Some((_, _, body)) = &mut round {
            body.push((number, line.to_owned()));
        } else {
            lines.push((number, line.to_owned()));
        }
    }
    if round.is_some() {
        bail!("`! for` without `! end`");
    }
    Ok(lines)
}

fn read_line(case: &mut Case, line: &str) -> Result<()> {
    if let Some(frame) = line.strip_prefix(">= ") {
        case.steps.push(Step::Send(frame::parse(frame, Direction::Request)?));
    } else if let Some(frame) = line.strip_prefix("<= ") {
        case.steps.push(Step::Expect(frame::parse(frame, Direction::Reply)?));
    } else if let Some((marker, bytes)) = marked(line) {
        let mut pieces = escape::parse(bytes)?;
        if marker.len() == 1 {
            pieces.push(Piece::Bytes(b"\r\n".to_vec()));
        }
        case.steps.push(if marker.starts_with('>') { Step::Send(pieces) } else { Step::Expect(pieces) });
    } else if let Some(name) = line.strip_prefix('@') {
        case.steps.push(Step::Connection(name.trim().to_owned()));
    } else if let Some(step) = line.strip_prefix("! ") {
        case.steps.push(action(step)?);
    } else {
        header(case, line)?;
    }
    Ok(())
}

/// `> `, `>> `, `< ` and `<< `, and the same at the end of a line, where nothing follows.
fn marked(line: &str) -> Option<(&str, &str)> {
    for marker in [">>", "<<", ">", "<"] {
        if let Some(rest) = line.strip_prefix(marker) {
            return match rest.strip_prefix(' ') {
                Some(bytes) => Some((marker, bytes)),
                None if rest.is_empty() => Some((marker, "")),
                None => None,
            };
        }
    }
    None
}

fn action(text: &str) -> Result<Step> {
    let words: Vec<&str> = text.split_whitespace().collect();
    Ok(match words.as_slice() {
        ["closed"] => Step::Closed,
        ["finish"] => Step::Finish,
        ["close"] => Step::Close,
        ["abandon"] => Step::Abandon,
        ["time", seconds] => Step::Time(seconds.parse()?),
        ["wait", ms] => Step::Wait { ms: ms.parse()? },
        ["stat", name, value] => {
            Step::Stat { group: String::new(), name: (*name).into(), value: (*value).into() }
        }
        ["stat", group, name, value] => {
            Step::Stat { group: (*group).into(), name: (*name).into(), value: (*value).into() }
        }
        _ => bail!("unknown step `! {text}`"),
    })
}

fn header(case: &mut Case, line: &str) -> Result<()> {
    if !case.steps.is_empty() {
        bail!("expected a step");
    }
    let (name, value) = line.split_once(':').context("expected a header or a step")?;
    let words = value.split_whitespace();
    match name {
        "users-text" => case.users = Some(users(UsersForm::Text, words)),
        "users-sasl" => case.users = Some(users(UsersForm::Sasl, words)),
        "options" => case.options = words.map(str::to_owned).collect(),
        "targets" => case.targets = words.map(str::to_owned).collect(),
        "except" => case.except = words.map(str::to_owned).collect(),
        "transports" => case.transports = words.map(Transport::named).collect::<Result<_>>()?,
        other => bail!("unknown header `{other}`"),
    }
    Ok(())
}

fn users<'w>(form: UsersForm, words: impl Iterator<Item = &'w str>) -> Users {
    Users { form, lines: words.map(str::to_owned).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read() {
        let text = "# why\n== title\noptions: -m 64 -M\n\n> get a\n<< EN\n< D\n! time 3\n@b\n";
        let cases = read("get/one", text).unwrap();
        assert_eq!(cases.len(), 1);
        assert_eq!(cases[0].name, "get/one: title");
        assert_eq!(cases[0].options, ["-m", "64", "-M"]);
        assert_eq!(cases[0].steps.len(), 5);
        assert!(cases[0].moves_time());
        assert!(!cases[0].fits(Transport::Udp));
    }

    #[test]
    fn rounds_are_unrolled() {
        let cases = read("x", "== t\n! for 1 3\n> get k{i}\n< END\n! end\n").unwrap();
        assert_eq!(cases[0].steps.len(), 6);
        assert_eq!(
            cases[0].steps[4],
            Step::Send(vec![Piece::Bytes(b"get k3".to_vec()), Piece::Bytes(b"\r\n".to_vec())])
        );
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["> early\n", "== t\n! what\n", "== t\nwhat: 1\n", "== t\n! for 1 2\n"] {
            assert!(read("x", text).is_err(), "{text} was accepted");
        }
    }
}
