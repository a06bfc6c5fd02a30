//! Keys in lines that tools split at spaces: percent-encoding (RFC 3986), capital digits.

/// Appends `bytes`, all but letters, digits and `-._~` encoded.
pub(crate) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_not_unreserved_is_encoded() {
        let mut out = Vec::new();
        super::encode(b"a-._~Z9 #%\xff", &mut out);
        assert_eq!(out, b"a-._~Z9%20%23%25%FF");
    }
}
