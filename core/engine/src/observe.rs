//! What whoever watches is told of: keys looked up, values stored, items deleted.
//!
//! The events are those of memcached's `watch`, and come where it has them: a command that stores or deletes has looked
//! its key up first. An engine that nobody watches pays a test of a pointer a request. When somebody does, each
//! command looks at its item once more for the sake of the event; another client may change it in between, so that an event
//! may tell of a state that the reply does not show.

use crate::Engine;
use unbuckle_store::{Expiry, Item, Key, Missing, Refused, Stored};

/// Somebody who wants to know.
pub trait Observer: unbuckle_store::Observer {
    /// Called from the middle of a request: must not wait.
    fn saw(&self, event: &Event<'_>);
}

/// What is told of an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub value_len: u64,
    /// Its size as memcached counts it; 0 if there is none.
    pub memcached_bytes: u64,
    /// Seconds since the region was made; 0 is never.
    pub expiry_s: u32,
}

impl Facts {
    fn of(item: &Item<'_>) -> Self {
        let Expiry(expiry_s) = item.expiry();
        Self { value_len: item.value_len() as u64, memcached_bytes: item.memcached_bytes(), expiry_s }
    }

    /// Of an item that was not stored.
    pub(crate) fn sent(value_len: u64, Expiry(expiry_s): Expiry) -> Self {
        Self { value_len, memcached_bytes: 0, expiry_s }
    }
}

/// The command that stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storing {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas,
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    Stored,
    NotStored,
    Exists,
    NotFound,
    TooLarge,
    OutOfMemory,
}

impl From<Stored> for StoreOutcome {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Stored { .. } => Self::Stored,
            Stored::NotStored => Self::NotStored,
            Stored::Exists => Self::Exists,
            Stored::NotFound => Self::NotFound,
        }
    }
}

impl From<Refused> for StoreOutcome {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooLarge => Self::TooLarge,
            Refused::OutOfMemory => Self::OutOfMemory,
        }
    }
}

/// Something that a request did.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A key was looked up; `retrieval` by a command that only reads.
    LookedUp { key: &'a [u8], found: Result<Facts, Missing>, retrieval: bool },
    /// A value was stored, or not.
    Stored { key: &'a [u8], command: Storing, outcome: StoreOutcome, facts: Facts },
    /// A delete; `None` if there was nothing. `meta` is `md`.
    Deleted { key: &'a [u8], item: Option<Facts>, meta: bool },
}

impl<'s> Engine<'s, '_> {
    /// From now on, what this engine does is told to `observer`.
    pub fn observe(&mut self, observer: Option<&'s dyn Observer>) {
        self.observer = observer;
        self.worker.observe(observer.map(|observer| observer as &dyn unbuckle_store::Observer));
    }

    #[inline(always)]
    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    /// What a lookup finds now.
    pub(crate) fn look(&mut self, key: &Key<'_>) -> Result<Facts, Missing> {
        self.worker.look(key, Facts::of)
    }

    #[cold]
    fn tell(&self, event: &Event<'_>) {
        if let Some(observer) = self.observer {
            observer.saw(event);
        }
    }

    pub(crate) fn tell_found(&self, key: &Key<'_>, found: Result<Facts, Missing>, retrieval: bool) {
        self.tell(&Event::LookedUp { key: key.bytes(), found, retrieval });
    }

    /// To be called before the key is looked up by a command that does more than read. What there is.
    #[inline]
    pub(crate) fn tell_lookup(&mut self, key: &Key<'_>) -> Option<Facts> {
        if !self.is_observed() {
            return None;
        }
        let found = self.look(key);
        self.tell_found(key, found, false);
        found.ok()
    }

    /// To be called after a value was stored, or not; `sent` is what was sent.
    #[inline]
    pub(crate) fn tell_stored(
        &mut self,
        key: &Key<'_>,
        command: Storing,
        outcome: impl Into<StoreOutcome>,
        sent: Facts,
    ) {
        if self.is_observed() {
            let outcome = outcome.into();
            let stored = if outcome == StoreOutcome::Stored { self.look(key).ok() } else { None };
            self.tell(&Event::Stored { key: key.bytes(), command, outcome, facts: stored.unwrap_or(sent) });
        }
    }

    /// To be called after a delete of `item`, which `tell_lookup` has seen.
    #[inline]
    pub(crate) fn tell_deleted(&self, key: &Key<'_>, item: Option<Facts>, meta: bool) {
        if self.is_observed() {
            self.tell(&Event::Deleted { key: key.bytes(), item, meta });
        }
    }
}
