//! How much stack functions take, read from a disassembly: each by itself, and the longest chain of calls.
//!
//! Indirect calls are not followed. The core has one, to a function that does nothing.

use std::collections::{BTreeMap, BTreeSet};

/// A return address.
const CALL_BYTES: usize = 8;

#[derive(Debug, Default)]
struct Function {
    bytes: usize,
    /// Names, or places in the text section until those are known.
    callees: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Frames(BTreeMap<String, Function>);

impl Frames {
    /// From `objdump --disassemble --reloc --no-show-raw-insn`.
    pub(crate) fn of(text: &str) -> Frames {
        let mut frames = Frames::default();
        let mut name = String::new();
        let mut starts = BTreeMap::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some((start, header)) = header(line) {
                name = header.to_owned();
                starts.insert(start, name.clone());
                frames.0.entry(name.clone()).or_default();
            } else if let Some(function) = frames.0.get_mut(&name) {
                function.bytes += pushed_bytes(line);
                // What is to be filled in is shown as what stands behind it: at a function's end, as the next one.
                if !lines.peek().is_some_and(|next| is_relocation(next)) {
                    function.callees.extend(callee(line).map(str::to_owned));
                }
            }
        }
        frames.name_places(&starts);
        frames
    }

    fn name_places(&mut self, starts: &BTreeMap<usize, String>) {
        for (name, function) in &mut self.0 {
            let named = function.callees.iter().map(|callee| match place(callee) {
                Some(place) => starts.get(&place).unwrap_or(callee).clone(),
                None => callee.clone(),
            });
            function.callees = named.filter(|callee| callee != name).collect();
        }
    }

    pub(crate) fn largest(&self) -> Option<(String, usize)> {
        let largest = self.0.iter().max_by_key(|(_, function)| function.bytes)?;
        Some((largest.0.clone(), largest.1.bytes))
    }

    /// The chain of calls that takes the most stack, how much that is, and the circles that were met: functions that
    /// call each other. Each circle is counted as gone round once more, wherever it is in the chain.
    pub(crate) fn longest_chain(&self) -> Longest {
        let mut longest = Longest::default();
        let mut known = BTreeMap::new();
        for name in self.0.keys() {
            let chain = self.chain_from(name, &mut known, &mut Vec::new(), &mut longest.circles);
            if chain.1 > longest.bytes {
                (longest.chain, longest.bytes) = chain;
            }
        }
        let circle_bytes = |circle: &Vec<String>| circle.iter().map(|name| self.bytes(name)).sum::<usize>();
        longest.bytes += longest.circles.iter().map(circle_bytes).max().unwrap_or(0);
        longest
    }

    fn bytes(&self, name: &str) -> usize {
        self.0.get(name).map_or(0, |function| function.bytes + CALL_BYTES)
    }

    fn chain_from(
        &self,
        name: &str,
        known: &mut BTreeMap<String, (Vec<String>, usize)>,
        above: &mut Vec<String>,
        circles: &mut Vec<Vec<String>>,
    ) -> (Vec<String>, usize) {
        let Some(function) = self.0.get(name) else { return (Vec::new(), 0) };
        if let Some(at) = above.iter().position(|caller| caller == name) {
            circles.push(above[at..].to_vec());
            return (Vec::new(), 0);
        }
        if let Some(chain) = known.get(name) {
            return chain.clone();
        }
        above.push(name.to_owned());
        let chains = function.callees.iter().map(|callee| self.chain_from(callee, known, above, circles));
        let (below, bytes) = chains.max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
        above.pop();
        let mut names = vec![name.to_owned()];
        names.extend(below);
        let chain = (names, bytes + self.bytes(name));
        known.insert(name.to_owned(), chain.clone());
        chain
    }
}

#[derive(Debug, Default)]
pub(crate) struct Longest {
    pub(crate) chain: Vec<String>,
    pub(crate) bytes: usize,
    pub(crate) circles: Vec<Vec<String>>,
}

/// `0000000000000000 <name>:`
fn header(line: &str) -> Option<(usize, &str)> {
    let (address, name) = line.split_once(" <")?;
    let start = usize::from_str_radix(address, 16).ok().filter(|_| address.len() == 16)?;
    Some((start, name.strip_suffix(">:")?))
}

/// `.text+0x1234`: relative to the end of the four bytes that are to be filled in.
fn place(callee: &str) -> Option<usize> {
    let offset = usize::from_str_radix(callee.strip_prefix(".text+0x")?, 16).ok()?;
    Some(offset + 4)
}

/// What an instruction takes from the stack.
fn pushed_bytes(line: &str) -> usize {
    let Some((_, instruction)) = line.split_once(":\t") else { return 0 };
    if instruction.starts_with("push") {
        return 8;
    }
    let amount = instruction.strip_prefix("sub").and_then(|rest| rest.trim().strip_suffix(",%rsp"));
    amount
        .and_then(|amount| amount.strip_prefix("$0x"))
        .and_then(|digits| usize::from_str_radix(digits, 16).ok())
        .unwrap_or(0)
}

fn is_relocation(line: &str) -> bool {
    line.contains(": R_X86_64_P")
}

/// The function that an instruction calls or jumps to: named in it, or in the relocation below it.
fn callee(line: &str) -> Option<&str> {
    if let Some((_, relocation)) = line.split_once(": R_X86_64_P") {
        let target = relocation.split_whitespace().nth(1)?;
        return Some(target.rsplit_once("-0x").map_or(target, |(name, _)| name));
    }
    let (_, instruction) = line.split_once(":\t")?;
    let jumps = instruction.starts_with("call") || instruction.starts_with('j');
    let target = instruction.split_once('<')?.1.strip_suffix('>')?;
    // `<name+0x10>` is a place inside a function: of a jump, mostly this one.
    (jumps && !target.contains('+')).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
0000000000000000 <top>:
   0:\tpush   %rbp
   1:\tsub    $0x100,%rsp
   8:\tcall   20 <middle>
   d:\tje     8 <top+0x8>
0000000000000020 <middle>:
  20:\tsub    $0x10,%rsp
  24:\tcall   29 <middle+0x9>
\t\t\t25: R_X86_64_PLT32\t.text+0x2c
  2b:\tjmp    30 <bottom>
\t\t\t2c: R_X86_64_PLT32\tmemcpy-0x4
0000000000000030 <bottom>:
  30:\tpush   %rbx
0000000000000040 <last>:
  40:\tsub    $0x90,%rsp
  47:\tjmp    50 <far>
\t\t\t48: R_X86_64_PLT32\tmemcpy-0x4
0000000000000050 <far>:
  50:\tsub    $0x100,%rsp
";

    #[test]
    fn chains_are_added_up() {
        let frames = Frames::of(TEXT);
        assert_eq!(frames.largest(), Some(("top".to_owned(), 0x108)));
        let longest = frames.longest_chain();
        assert_eq!(longest.chain, ["top", "middle", "bottom"]);
        assert_eq!(longest.bytes, 0x108 + 0x10 + 8 + 3 * CALL_BYTES);
        assert!(longest.circles.is_empty());
    }

    #[test]
    fn circles_are_told() {
        let circle = TEXT.replace("  30:\tpush   %rbx", "  30:\tjmp    0 <top>");
        let longest = Frames::of(&circle).longest_chain();
        assert_eq!(longest.circles, [["bottom", "top", "middle"]]);
    }
}
