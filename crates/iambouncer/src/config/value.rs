//! Conversion between text and typed values of settings.
//!
//! Owns the accepted spellings and common limits of numbers; independent of the individual settings.

use std::fmt;
use std::time::Duration;

/// PgBouncer stores numbers in a C `int`, so larger values cannot have worked there.
const MAX_NUMBER: u64 = i32::MAX as u64;
/// About 31 years: above any sensible timeout, and small enough not to overflow when added to a clock.
const MAX_SECONDS: f64 = 1e9;

/// A type of settings.
pub(super) trait SettingValue: Sized {
    /// The type of a default in the table.
    type Literal;
    /// The default as a value.
    fn of(literal: Self::Literal) -> Self;
    /// Parses the text of a file, a variable or a `SET`; the error completes the sentence "value …".
    fn parse(text: &str) -> Result<Self, String>;
    /// The text as shown by `SHOW CONFIG`.
    fn text(&self) -> String;
    /// A given text as shown in messages; for values that contain a secret, without it.
    fn displayed(text: &str) -> String {
        text.to_owned()
    }
    /// The number that a row's range limits, for types that have one.
    fn magnitude(&self) -> Option<u64> {
        None
    }
}

fn parse_number(text: &str, max: u64) -> Result<u64, String> {
    let expected = || format!("is not a whole number from 0 to {max}");
    // C reads a leading zero as octal, people do not; such ambiguous numbers are rejected.
    if text.len() > 1 && text.starts_with('0') {
        return Err("has a leading zero".to_owned());
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected());
    }
    text.parse().ok().filter(|number| *number <= max).ok_or_else(expected)
}

macro_rules! number_values {
    ($($ty:ident, $max:expr;)*) => {$(
        impl SettingValue for $ty {
            type Literal = Self;
            fn of(literal: Self) -> Self {
                literal
            }
            fn parse(text: &str) -> Result<Self, String> {
                let number = parse_number(text, $max)?;
                Self::try_from(number).map_err(|_| "is too large".to_owned())
            }
            fn text(&self) -> String {
                self.to_string()
            }
            fn magnitude(&self) -> Option<u64> {
                Some(u64::from(*self))
            }
        }
    )*};
}

number_values! {
    u16, u64::from(u16::MAX);
    u32, MAX_NUMBER;
}

impl SettingValue for bool {
    type Literal = Self;
    fn of(literal: Self) -> Self {
        literal
    }
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "1" | "yes" | "on" | "true" => Ok(true),
            "0" | "no" | "off" | "false" => Ok(false),
            _ => Err("is neither on (1, yes, on, true) nor off (0, no, off, false)".to_owned()),
        }
    }
    fn text(&self) -> String {
        u8::from(*self).to_string()
    }
}

impl SettingValue for String {
    type Literal = &'static str;
    fn of(literal: &'static str) -> Self {
        literal.to_owned()
    }
    fn parse(text: &str) -> Result<Self, String> {
        // Values are used in protocol strings and paths, which end at a NUL.
        if text.contains('\0') { Err("contains a NUL byte".to_owned()) } else { Ok(text.to_owned()) }
    }
    fn text(&self) -> String {
        self.clone()
    }
}

/// Written in seconds, fractions allowed; zero means off.
impl SettingValue for Duration {
    type Literal = u64;
    fn of(seconds: u64) -> Self {
        Self::from_secs(seconds)
    }
    fn parse(text: &str) -> Result<Self, String> {
        let seconds: f64 = text.parse().map_err(|_| "is not a number of seconds".to_owned())?;
        if !(0.0..=MAX_SECONDS).contains(&seconds) {
            return Err(format!("is not a number of seconds from 0 to {MAX_SECONDS}"));
        }
        Self::try_from_secs_f64(seconds).map_err(|_| "is not a number of seconds".to_owned())
    }
    fn text(&self) -> String {
        self.as_secs_f64().to_string()
    }
}

/// Permission bits, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl fmt::Display for FileMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04o}", self.0)
    }
}

impl SettingValue for FileMode {
    type Literal = u32;
    fn of(bits: u32) -> Self {
        Self(bits)
    }
    fn parse(text: &str) -> Result<Self, String> {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|bits| *bits <= 0o7777)
            .map(Self)
            .ok_or_else(|| "is not an octal file mode such as 0777".to_owned())
    }
    fn text(&self) -> String {
        self.to_string()
    }
}

/// Maximum number of workers: each has one bit in a mask, and a part of every cancel key.
pub const MAX_WORKERS: usize = 64;

/// Number of worker threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerCount {
    /// As many as the load needs, at most one per available CPU.
    Auto,
    /// This number.
    Count(u32),
    /// As many as the load needs, within these bounds.
    Range(u32, u32),
}

impl WorkerCount {
    /// The number of threads, from 1 to [`MAX_WORKERS`]. `auto` respects CPU affinity and cgroup limits.
    pub fn count(self) -> usize {
        let count = match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, usize::from),
            Self::Count(count) | Self::Range(_, count) => count as usize,
        };
        count.clamp(1, MAX_WORKERS)
    }

    /// How many of them serve clients without load.
    pub fn at_least(self) -> usize {
        let count = match self {
            Self::Auto => 1,
            Self::Count(count) | Self::Range(count, _) => count as usize,
        };
        count.clamp(1, self.count())
    }

    fn parse_number(text: &str) -> Option<u32> {
        match parse_number(text, MAX_NUMBER) {
            Ok(count @ 1..) if count <= MAX_WORKERS as u64 => Some(count as u32),
            _ => None,
        }
    }
}

