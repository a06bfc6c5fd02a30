use super::{Setting, report::Report};
pub(super) fn run(_: &Setting, _: &mut Report) -> anyhow::Result<()> { Ok(()) }
