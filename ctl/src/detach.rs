//! `unbuckle ctl detach`: ends a fast path that outlived its daemon.

use crate::{FAILURE, WRONG_USAGE, complain, print};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use unbuckle_fastpath::{Pinned, unpin};
use unbuckle_server::options::PIN_FOLDER_DEFAULT;

pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let arguments: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let folder = match &arguments[..] {
        [] => Path::new(PIN_FOLDER_DEFAULT),
        [folder] => folder,
        _ => {
            complain("unbuckle ctl detach: expected one folder, or none");
            return WRONG_USAGE;
        }
    };
    let shown = folder.display();
    match Pinned::open(folder).and_then(|pinned| pinned.map(|pinned| detach(folder, &pinned)).transpose()) {
        Ok(Some(done)) => {
            print(&done);
            0
        }
        Ok(None) => {
            print(&format!("nothing is pinned in {shown}\n"));
            0
        }
        Err(error) => {
            complain(&format!("unbuckle ctl detach: {error}"));
            FAILURE
        }
    }
}

fn detach(folder: &Path, pinned: &Pinned) -> Result<String, unbuckle_fastpath::Error> {
    unpin(folder)?;
    let links = if pinned.links().is_empty() { "no link".to_owned() } else { pinned.links().join(", ") };
    Ok(format!("detached: {links}; {} MB freed\n", pinned.region_bytes() >> 20))
}
