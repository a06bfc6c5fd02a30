//! What a frame asks for, and whether its lengths are those of such a request.

use super::{Frame, Header, Status, is_key, opcode as op};
use crate::KEY_BYTES_MAX;
use crate::text::StoreVerb;

/// A body that claims to be longer is not waited for.
const BODY_BYTES_MAX: u32 = 1 << 30;
/// A mechanism's name may not be longer.
const MECHANISM_BYTES_MAX: usize = 32;
/// The expiry of an `incr` that must not create anything.
const EXPTIME_NO_CREATION: u32 = u32::MAX;

/// A request that stores the frame's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store<'a> {
    /// Not [`StoreVerb::Cas`]: any of these may compare a CAS.
    pub verb: StoreVerb,
    /// 1..=250 bytes.
    pub key: &'a [u8],
    pub flags: u32,
    pub exptime: u32,
    pub value_len: u32,
    pub quiet: bool,
}

/// `incr`, `decr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic<'a> {
    pub incr: bool,
    pub key: &'a [u8],
    pub delta: u64,
    pub initial: u64,
    /// `None`: a number that is not there is not created.
    pub exptime: Option<u32>,
    pub quiet: bool,
}

/// What a frame asks for. Keys are 1..=250 bytes unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Any `get` or `gat`. `touch` is the expiry that a hit gets.
    Get {
        key: &'a [u8],
        touch: Option<u32>,
    },
    Touch {
        key: &'a [u8],
        exptime: u32,
    },
    Store(Store<'a>),
    Arithmetic(Arithmetic<'a>),
    Delete {
        key: &'a [u8],
        quiet: bool,
    },
    Flush {
        /// 0: at once.
        delay: u32,
        quiet: bool,
    },
    Noop,
    Version,
    Quit {
        quiet: bool,
    },
    /// The group's name, which may be empty, is the frame's key.
    Stat,
    SaslList,
    /// The value holds what the mechanism needs.
    Sasl {
        /// At most 32 bytes, else `None`.
        mechanism: Option<&'a [u8]>,
        /// A further step, not the first.
        step: bool,
    },
    /// No such command: its body is swallowed.
    Unknown,
    /// To be answered with this, and closed: where the next frame begins cannot be trusted.
    Malformed(Status),
}

/// Whether this may be asked for before authentication.
#[must_use]
pub fn is_open(header: &Header) -> bool {
    matches!(header.opcode, op::SASL_LIST | op::SASL_AUTH | op::SASL_STEP | op::VERSION)
}

/// Whether a header's lengths fit each other, which is looked at before anything else. Else how it is answered.
pub fn check_lengths(header: &Header) -> Result<(), Status> {
    let beside = u32::from(header.key_len).wrapping_add(u32::from(header.extras_len));
    if beside > header.body_len {
        Err(Status::UnknownCommand)
    } else if header.body_len > BODY_BYTES_MAX {
        Err(Status::InvalidArguments)
    } else {
        Ok(())
    }
}

/// Reads what a frame, whose lengths are in order, asks for.
#[must_use]
pub fn decode<'a>(frame: &Frame<'a>) -> Command<'a> {
    let (opcode, key, value_len) = (frame.header.opcode, frame.key, frame.value_len());
    if usize::from(frame.header.key_len) > KEY_BYTES_MAX {
        return Command::Malformed(Status::InvalidArguments);
    }
    let bare = frame.header.body_len == 0;
    let quiet = is_quiet(opcode);
    let decoded = match opcode {
        op::GET | op::GET_QUIET | op::GET_KEY | op::GET_KEY_QUIET => {
            let good = is_key(key) && frame.extras.is_empty() && value_len == 0;
            good.then_some(Command::Get { key, touch: None })
        }
        op::TOUCH
        | op::GET_AND_TOUCH
        | op::GET_AND_TOUCH_QUIET
        | op::GET_AND_TOUCH_KEY
        | op::GET_AND_TOUCH_KEY_QUIET => {
            let exptime = frame.extras.as_array().copied().map(u32::from_be_bytes);
            exptime.filter(|_| is_key(key) && value_len == 0).map(|exptime| match opcode {
                op::TOUCH => Command::Touch { key, exptime },
                _ => Command::Get { key, touch: Some(exptime) },
            })
        }
        op::SET
        | op::SET_QUIET
        | op::ADD
        | op::ADD_QUIET
        | op::REPLACE
        | op::REPLACE_QUIET
        | op::APPEND
        | op::APPEND_QUIET
        | op::PREPEND
        | op::PREPEND_QUIET => store(frame, quiet).map(Command::Store),
        op::INCREMENT | op::INCREMENT_QUIET | op::DECREMENT | op::DECREMENT_QUIET => {
            arithmetic(frame, quiet).map(Command::Arithmetic)
        }
        op::DELETE | op::DELETE_QUIET => {
            let good = is_key(key) && frame.extras.is_empty() && value_len == 0;
            good.then_some(Command::Delete { key, quiet })
        }
        op::FLUSH | op::FLUSH_QUIET => flush_delay(frame).map(|delay| Command::Flush { delay, quiet }),
        op::NOOP => bare.then_some(Command::Noop),
        op::VERSION => bare.then_some(Command::Version),
        op::QUIT | op::QUIT_QUIET => bare.then_some(Command::Quit { quiet }),
        op::STAT => (frame.extras.is_empty() && value_len == 0).then_some(Command::Stat),
        op::SASL_LIST => bare.then_some(Command::SaslList),
        op::SASL_AUTH | op::SASL_STEP => {
            let good = is_key(key) && frame.extras.is_empty();
            let mechanism = (key.len() <= MECHANISM_BYTES_MAX).then_some(key);
            good.then_some(Command::Sasl { mechanism, step: opcode == op::SASL_STEP })
        }
        _ => Some(Command::Unknown),
    };
    decoded.unwrap_or(Command::Malformed(Status::InvalidArguments))
}

