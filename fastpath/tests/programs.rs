//! The committed programs load.

use unbuckle_fastpath::{Hook, Loader};

#[test]
fn both_programs_verify() {
    let mut loader = match Loader::create(1 << 20) {
        Ok(loader) => loader,
        Err(error) => panic!("{error}"),
    };
    for hook in [Hook::Tcx, Hook::Xdp] {
        match loader.load(hook) {
            Ok(program) => println!("{hook:?}: {:?}", program.verified_instructions),
            Err(error) => {
                let text = format!("{error:?}").replace("\\n", "\n");
                let lines: Vec<&str> = text.lines().collect();
                for line in &lines[lines.len().saturating_sub(40)..] {
                    println!("{}", &line[..line.len().min(300)]);
                }
                panic!("{hook:?}");
            }
        }
    }
}
