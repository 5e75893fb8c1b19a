//! Bounds-checked reading of a message body. Owns nothing; never reads past its slice.

use crate::{FormatError, limits::MAX_NAME_BYTES};

/// A position in a borrowed message body.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        let (&first, rest) = self.rest.split_first().ok_or(FormatError::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        let (word, rest) = self.rest.split_first_chunk::<4>().ok_or(FormatError::Truncated)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*word))
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        if len > self.rest.len() {
            return Err(FormatError::Truncated);
        }
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    /// A zero-terminated string, without its terminator.
    pub(crate) fn c_bytes(&mut self) -> Result<&'a [u8], FormatError> {
        let end = self.rest.iter().position(|&b| b == 0).ok_or(FormatError::UnterminatedString)?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    pub(crate) fn c_str(&mut self) -> Result<&'a str, FormatError> {
        std::str::from_utf8(self.c_bytes()?).map_err(|_| FormatError::NotUtf8)
    }

    /// A statement or portal name in a message that may be incomplete: `None` means that more bytes are
    /// needed.
    pub(crate) fn name_in_part(&mut self) -> Result<Option<&'a [u8]>, FormatError> {
        let window = &self.rest[..self.rest.len().min(MAX_NAME_BYTES + 1)];
        match window.iter().position(|&b| b == 0) {
            Some(end) => {
                let name = &self.rest[..end];
                self.rest = &self.rest[end + 1..];
                Ok(Some(name))
            }
            None if window.len() > MAX_NAME_BYTES => Err(FormatError::NameTooLong),
            None => Ok(None),
        }
    }
}
