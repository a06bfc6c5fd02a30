//! `compare`: what `cargo xtask compare` runs. See `unbuckle_bench::compare`.

fn main() -> anyhow::Result<()> {
    unbuckle_bench::compare::main()
}
