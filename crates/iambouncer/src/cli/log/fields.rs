//! The fields of one log event, as text. Owns their collection; escaping and layout are those of the line formats.

use std::error::Error;
use std::fmt::{self, Debug, Write as _};
use tracing::field::{Field, Visit};

/// Name of the field with the text of the line.
const MESSAGE: &str = "message";
/// Name of the field that marks a notable event, and has its kind.
pub(super) const EVENT: &str = "event";

/// A field of an event.
pub(super) struct EventField {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// True for text, which is always quoted; other values only if they could be ambiguous.
    pub(super) is_text: bool,
}

/// The message of an event and its other fields.
#[derive(Default)]
pub(super) struct EventFields {
    pub(super) message: String,
    /// The kind of a notable event.
    pub(super) kind: Option<String>,
    pub(super) fields: Vec<EventField>,
}

impl EventFields {
    /// The fields of an event.
    pub(super) fn of(event: &tracing::Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    /// The value of a field, if the event has it.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.name == name).map(|field| field.value.as_str())
    }

    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>, is_text: bool) {
        if field.name() == MESSAGE {
            // Writing to a String cannot fail.
            let _ = self.message.write_fmt(value);
            return;
        }
        if field.name() == EVENT {
            self.kind = Some(value.to_string());
            return;
        }
        let name = field.name().strip_prefix("r#").unwrap_or_else(|| field.name());
        self.fields.push(EventField { name, value: value.to_string(), is_text });
    }
}

impl Visit for EventFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Not its Debug form, which has quotes and escapes of its own.
        self.add(field, format_args!("{value}"), true);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add(field, format_args!("{value}"), false);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format_args!("{value:?}"), false);
    }
}
