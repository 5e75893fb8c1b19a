//! The simulator's time: a clock that can be moved, and the two time formats used by AWS.
//!
//! Owns: [`SimClock`] and date arithmetic (proleptic Gregorian, UTC).
//! Never: handles time zones or leap seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

const SECONDS_PER_DAY: i64 = 86_400;

/// The system clock plus an offset in seconds. Clones share the offset.
#[derive(Clone, Debug, Default)]
pub struct SimClock {
    offset_seconds: Arc<AtomicI64>,
}

impl SimClock {
    /// The simulator's current time.
    pub fn now(&self) -> SystemTime {
        let offset_seconds = self.offset_seconds();
        let distance = Duration::from_secs(offset_seconds.unsigned_abs());
        let now = SystemTime::now();
        let moved = if offset_seconds >= 0 { now.checked_add(distance) } else { now.checked_sub(distance) };
        moved.unwrap_or(now)
    }

    /// Moves the clock by `seconds`, backward if negative.
    pub fn advance(&self, seconds: i64) {
        self.offset_seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    /// The difference from the system clock, in seconds.
    pub fn offset_seconds(&self) -> i64 {
        self.offset_seconds.load(Ordering::SeqCst)
    }
}

/// Whole seconds since 1970; zero for times before.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// `2024-01-15T12:34:56Z`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = unix_seconds(time);
    let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `Mon, 15 Jan 2024 12:34:56 GMT`, the format of HTTP's `Date`.
pub(crate) fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = unix_seconds(time);
    let days = seconds.div_euclid(SECONDS_PER_DAY);
    let (year, month, day) = civil_from_days(days);
    let weekday = DAYS[days.rem_euclid(7) as usize];
    let month = MONTHS[(month - 1).rem_euclid(12) as usize];
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Parses `20240115T123456Z`, exactly, to seconds since 1970.
pub(crate) fn parse_amz_date(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    let days = days_from_civil(year, month, day);
    let is_real = civil_from_days(days) == (year, month, day) && hour < 24 && minute < 60 && second < 60;
    is_real.then_some(days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second)
}

/// Days from 1970 to a date. Years are counted from March, so that the leap day is the last of a year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719 468 days lie between 1 March of year 0 and 1 January 1970.
    year * 365 + leap_days + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // An estimate of the year that is never too high and at most one too low.
    let mut year = 1970 + days.div_euclid(366).min(days.div_euclid(365));
    while days_from_civil(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 12;
    while days_from_civil(year, month, 1) > days {
        month -= 1;
    }
    (year, month, days - days_from_civil(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_converted_in_both_directions() {
        let known = [
            ("19700101T000000Z", 0),
            ("20240115T123456Z", 1_705_322_096),
            ("20240229T235959Z", 1_709_251_199),
            ("20000301T000000Z", 951_868_800),
            ("20991231T235959Z", 4_102_444_799),
        ];
        for (text, seconds) in known {
            assert_eq!(parse_amz_date(text), Some(seconds), "{text}");
            let back = rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds as u64));
            assert_eq!(back.replace(['-', ':'], ""), text);
        }
        for wrong in [
            "",
            "20240230T000000Z",
            "20241301T000000Z",
            "20240115T240000Z",
            "2024011 T123456Z",
            "20240115T123456",
        ] {
            assert_eq!(parse_amz_date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn clones_share_the_clock() {
        let clock = SimClock::default();
        let other = clock.clone();
        clock.advance(1200);
        assert_eq!(other.offset_seconds(), 1200);
        assert!(other.now() > SystemTime::now() + Duration::from_secs(1190));
    }

    #[test]
    fn dates_of_http_have_the_right_weekday() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_705_322_096);
        assert_eq!(http_date(at), "Mon, 15 Jan 2024 12:34:56 GMT");
        assert_eq!(http_date(SystemTime::UNIX_EPOCH), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
