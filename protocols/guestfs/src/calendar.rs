//! Moments out of dates.

use export::Timestamp;

/// Seconds since 1970 of a date and a time of day, which is `east` seconds before UTC; `None` if there is no such date.
/// Moments before 1970 are its first.
pub(crate) fn moment(
    (year, month, day): (u16, u8, u8),
    (hour, minute, second): (u8, u8, u8),
    east: i64,
) -> Option<Timestamp> {
    let leap = |year: u64| {
        (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
    };
    let year = u64::from(year);
    let month_index = month.checked_sub(1)?;
    let mut before = *BEFORE_MONTH.get(usize::from(month_index))?;
    if month > 2 && leap(year) {
        before += 1;
    }
    let day_index = u64::from(day.checked_sub(1)?);
    if day > 31 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let past = year.checked_sub(1)?;
    let days = past * 365 + past / 4 - past / 100 + past / 400 + before + day_index;
    let seconds = u64::from(hour) * 3600 + u64::from(minute) * 60 + u64::from(second);
    let seconds = i64::try_from(days * 86400 + seconds).ok()? - EPOCH_DAYS * 86400 - east;
    Some(
        u64::try_from(seconds).map_or(Timestamp::default(), |seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        }),
    )
}

/// Days of a year that is no leap year, before each month.
const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
/// From the first day of the year 1 to 1970.
const EPOCH_DAYS: i64 = 719_162;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_date() {
        // date -u -d '2024-02-29 12:34:56' +%s
        for (date, time, east, seconds) in [
            ((1970, 1, 1), (0, 0, 0), 0, 0),
            ((2024, 2, 29), (12, 34, 56), 0, 1_709_210_096),
            ((2024, 3, 1), (0, 0, 0), 3600, 1_709_247_600),
            ((2100, 3, 1), (0, 0, 0), 0, 4_107_542_400),
            ((1960, 3, 1), (0, 0, 0), 0, 0),
        ] {
            assert_eq!(
                moment(date, time, east).unwrap().seconds,
                seconds,
                "{date:?}"
            );
        }
        assert!(moment((2024, 13, 1), (0, 0, 0), 0).is_none());
        assert!(moment((2024, 0, 1), (0, 0, 0), 0).is_none());
        assert!(moment((2024, 1, 0), (0, 0, 0), 0).is_none());
    }
}
