//! Percent-encoding as required by Signature Version 4 (RFC 3986, section 2.3: only "unreserved" bytes are kept).
//!
//! Owns: one encoder. Never: decodes, and never form-encodes (`+` for a space breaks the signature).

/// Encodes every byte except `A-Z a-z 0-9 - _ . ~` as `%XX` with upper-case digits.
///
/// The output is safe as a query value: `&`, `=`, `#`, `+` and `%` of the input are encoded.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(encoded_len(text));
    push_percent_encoded(&mut out, text);
    out
}

/// Appends the encoded form of `text`, so that a caller that reserved space never reallocates a secret.
pub(crate) fn push_percent_encoded(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(upper_hex_digit(byte >> 4));
            out.push(upper_hex_digit(byte & 0x0F));
        }
    }
}

/// Length of the encoded form, in bytes.
pub(crate) fn encoded_len(text: &str) -> usize {
    text.bytes().map(|byte| if is_unreserved(byte) { 1 } else { 3 }).sum()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

fn upper_hex_digit(nibble: u8) -> char {
    char::from(if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn percent_decode(encoded: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = encoded.bytes();
        while let Some(byte) = rest.next() {
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let hex = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn only_unreserved_bytes_are_kept() {
        assert_eq!(percent_encode("aZ09-_.~"), "aZ09-_.~");
        assert_eq!(percent_encode("a b+c/é%"), "a%20b%2Bc%2F%C3%A9%25");
    }

    proptest! {
        #[test]
        fn any_text_round_trips_without_delimiters(text in any::<String>()) {
            let encoded = percent_encode(&text);
            prop_assert_eq!(encoded.len(), encoded_len(&text));
            prop_assert!(!encoded.contains(['&', '=', '#', '+', '?', '/', ' ']));
            prop_assert_eq!(percent_decode(&encoded), text);
        }
    }
}
