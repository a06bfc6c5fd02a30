//! A list of system calls as the program that the kernel runs before each of them (classic BPF, `seccomp(2)`).
//!
//! Plain data and no system call: what is allowed is said in `mod.rs`, and handed to the kernel in `kernel.rs`. A call that
//! is allowed whatever its arguments costs no run of the program: since 5.11 the kernel remembers those by number.

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long, sock_filter,
};

/// What a call's argument must be. The lower half of the register is looked at: all of these are `int` or flags that fit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Condition {
    Is(u32),
    /// None of these bits is set.
    Lacks(u32),
}

/// A system call that is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    Always(c_long),
    /// If the argument of this index meets the condition. There may be several rules for one call: one is enough.
    When(c_long, u32, Condition),
}

/// What becomes of every other call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// It fails.
    Fail,
    /// It ends the process, so that a test cannot miss it.
    Kill,
}

/// The architecture whose numbers the calls have, as the kernel names it; `None`: not one that is known here.
const ARCHITECTURE: Option<u32> = match () {
    () if cfg!(all(target_arch = "x86_64", target_endian = "little", target_pointer_width = "64")) => {
        Some(0xc000_003e)
    }
    () if cfg!(all(target_arch = "aarch64", target_endian = "little")) => Some(0xc000_00b7),
    () => None,
};

/// Calls with higher numbers are newer than this list. They are answered as an older kernel answers them, so that a C
/// library that tries them does what it did before there were any.
const NUMBER_KNOWN_MAX: u32 = 463;

/// Offsets in what the program is given (`struct seccomp_data`).
const NUMBER: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The program; `None` where it is not known what the numbers mean.
pub(super) fn program(rules: &[Rule], otherwise: Otherwise) -> Option<Vec<sock_filter>> {
    let (denied, unknown) = match otherwise {
        Otherwise::Fail => (error(libc::EPERM), error(libc::ENOSYS)),
        Otherwise::Kill => (libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_KILL_PROCESS),
    };
    let mut program = vec![
        load(ARCHITECTURE_AT),
        jump(BPF_JEQ, ARCHITECTURE?, 1, 0),
        finish(denied), // a foreign table of calls, such as that of 32-bit programs
        load(NUMBER),
    ];
    for rule in rules {
        match *rule {
            Rule::Always(number) => {
                program.extend([jump(BPF_JEQ, number as u32, 0, 1), finish(libc::SECCOMP_RET_ALLOW)]);
            }
            Rule::When(number, argument, condition) => {
                let test = match condition {
                    Condition::Is(value) => jump(BPF_JEQ, value, 0, 1),
                    Condition::Lacks(bits) => jump(BPF_JSET, bits, 1, 0),
                };
                program.extend([
                    jump(BPF_JEQ, number as u32, 0, 4),
                    load(ARGUMENTS + 8 * argument),
                    test,
                    finish(libc::SECCOMP_RET_ALLOW),
                    load(NUMBER),
                ]);
            }
        }
    }
    program.extend([jump(BPF_JGT, NUMBER_KNOWN_MAX, 0, 1), finish(unknown), finish(denied)]);
    Some(program)
}

fn error(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

/// Passes over `met` instructions if the comparison holds, else over `unmet`.
fn jump(comparison: u32, value: u32, met: u8, unmet: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | comparison | BPF_K) as u16, jt: met, jf: unmet, k: value }
}

fn finish(action: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: action }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do, for the instructions that are used here.
    fn run(program: &[sock_filter], architecture: u32, number: c_long, arguments: [u64; 2]) -> u32 {
        let word = |offset: u32| match offset {
            NUMBER => number as u32,
            ARCHITECTURE_AT => architecture,
            offset => arguments[((offset - ARGUMENTS) / 8) as usize] as u32,
        };
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let instruction = program[at];
            at += 1;
            let code = u32::from(instruction.code);
            let met = match code & 0xf0 {
                _ if code == BPF_LD | BPF_W | BPF_ABS => {
                    accumulator = word(instruction.k);
                    continue;
                }
                _ if code == BPF_RET | BPF_K => return instruction.k,
                BPF_JEQ => accumulator == instruction.k,
                BPF_JGT => accumulator > instruction.k,
                BPF_JSET => accumulator & instruction.k != 0,
                _ => panic!("instruction {code:#x}"),
            };
            at += usize::from(if met { instruction.jt } else { instruction.jf });
        }
    }

    #[test]
    fn what_is_listed_is_allowed_and_nothing_else() {
        let rules = [
            Rule::Always(3),
            Rule::When(5, 1, Condition::Lacks(0b110)),
            Rule::When(7, 0, Condition::Is(16)),
            Rule::When(7, 0, Condition::Is(17)),
            Rule::Always(9),
        ];
        let Some(architecture) = ARCHITECTURE else { return };
        let program = program(&rules, Otherwise::Fail).unwrap();
        let run = |number, arguments| run(&program, architecture, number, arguments);
        for (number, arguments) in [(3, [1, 2]), (5, [7, 0b1001]), (7, [16, 0]), (7, [17, 9]), (9, [0, 0])] {
            assert_eq!(run(number, arguments), libc::SECCOMP_RET_ALLOW, "{number} {arguments:?}");
        }
        for (number, arguments) in [(4, [0, 0]), (5, [0, 0b10]), (7, [18, 0]), (16, [0, 0])] {
            assert_eq!(run(number, arguments), error(libc::EPERM), "{number} {arguments:?}");
        }
        assert_eq!(run(c_long::from(NUMBER_KNOWN_MAX) + 1, [0, 0]), error(libc::ENOSYS));
    }

    #[test]
    fn numbers_of_another_table_mean_nothing() {
        let program = program(&[Rule::Always(3)], Otherwise::Kill).unwrap();
        assert_eq!(run(&program, 0x4000_0003, 3, [0, 0]), libc::SECCOMP_RET_KILL_PROCESS);
    }
}
