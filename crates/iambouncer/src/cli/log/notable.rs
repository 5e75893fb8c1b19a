//! Adds notable events, which are log lines with a field `event`, to the list of [`crate::events`]. Independent of the
//! level and the destinations of the log.

use super::fields::{EVENT, EventFields};
use crate::events::{EVENTS, NotableEvent};
use std::time::SystemTime;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// True if a line may have the field.
pub(super) fn is_notable(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO && metadata.fields().field(EVENT).is_some()
}

pub(super) struct NotableLayer;

impl<S: Subscriber> Layer<S> for NotableLayer {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = EventFields::of(event);
        let Some(kind) = fields.kind.take() else { return };
        let value = |name| fields.value(name).unwrap_or_default().to_owned();
        let event = NotableEvent {
            kind,
            level: level(*event.metadata().level()),
            database: value("database"),
            user: value("user"),
            hint: value("hint"),
            message: fields.message,
        };
        EVENTS.add(event, SystemTime::now());
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO | Level::DEBUG | Level::TRACE => "info",
    }
}
