//! The engine's entries.

use unbuckle_engine::{Counters, Engine, Observer, Output, Served, Session, Settings};
use unbuckle_store::Worker;

#[unsafe(no_mangle)]
fn gate_engine_new<'s, 'r>(worker: Worker<'s, 'r>, settings: Settings, counters: &'s Counters) -> Engine<'s, 'r> {
    Engine::new(worker, settings, counters)
}

#[unsafe(no_mangle)]
fn gate_engine_now_set(engine: &mut Engine<'_, '_>, now_s: u32, made_s: u64) { engine.now_set(now_s, made_s); }

#[unsafe(no_mangle)]
fn gate_engine_serve(
    engine: &mut Engine<'_, '_>,
    session: &mut Session,
    input: &[u8],
    output: &mut Output<'_>,
    limit: u32,
) -> Served {
    engine.serve(session, input, output, limit)
}

#[unsafe(no_mangle)]
fn gate_engine_unsend(engine: &mut Engine<'_, '_>, session: &mut Session, bytes: usize) -> usize {
    engine.unsend(session, bytes)
}

#[unsafe(no_mangle)]
fn gate_engine_end(engine: &mut Engine<'_, '_>, session: &mut Session) { engine.end(session); }

#[unsafe(no_mangle)]
fn gate_engine_maintain(engine: &mut Engine<'_, '_>) -> bool { engine.maintain() }

#[unsafe(no_mangle)]
fn gate_engine_observe<'s>(engine: &mut Engine<'s, '_>, observer: Option<&'s dyn Observer>) {
    engine.observe(observer);
}
