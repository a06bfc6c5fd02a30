//! What can be asked of a [`crate::Worker`], and what comes of it.

/// Expiry in whole seconds since the region was made. The engine converts from the wire's forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry(pub u32);

impl Expiry {
    /// No expiry.
    pub const NEVER: Expiry = Expiry(0);
    /// Already past: stored and at once dead, as memcached does with a negative exptime. (Time begins at 2.)
    pub const PAST: Expiry = Expiry(1);
}

/// What a hit does to the item's access mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Counts as use: raises its frequency, sets fetched and last access.
    Used,
    /// Leaves no trace (meta reads that keep the LRU as it is, metadump).
    None,
}

/// What must hold for an item to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Always,
    /// add
    Absent,
    /// replace
    Present,
    /// cas
    Cas(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Stored {
        cas: u64,
    },
    /// Condition Absent or Present did not hold.
    NotStored,
    /// Condition Cas: there, but with another CAS.
    Exists,
    /// Condition Cas: not there.
    NotFound,
}

/// Why nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    TooLarge,
    OutOfMemory,
}

/// What to store under a key.
#[derive(Clone, Copy, Debug)]
pub struct NewItem<'a> {
    pub flags: u32,
    pub expiry: Expiry,
    pub value: &'a [u8],
    /// `Some` sets the CAS to exactly this (meta `E`); `None` draws the next.
    pub cas: Option<u64>,
    pub stale: bool,
    pub win_token_sent: bool,
    /// Its key was given in base64. Rewrites keep this.
    pub key_binary: bool,
}

impl<'a> NewItem<'a> {
    /// A value and nothing else: no flags, no expiry, the next CAS.
    #[must_use]
    pub fn plain(value: &'a [u8]) -> NewItem<'a> {
        let (flags, expiry, cas) = (0, Expiry::NEVER, None);
        NewItem { flags, expiry, value, cas, stale: false, win_token_sent: false, key_binary: false }
    }
}

/// How [`Worker::rewrite`] changes an item: the new value is `before`, the old value if `keep`, `after`.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    pub before: &'a [u8],
    pub keep: bool,
    pub after: &'a [u8],
    /// `None` leaves it.
    pub expiry: Option<Expiry>,
    /// `None` leaves them.
    pub flags: Option<u32>,
    pub cas: RewriteCas,
    pub stale: bool,
    pub win_token_sent: bool,
}

/// What a rewrite does to the CAS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewriteCas {
    /// Touch and the meta marks: the item keeps its CAS. Only for changes that keep the value.
    Keep,
    /// Draws the next.
    Next,
    Exactly(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewritten<T> {
    Done {
        cas: u64,
    },
    NotFound,
    /// The closure declined, with its reason; nothing changed.
    Declined(T),
    Refused(Refused),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    Deleted,
    NotFound,
    /// A CAS was given and differs.
    Exists,
}
