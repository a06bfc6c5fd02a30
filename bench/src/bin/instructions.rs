//! `instructions`: what `cargo xtask instructions` runs. See `unbuckle_bench::instructions`.

fn main() -> anyhow::Result<()> {
    unbuckle_bench::instructions::main()
}
