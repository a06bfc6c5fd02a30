//! Real clients against a server that is started for them: sessions of ours and libmemcached's tools ([`tools`]), and the
//! clients' own test suites ([`catalogue`]) as their authors ship them.
//!
//! Everything that is fetched comes by the ordinary clients of PyPI and crates.io, in pinned versions, and lies under
//! `target/clients/`. With `--peer PATH` each suite is also played against another server, and the two are compared.

mod catalogue;
mod fetch;
mod network;
mod report;
mod stage;
mod suite;
mod tools;

use crate::outcome::Outcome;
use crate::run::{target_folder, unbuckle};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

const USAGE: &str = "usage: cargo xtask clients [--server PATH] [--peer PATH] [--list] [NAME]...";

#[derive(Debug, Default)]
struct Wishes {
    server: Option<PathBuf>,
    peer: Option<PathBuf>,
    list: bool,
    names: Vec<String>,
}

impl Wishes {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Wishes> {
        let mut wishes = Wishes::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--server" => wishes.server = Some(arguments.next().context(USAGE)?.into()),
                "--peer" => wishes.peer = Some(arguments.next().context(USAGE)?.into()),
                "--list" => wishes.list = true,
                name if !name.starts_with('-') => wishes.names.push(name.to_owned()),
                _ => bail!("{USAGE}"),
            }
        }
        Ok(wishes)
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }
}

pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<Vec<Outcome>> {
    let wishes = Wishes::read(arguments)?;
    if wishes.list {
        let suites = catalogue::suites();
        let names = suites.iter().map(suite::Suite::title).chain(tools::TITLES.map(str::to_owned));
        names.for_each(|name| println!("{name}"));
        return Ok(Vec::new());
    }
    let server = match &wishes.server {
        Some(server) => std::path::absolute(server)?,
        None => unbuckle()?,
    };
    Ok(play(&server, &wishes))
}

/// Every client that is here, for `cargo xtask test`.
pub(crate) fn all(server: &Path) -> Vec<Outcome> {
    play(server, &Wishes::default())
}

fn play(server: &Path, wishes: &Wishes) -> Vec<Outcome> {
    let mut outcomes = tools::all(server, &|name| wishes.wants(name));
    let suites: Vec<_> =
        catalogue::suites().into_iter().filter(|suite| wishes.wants(&suite.title())).collect();
    outcomes.extend(suite::play_all(&suites, server, wishes.peer.as_deref()));
    outcomes
}

/// Where everything about clients lies.
fn folder() -> PathBuf {
    target_folder().join("clients")
}
