//! Percent-encoding as required by Signature Version 4 (RFC 3986, section 2.3: only "unreserved" bytes are kept).
//!
//! Owns: the set of bytes that are encoded. Never: decodes, and never form-encodes (`+` for a space breaks the signature).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The bytes that are encoded.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

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
    out.extend(utf8_percent_encode(text, RESERVED));
}

/// Length of the encoded form, in bytes.
pub(crate) fn encoded_len(text: &str) -> usize {
    utf8_percent_encode(text, RESERVED).map(str::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

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
            prop_assert_eq!(percent_decode_str(&encoded).decode_utf8().unwrap(), text);
        }
    }
}
