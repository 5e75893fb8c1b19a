//! Result formats requested by a client: text or binary, per column. Owns the encoding of values.

use super::columns::{ColumnHeader, Row};
use crate::client_error::{self, Blame, ClientError};
use std::rc::Rc;
use wire::encode::{self, ColumnType};
use wire::frontend::Format;

/// The result formats in a Bind message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Formats {
    /// The same format for all columns.
    All(Format),
    /// One format for each column.
    Each(Rc<[Format]>),
}

impl Formats {
    /// Text for all columns, as in the simple protocol.
    pub(super) const TEXT: Self = Self::All(Format::Text);

    /// The formats of a Bind message, for a result with this number of columns; `None` if it has no result.
    pub(super) fn of(formats: Vec<Format>, columns: Option<usize>) -> Result<Self, ClientError> {
        match (formats.as_slice(), columns) {
            ([], _) => Ok(Self::TEXT),
            ([format], _) => Ok(Self::All(*format)),
            (each, Some(columns)) if each.len() != columns => Err(client_error::protocol(format!(
                "bind message has {} result formats but query has {columns} columns",
                each.len()
            ))),
            (_, _) => Ok(Self::Each(formats.into())),
        }
    }

    fn at(&self, column: usize) -> Format {
        match self {
            Self::All(format) => *format,
            Self::Each(each) => each.get(column).copied().unwrap_or(Format::Text),
        }
    }

    /// Appends a RowDescription.
    pub(super) fn describe(&self, out: &mut Vec<u8>, columns: &[ColumnHeader]) {
        encode::row_description(out, columns, |column| self.at(column));
    }

    /// Appends a DataRow.
    pub(super) fn row(
        &self,
        out: &mut Vec<u8>,
        columns: &[ColumnHeader],
        row: &Row,
    ) -> Result<(), ClientError> {
        debug_assert_eq!(row.len(), columns.len());
        let values = row.iter().zip(columns).enumerate().map(|(at, (value, (name, kind)))| {
            let Some(text) = value.as_deref() else { return Ok(None) };
            match self.at(at) {
                Format::Text => Ok(Some(text.as_bytes().to_vec())),
                Format::Binary => binary(*kind, text).map(Some).ok_or_else(|| {
                    ClientError::new(Blame::Us, "22003", format!("{name} is out of range: {text}"))
                }),
            }
        });
        let values: Vec<Option<Vec<u8>>> = values.collect::<Result<_, ClientError>>()?;
        encode::data_row(out, values.iter().map(Option::as_deref));
        Ok(())
    }
}

fn binary(kind: ColumnType, text: &str) -> Option<Vec<u8>> {
    match kind {
        ColumnType::Text => Some(text.as_bytes().to_vec()),
        ColumnType::Int4 => text.parse::<i32>().ok().map(|number| number.to_be_bytes().to_vec()),
        ColumnType::Int8 => text.parse::<i64>().ok().map(|number| number.to_be_bytes().to_vec()),
        ColumnType::Numeric => text.parse::<u64>().ok().map(numeric),
    }
}

/// The binary form of a `numeric` without fraction: number of digits, weight of the first, sign, scale, and the digits,
/// each a number below 10000.
fn numeric(number: u64) -> Vec<u8> {
    const BASE: u64 = 10_000;
    let mut digits = Vec::new();
    let mut rest = number;
    while rest > 0 {
        digits.push((rest % BASE) as u16);
        rest /= BASE;
    }
    let weight = digits.len().saturating_sub(1) as u16;
    let head = [digits.len() as u16, weight, 0, 0];
    head.into_iter().chain(digits.into_iter().rev()).flat_map(u16::to_be_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Format::{Binary, Text};

    const COLUMNS: [ColumnHeader; 3] =
        [("a", ColumnType::Text), ("b", ColumnType::Int4), ("c", ColumnType::Int8)];

    fn row(formats: &Formats) -> Vec<u8> {
        let mut out = Vec::new();
        formats.row(&mut out, &COLUMNS, &vec![Some("x".into()), Some("-2".into()), None]).unwrap();
        out[7..].to_vec()
    }

    #[test]
    fn each_column_has_the_requested_format() {
        let text = [0, 0, 0, 1, b'x', 0, 0, 0, 2, b'-', b'2', 255, 255, 255, 255];
        assert_eq!(row(&Formats::of(Vec::new(), Some(3)).unwrap()), text);
        let binary = [0, 0, 0, 1, b'x', 0, 0, 0, 4, 255, 255, 255, 254, 255, 255, 255, 255];
        assert_eq!(row(&Formats::of(vec![Binary], Some(3)).unwrap()), binary);
        assert_eq!(row(&Formats::of(vec![Text, Binary, Text], Some(3)).unwrap()), binary);
        assert!(Formats::of(vec![Text, Binary], Some(3)).is_err());
        assert!(Formats::of(vec![Text, Binary], None).is_ok());
    }

    #[test]
    fn a_numeric_has_digits_of_base_ten_thousand() {
        let words = |number| -> Vec<u16> {
            numeric(number).chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
        };
        assert_eq!(words(0), [0, 0, 0, 0]);
        assert_eq!(words(7), [1, 0, 0, 0, 7]);
        assert_eq!(words(120_000_345), [3, 2, 0, 0, 1, 2000, 345]);
        assert_eq!(binary(ColumnType::Numeric, "-1"), None);
    }

    #[test]
    fn a_number_out_of_range_is_an_error() {
        let row = vec![None, Some("3000000000".to_owned()), None];
        let mut out = Vec::new();
        assert!(Formats::All(Binary).row(&mut out, &COLUMNS, &row).is_err());
        assert!(out.is_empty() && Formats::TEXT.row(&mut out, &COLUMNS, &row).is_ok());
    }
}
