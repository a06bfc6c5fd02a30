//! The version protocol under every interleaving and every reordering that the memory model allows, on a few words.
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release -p unbuckle-layout --test loom`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::thread;
use unbuckle_layout::line::{Entry, LINE_WORDS, Line};

/// A line and the two words of an item.
struct Memory {
    line: [AtomicU64; LINE_WORDS],
    item: [AtomicU64; 2],
    handed_on: AtomicBool,
}

const TAG: u8 = 7;

fn memory() -> Arc<Memory> {
    let memory = Memory {
        line: std::array::from_fn(|_| AtomicU64::new(0)),
        item: std::array::from_fn(|_| AtomicU64::new(1)),
        handed_on: AtomicBool::new(false),
    };
    let change = Line(&memory.line).open();
    change.put(0, TAG, Entry { offset: 64, extra: 0, away: false });
    change.close();
    Arc::new(memory)
}

/// What a validated read saw: the item's two words, or that there is no entry. `None`: torn.
fn read(memory: &Memory) -> Option<Option<(u64, u64)>> {
    let line = Line(&memory.line);
    let state = line.begin_read();
    if state.is_odd() {
        return None;
    }
    let found = line.tagged((TAG, 0)).next().map(|slot| {
        assert!(slot < 8);
        (memory.item[0].load(Ordering::Relaxed), memory.item[1].load(Ordering::Relaxed))
    });
    line.unchanged(state).then_some(found)
}

#[test]
fn an_item_changed_in_place_is_never_read_torn() {
    loom::model(|| {
        let memory = memory();
        let writer = {
            let memory = memory.clone();
            thread::spawn(move || {
                let change = Line(&memory.line).open();
                memory.item[0].store(2, Ordering::Relaxed);
                memory.item[1].store(2, Ordering::Relaxed);
                change.close();
            })
        };
        if let Some(found) = read(&memory) {
            let (first, second) = found.expect("the entry is always there");
            assert_eq!(first, second);
        }
        writer.join().unwrap();
        assert_eq!(read(&memory), Some(Some((2, 2))), "a read after the write sees it");
    });
}

#[test]
fn memory_that_another_thread_reuses_is_never_believed() {
    loom::model(|| {
        let memory = memory();
        let unlinker = {
            let memory = memory.clone();
            thread::spawn(move || {
                let change = Line(&memory.line).open();
                change.clear(0, 0);
                change.close();
                memory.handed_on.store(true, Ordering::Release);
            })
        };
        let reuser = {
            let memory = memory.clone();
            thread::spawn(move || {
                if memory.handed_on.load(Ordering::Acquire) {
                    // As staging does before it writes to memory that another thread has freed.
                    fence(Ordering::Release);
                    memory.item[0].store(9, Ordering::Relaxed);
                    memory.item[1].store(9, Ordering::Relaxed);
                }
            })
        };
        if let Some(Some(found)) = read(&memory) {
            assert_eq!(found, (1, 1));
        }
        unlinker.join().unwrap();
        reuser.join().unwrap();
    });
}

#[test]
fn a_moved_entry_is_found_or_the_miss_is_torn() {
    loom::model(|| {
        let from = memory();
        let to = Arc::new(Memory {
            line: std::array::from_fn(|_| AtomicU64::new(0)),
            item: std::array::from_fn(|_| AtomicU64::new(1)),
            handed_on: AtomicBool::new(false),
        });
        let mover = {
            let (from, to) = (from.clone(), to.clone());
            thread::spawn(move || {
                let change = Line(&to.line).open();
                change.put(0, TAG, Entry { offset: 64, extra: 0, away: true });
                change.close();
                let change = Line(&from.line).open();
                change.clear(0, 0);
                change.close();
            })
        };
        // The order in which a reader searches: the line that the entry goes to first, then the one that it leaves.
        let lines = [Line(&to.line), Line(&from.line)];
        let states = lines.map(|line| line.begin_read());
        if states.iter().all(|state| !state.is_odd()) {
            let found = lines.iter().any(|line| line.tagged((TAG, 0)).next().is_some());
            let valid = lines.iter().zip(states).all(|(line, state)| line.unchanged(state));
            assert!(found || !valid, "a present key was missed");
        }
        mover.join().unwrap();
    });
}