impl SettingValue for WorkerCount {
    type Literal = Self;
    fn of(literal: Self) -> Self {
        literal
    }
    fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        let parsed = match text.split_once('-') {
            None => Self::parse_number(text).map(Self::Count),
            Some((least, most)) => {
                let both = Self::parse_number(least).zip(Self::parse_number(most));
                both.filter(|(least, most)| least <= most).map(|(least, most)| Self::Range(least, most))
            }
        };
        parsed.ok_or_else(|| {
            format!("is neither auto, nor a number from 1 to {MAX_WORKERS}, nor two of them such as 1-4")
        })
    }
    fn text(&self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Count(count) => count.to_string(),
            Self::Range(least, most) => format!("{least}-{most}"),
        }
    }
}

/// Port of the HTTP endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpPort {
    /// Disabled.
    Off,
    /// Chosen by the kernel.
    Auto,
    /// A fixed port.
    Number(u16),
}

impl SettingValue for HttpPort {
    type Literal = Self;
    fn of(literal: Self) -> Self {
        literal
    }
    fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        match u16::parse(text) {
            Ok(0) => Ok(Self::Off),
            Ok(port) => Ok(Self::Number(port)),
            Err(_) => Err(format!("is neither auto nor a port from 0 to {}", u16::MAX)),
        }
    }
    fn text(&self) -> String {
        match self {
            Self::Off => "0".to_owned(),
            Self::Auto => "auto".to_owned(),
            Self::Number(port) => port.to_string(),
        }
    }
}

/// When a drain ends: `drain_max_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainLimit {
    /// When the last client has disconnected by itself, as in PgBouncer.
    Never,
    /// After this time.
    After(Duration),
}

impl DrainLimit {
    const NEVER: &'static str = "never";

    /// The time, if there is one.
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::After(time) => Some(time),
        }
    }
}

impl SettingValue for DrainLimit {
    type Literal = Self;
    fn of(literal: Self) -> Self {
        literal
    }
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.eq_ignore_ascii_case(Self::NEVER) {
            return Ok(Self::Never);
        }
        Duration::parse(text)
            .map(Self::After)
            .map_err(|reason| format!("is not {} and {reason}", Self::NEVER))
    }
    fn text(&self) -> String {
        match self {
            Self::Never => Self::NEVER.to_owned(),
            Self::After(time) => time.text(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bools_have_several_spellings() {
        for text in ["1", "yes", "ON", "True"] {
            assert_eq!(bool::parse(text), Ok(true));
        }
        for text in ["0", "no", "off", "FALSE"] {
            assert_eq!(bool::parse(text), Ok(false));
        }
        assert!(bool::parse("2").is_err());
    }

    #[test]
    fn numbers_are_bounded_and_decimal() {
        assert_eq!(u32::parse("2147483647"), Ok(2_147_483_647));
        assert_eq!(u16::parse("65535"), Ok(65535));
        for text in ["", "-1", "+1", "1 ", "010", "0x10", "2147483648", "99999999999999999999"] {
            assert!(u32::parse(text).is_err(), "{text:?}");
        }
        assert!(u16::parse("65536").is_err_and(|reason| reason.contains("65535")));
    }

    #[test]
    fn seconds_may_be_fractional_but_must_be_finite() {
        assert_eq!(Duration::parse("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(Duration::parse("0"), Ok(Duration::ZERO));
        assert_eq!(Duration::from_millis(100).text(), "0.1");
        for text in ["", "-1", "inf", "NaN", "1e300", "10s"] {
            assert!(Duration::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn workers_are_a_number_a_range_or_auto() {
        assert_eq!(WorkerCount::parse("AUTO"), Ok(WorkerCount::Auto));
        assert_eq!(WorkerCount::parse("64"), Ok(WorkerCount::Count(64)));
        assert_eq!(WorkerCount::parse("2-8"), Ok(WorkerCount::Range(2, 8)));
        assert_eq!(WorkerCount::Range(2, 8).text(), "2-8");
        for text in ["0", "65", "-1", "many", "", "1-", "0-4", "4-2", "1-65", "1-2-3"] {
            assert!(WorkerCount::parse(text).is_err(), "{text:?}");
        }
        let bounds = |text| WorkerCount::parse(text).map(|count| (count.at_least(), count.count()));
        assert_eq!(bounds("2-8"), Ok((2, 8)));
        assert_eq!(bounds("8"), Ok((8, 8)));
        assert!(WorkerCount::Auto.count() >= 1 && WorkerCount::Auto.at_least() == 1);
    }

    #[test]
    fn http_ports_are_a_number_zero_or_auto() {
        assert_eq!(HttpPort::parse("Auto"), Ok(HttpPort::Auto));
        assert_eq!(HttpPort::parse("0"), Ok(HttpPort::Off));
        assert_eq!(HttpPort::parse("65535"), Ok(HttpPort::Number(65535)));
        for text in ["", "-1", "65536", "off", "080"] {
            assert!(HttpPort::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_end_of_a_drain_is_a_time_or_never() {
        assert_eq!(DrainLimit::parse("Never"), Ok(DrainLimit::Never));
        assert_eq!(DrainLimit::parse(""), Ok(DrainLimit::Never));
        assert_eq!(DrainLimit::parse("0"), Ok(DrainLimit::After(Duration::ZERO)));
        assert_eq!(DrainLimit::parse("2.5").map(|limit| limit.text()), Ok("2.5".to_owned()));
        assert!(DrainLimit::parse("soon").is_err());
    }

    #[test]
    fn file_modes_are_octal() {
        assert_eq!(FileMode::parse("0770").map(|mode| mode.0), Ok(0o770));
        assert_eq!(FileMode(0o7).text(), "0007");
        assert!(FileMode::parse("0790").is_err());
    }
}
