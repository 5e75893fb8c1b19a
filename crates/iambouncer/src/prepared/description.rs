//! The description of a statement: what PostgreSQL compares before it uses the statement again ("cached plan must not
//! change result type"), names and types of its columns, and the types of its parameters. Not tables and formats.

use wire::limits::HEADER_BYTES;
use wire::tag::backend;

/// FNV-1a, for 32 bits.
const OFFSET: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;
/// Bytes of a column behind its name: table, column number, type, size, modifier, format.
const COLUMN_BYTES: usize = 18;

/// Numbers for the columns of a result and for the parameters; 0 if they are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Description {
    columns: u32,
    parameters: u32,
}

impl Description {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { columns: 0, parameters: 0 };

    /// Adds what a ParameterDescription, RowDescription or NoData says (manual, "Message Formats"); nothing if the message
    /// is not complete.
    pub fn add(&mut self, message: &[u8]) {
        match message.first() {
            Some(&backend::PARAMETER_DESCRIPTION) => {
                self.parameters = hash_of_parameters(message).unwrap_or_default()
            }
            Some(&backend::NO_DATA) => self.columns = OFFSET,
            Some(&backend::ROW_DESCRIPTION) => self.columns = hash_of_columns(message).unwrap_or_default(),
            _ => {}
        }
    }

    /// True if the columns are known.
    #[inline]
    pub fn is_known(self) -> bool {
        self.columns != 0
    }

    /// True if the other one is the same, as far as both are known; its columns have to be.
    #[inline]
    pub fn is_that_of(self, other: Self) -> bool {
        let has_parameters = self.parameters != 0 && other.parameters != 0;
        self.columns == other.columns && (self.parameters == other.parameters || !has_parameters)
    }
}

fn add(hash: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME))
}

fn hash_of_parameters(message: &[u8]) -> Option<u32> {
    let count: [u8; 2] = message.get(HEADER_BYTES..HEADER_BYTES + 2)?.try_into().ok()?;
    let len = 2 + 4 * usize::from(u16::from_be_bytes(count));
    Some(add(OFFSET, message.get(HEADER_BYTES..HEADER_BYTES + len)?).max(1))
}

fn hash_of_columns(message: &[u8]) -> Option<u32> {
    let count: [u8; 2] = message.get(HEADER_BYTES..HEADER_BYTES + 2)?.try_into().ok()?;
    let mut rest = message.get(HEADER_BYTES + 2..)?;
    let mut hash = add(OFFSET, &count);
    for _ in 0..u16::from_be_bytes(count) {
        let end = rest.iter().position(|&byte| byte == 0)?;
        let column = rest.get(end + 1..end + 1 + COLUMN_BYTES)?;
        // Its name, type and modifier.
        hash = [&rest[..=end], &column[6..10], &column[12..16]].into_iter().fold(hash, add);
        rest = &rest[end + 1 + COLUMN_BYTES..];
    }
    Some(hash.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(columns: &[(&str, u32, u32)], format: u8) -> Vec<u8> {
        let mut body = (columns.len() as u16).to_be_bytes().to_vec();
        for (at, (name, oid, modifier)) in columns.iter().enumerate() {
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(&[0, 0, 0, 0, at as u8, 0, 1]);
            body.extend_from_slice(&oid.to_be_bytes());
            body.extend_from_slice(&[0, 4]);
            body.extend_from_slice(&modifier.to_be_bytes());
            body.extend_from_slice(&[0, format]);
        }
        [&b"T"[..], &(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()
    }

    fn of(messages: &[&[u8]]) -> Description {
        let mut description = Description::UNKNOWN;
        messages.iter().for_each(|message| description.add(message));
        description
    }

    #[test]
    fn names_and_types_are_compared_but_no_formats() {
        let of_columns = |columns: &[(&str, u32, u32)], format| of(&[&described(columns, format)]);
        let two = of_columns(&[("a", 23, 7), ("b", 25, 7)], 0);
        assert!(two.is_known() && two.is_that_of(of_columns(&[("a", 23, 7), ("b", 25, 7)], 1)));
        for others in [
            &[("a", 23, 7), ("b", 20, 7)][..],
            &[("a", 23, 7), ("c", 25, 7)],
            &[("a", 23, 7)],
            &[("a", 23, 8), ("b", 25, 7)],
        ] {
            assert!(!two.is_that_of(of_columns(others, 0)));
        }
        assert!(of(&[b"n\0\0\0\x04"]).is_known());
    }

    #[test]
    fn parameters_are_compared_if_both_are_known() {
        let columns = described(&[("a", 23, 7)], 0);
        let int: &[u8] = b"t\0\0\0\x0a\0\x01\0\0\0\x17";
        let text: &[u8] = b"t\0\0\0\x0a\0\x01\0\0\0\x19";
        assert!(of(&[int, &columns]).is_that_of(of(&[int, &columns])));
        assert!(!of(&[int, &columns]).is_that_of(of(&[text, &columns])));
        // A portal is described without parameters.
        assert!(of(&[int, &columns]).is_that_of(of(&[&columns])));
    }

    #[test]
    fn incomplete_messages_describe_nothing() {
        let message = described(&[("a", 23, 7)], 0);
        assert!((0..message.len()).all(|len| !of(&[&message[..len]]).is_known()));
        assert_eq!(of(&[b"t\0\0\0\x0a\0\x01\0"]), Description::UNKNOWN);
    }
}
