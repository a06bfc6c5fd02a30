//! What stands behind a flag, as a number or a choice.

use super::{Protocol, Refusal, exit};

/// 0 is off (`None`); -1 is any free port (0 to the kernel).
pub(super) fn port(value: &str) -> Result<Option<u16>, Refusal> {
    match value.parse::<i64>() {
        Ok(0) => Ok(None),
        Ok(-1) => Ok(Some(0)),
        Ok(number) if (1..=65535).contains(&number) => Ok(Some(number as u16)),
        _ => Err(Refusal::usage(format!("invalid port number \"{value}\""))),
    }
}

pub(super) fn positive(value: &str, what: &str, most: u64) -> Result<u64, Refusal> {
    match value.parse::<i64>() {
        Ok(number) if number > 0 && number as u64 <= most => Ok(number as u64),
        Ok(number) if number > 0 => {
            Err(Refusal::new(exit::FAILURE, format!("{what} must be at most {most}")))
        }
        Ok(_) => Err(Refusal::new(exit::FAILURE, format!("{what} must be greater than 0"))),
        Err(_) => Err(Refusal::new(exit::FAILURE, format!("{what} must be a number, not \"{value}\""))),
    }
}

/// Megabytes, with an `m` allowed and a `g` for gigabytes.
pub(super) fn megabytes(value: &str) -> Result<u64, Refusal> {
    let (digits, unit) = match value.as_bytes().last() {
        Some(b'm' | b'M') => (&value[..value.len() - 1], 1u64 << 20),
        Some(b'g' | b'G') => (&value[..value.len() - 1], 1u64 << 30),
        _ => (value, 1u64 << 20),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| Refusal::usage(format!("-m: expected a number of megabytes, got \"{value}\"")))
}

/// Bytes, or with `k` or `m`.
pub(super) fn item_bytes(value: &str) -> Result<u64, Refusal> {
    let (digits, unit) = match value.as_bytes().last() {
        Some(b'k' | b'K') => (&value[..value.len() - 1], 1u64 << 10),
        Some(b'm' | b'M') => (&value[..value.len() - 1], 1u64 << 20),
        _ => (value, 1),
    };
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(|| {
        Refusal::usage(format!("-I: expected bytes, or a number with k or m; got \"{value}\""))
    })
}

pub(super) fn protocol(value: &str) -> Result<Protocol, Refusal> {
    match value {
        "auto" => Ok(Protocol::Auto),
        "ascii" => Ok(Protocol::Ascii),
        "binary" => Ok(Protocol::Binary),
        _ => {
            let message = format!("-B: expected one of auto, binary and ascii; got \"{value}\"");
            Err(Refusal::usage(message))
        }
    }
}
