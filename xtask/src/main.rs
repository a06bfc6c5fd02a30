//! The project's chores, as `cargo xtask NAME`.

mod compare;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("compare") => compare::compare(arguments),
        Some("instructions") => compare::instructions(arguments),
        other => bail!("no task {other:?}; there are: compare, instructions"),
    }
}
