//! Large values that fill the memory: what is new always finds room, as long as something old can go.

mod support;
use unbuckle_store as crate_under_test;

use support::{options, store};
use unbuckle_store::{Condition, NewItem, Refused, Stored, Worker};

fn write(worker: &mut Worker<'_, '_>, key: &[u8], len: usize) -> Result<Stored, Refused> {
    let key = worker.key(key).unwrap();
    let item = NewItem::plain(&[]);
    let mut upload = worker.begin_upload(key.bytes().len(), len as u64)?;
    let piece = [b'x'; 16 << 10];
    while upload.remaining() > 0 {
        let wanted = piece.len().min(upload.remaining() as usize);
        if let Err(refused) = worker.upload(&mut upload, &piece[..wanted]) {
            worker.abort_upload(upload);
            return Err(refused);
        }
    }
    worker.finish_upload(upload, &key, &item, Condition::Always)
}

#[test]
fn there_is_room_for_every_new_one() {
    let store = store(&options(48 << 20), 1);
    let mut worker = store.worker(0).unwrap();
    for number in 0..5u64 {
        write(&mut worker, format!("foo{number}").as_bytes(), 400 << 10).unwrap();
    }
    for number in 0..100u64 {
        write(&mut worker, format!("toast{number}").as_bytes(), 573_440).unwrap();
    }
    let mut len = 200 << 10;
    let mut refused = Vec::new();
    while len < (1 << 20) - 300 {
        if let Err(why) = write(&mut worker, format!("foo_{len}").as_bytes(), len) {
            refused.push((len, why));
        }
        len += 2048;
    }
    assert!(refused.is_empty(), "{refused:?}, {:?}", store.gauges());
}
