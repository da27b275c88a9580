//! Times in words of a refusal: who reads them has a calendar, not a counter.

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Unix seconds as `YYYY-MM-DDThh:mm:ssZ` (RFC 3339, UTC), or as the number where years do not have four digits.
pub(crate) fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    // Days since 0000-03-01, in eras of 400 years: years that begin in March have their leap day at the end.
    let Some(days) = days.checked_add(719_468) else {
        return seconds.to_string();
    };
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let of_eras_years = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_eras_years + of_eras_years / 4 - of_eras_years / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let (year, month) = match from_march {
        march_to_december @ 0..=9 => (era * 400 + of_eras_years, march_to_december + 3),
        next_year => (era * 400 + of_eras_years + 1, next_year - 9),
    };
    if !(0..=9999).contains(&year) {
        return seconds.to_string();
    }
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_is_gregorian() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_219_200, "2026-11-21T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (-62_167_219_200, "0000-01-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
        for seconds in [253_402_300_800, -62_167_219_201, i64::MAX, i64::MIN] {
            assert_eq!(utc(seconds), seconds.to_string());
        }
    }
}