fn is_quiet(opcode: u8) -> bool {
    matches!(opcode, op::SET_QUIET..=op::PREPEND_QUIET)
}

fn store<'a>(frame: &Frame<'a>, quiet: bool) -> Option<Store<'a>> {
    let verb = match frame.header.opcode {
        op::SET | op::SET_QUIET => StoreVerb::Set,
        op::ADD | op::ADD_QUIET => StoreVerb::Add,
        op::REPLACE | op::REPLACE_QUIET => StoreVerb::Replace,
        op::APPEND | op::APPEND_QUIET => StoreVerb::Append,
        _ => StoreVerb::Prepend,
    };
    let (flags, exptime) = match (verb, frame.extras) {
        (StoreVerb::Append | StoreVerb::Prepend, []) => (0, 0),
        (StoreVerb::Set | StoreVerb::Add | StoreVerb::Replace, [f0, f1, f2, f3, e0, e1, e2, e3]) => {
            (u32::from_be_bytes([*f0, *f1, *f2, *f3]), u32::from_be_bytes([*e0, *e1, *e2, *e3]))
        }
        _ => return None,
    };
    let (key, value_len) = (frame.key, frame.value_len());
    is_key(key).then_some(Store { verb, key, flags, exptime, value_len, quiet })
}

fn arithmetic<'a>(frame: &Frame<'a>, quiet: bool) -> Option<Arithmetic<'a>> {
    let (delta, rest) = frame.extras.split_first_chunk()?;
    let (initial, rest) = rest.split_first_chunk()?;
    let exptime = u32::from_be_bytes(*rest.as_array()?);
    let good = is_key(frame.key) && frame.value_len() == 0;
    good.then_some(Arithmetic {
        incr: matches!(frame.header.opcode, op::INCREMENT | op::INCREMENT_QUIET),
        key: frame.key,
        delta: u64::from_be_bytes(*delta),
        initial: u64::from_be_bytes(*initial),
        exptime: (exptime != EXPTIME_NO_CREATION).then_some(exptime),
        quiet,
    })
}

fn flush_delay(frame: &Frame<'_>) -> Option<u32> {
    let good = frame.key.is_empty() && frame.value_len() == 0;
    match *frame.extras {
        [] if good => Some(0),
        [d0, d1, d2, d3] if good => Some(u32::from_be_bytes([d0, d1, d2, d3])),
        _ => None,
    }
}
