//! What is told to whoever watches: evictions as they happen; and, on request, what a lookup would find.
//!
//! A store that nobody watches pays a test of a pointer for each eviction.

use crate::read::{Miss, Try};
use crate::{Item, Key, Worker};
use core::fmt::Debug;
use unbuckle_layout::access::Access;
use unbuckle_layout::item::Head;
use unbuckle_layout::{KEY_BYTES_MAX, bytes};

/// Somebody who wants to know.
pub trait Observer: Debug {
    /// An item has to go. A lock is held: this must neither wait nor call the store.
    fn evicted(&self, item: &Item<'_>, key: &[u8]);
}

/// Why there is no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Absent,
    Expired,
    Flushed,
}

/// Tries of a look before it takes the other for absent: it is for logs.
const TRIES: usize = 64;

impl<'s> Worker<'s, '_> {
    /// From now on, this worker's evictions are told to `observer`.
    pub fn observe(&mut self, observer: Option<&'s dyn Observer>) {
        self.observer = observer;
    }

    /// What a lookup of `key` would find now. Leaves no mark, and a dead item where it is.
    #[cold]
    pub fn look<T>(&mut self, key: &Key<'_>, mut read: impl FnMut(&Item<'_>) -> T) -> Result<T, Missing> {
        let epoch = self.store.epoch(self.now_s);
        for _ in 0..TRIES {
            match self.store.try_read(key, epoch, |item, _, _| read(item)) {
                Try::Hit(value) => return Ok(value),
                Try::Miss(Miss::Absent) => return Err(Missing::Absent),
                Try::Miss(Miss::Expired) => return Err(Missing::Expired),
                Try::Miss(Miss::Flushed) => return Err(Missing::Flushed),
                Try::Torn => unbuckle_layout::sync::spin_hint(),
            }
        }
        Err(Missing::Absent)
    }

    /// To be called under the stripe's lock, while the item is still linked.
    #[inline]
    pub(crate) fn report_eviction(&self, offset: u64, head: &Head, access: Access) {
        if let Some(observer) = self.observer {
            self.tell_eviction(observer, offset, head, access);
        }
    }

    #[cold]
    fn tell_eviction(&self, observer: &dyn Observer, offset: u64, head: &Head, access: Access) {
        let words = self.store.region.rest_of_page(offset);
        let item = Item { words, head: *head, access, now_s: self.now_s };
        let mut key = [0; KEY_BYTES_MAX + bytes::SPARE_BYTES];
        if item.copy_key(&mut key) {
            observer.evicted(&item, key.get(..item.key_len()).unwrap_or_default());
        }
    }
}
