//! Hours, days, weeks, months and years, counted from 1970 in UTC.

use crate::clock::UnixNanoseconds;

/// A stretch of the calendar of which one point is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From one full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday on.
    Week,
    /// From the first of the month on.
    Month,
    /// From the first of January on.
    Year,
}

impl Period {
    /// Which of its kind the moment lies in.
    pub(super) fn ordinal(self, moment: UnixNanoseconds) -> i64 {
        let hours = moment.0 / 1_000_000_000 / 3600;
        let days = hours / 24;
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        match self {
            Self::Hour => whole(hours),
            Self::Day => whole(days),
            // 1970 began on a Thursday.
            Self::Week => whole((days + 3) / 7),
            Self::Month => {
                let date = date_of(moment);
                i64::from(date.year()) * 12 + i64::from(date.month())
            }
            Self::Year => i64::from(date_of(moment).year()),
        }
    }
}

fn date_of(moment: UnixNanoseconds) -> jiff::civil::Date {
    jiff::Timestamp::from_nanosecond(i128::from(moment.0))
        .map(|moment| jiff::tz::TimeZone::UTC.to_datetime(moment).date())
        .unwrap_or(jiff::civil::Date::MAX)
}
