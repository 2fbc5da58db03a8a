//! Durations and sizes with units: reading and writing them.
//!
//! Pure functions over text; they know neither keys nor positions.

use std::time::Duration;

/// Why a text is not a duration or size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UnitError {
    /// A number alone.
    NoUnit,
    /// A number with a unit that does not exist.
    UnknownUnit(String),
    /// Anything else.
    Malformed,
    /// Larger than can be held.
    TooLarge,
}

/// Nanoseconds in each unit, largest first.
const TIME: &[(&str, u128)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

/// Bytes in each unit.
const SIZE: &[(&str, u128)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// `500ms`, `1.5s`, `1m30s`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut total: u128 = 0;
    let mut rest = text;
    let mut last = TIME.len();
    let mut first = true;
    while first || !rest.is_empty() {
        let (nanos, rank, tail) = quantity(rest, TIME)?;
        // Units descend: `1m30s`, not `30s1m` or `1s1s`.
        if !first && rank <= last {
            return Err(UnitError::Malformed);
        }
        total = total.checked_add(nanos).ok_or(UnitError::TooLarge)?;
        (rest, last, first) = (tail, rank, false);
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| UnitError::TooLarge)
}

/// `32KiB`, `1.5MiB`, `64KB`, `512B`.
pub(super) fn parse_size(text: &str) -> Result<u64, UnitError> {
    match quantity(text, SIZE)? {
        (bytes, _, "") => u64::try_from(bytes).map_err(|_| UnitError::TooLarge),
        _ => Err(UnitError::Malformed),
    }
}

/// One number with its unit: the amount, the unit's rank, and what follows.
fn quantity<'t>(
    text: &'t str,
    units: &[(&str, u128)],
) -> Result<(u128, usize, &'t str), UnitError> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, tail) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(UnitError::Malformed);
    }
    let end = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
    let (unit, rest) = tail.split_at(end);
    if unit.is_empty() {
        return Err(if tail.is_empty() { UnitError::NoUnit } else { UnitError::Malformed });
    }
    let rank = units
        .iter()
        .position(|(name, _)| *name == unit)
        .ok_or_else(|| UnitError::UnknownUnit(unit.to_owned()))?;
    let scale = units[rank].1;
    let digits = |text: &str| text.parse::<u64>().map(u128::from).map_err(|_| UnitError::TooLarge);
    // Nine digits of a fraction are finer than any unit here.
    let fraction = &fraction[..fraction.len().min(9)];
    let part = digits(fraction)? * scale / 10_u128.pow(fraction.len() as u32);
    let amount = digits(whole)?.checked_mul(scale).and_then(|amount| amount.checked_add(part));
    Ok((amount.ok_or(UnitError::TooLarge)?, rank, rest))
}

/// The shortest way to write it that [`parse_duration`] reads back. Whole microseconds only.
pub(crate) fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let unit = TIME[1..].iter().find(|(_, scale)| nanos.is_multiple_of(*scale));
    let (name, scale) = unit.unwrap_or(&TIME[TIME.len() - 1]);
    format!("{}{name}", nanos / scale)
}

/// The shortest way to write it that [`parse_size`] reads back.
pub(crate) fn format_size(bytes: u64) -> String {
    let fits = |(_, scale): &&(&str, u128)| bytes > 0 && u128::from(bytes).is_multiple_of(*scale);
    let (name, scale) = SIZE.iter().find(fits).unwrap_or(&SIZE[SIZE.len() - 1]);
    format!("{}{name}", u128::from(bytes) / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let cases = [
            ("500ms", 500_000),
            ("1s", 1_000_000),
            ("1.5s", 1_500_000),
            ("2m", 120_000_000),
            ("1h", 3_600_000_000),
            ("250us", 250),
            ("0s", 0),
            ("1m30s", 90_000_000),
            ("1h0.5s", 3_600_500_000),
        ];
        for (text, micros) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_says_why() {
        let unknown = |unit: &str| UnitError::UnknownUnit(unit.to_owned());
        let cases = [
            ("500", UnitError::NoUnit),
            ("1.5", UnitError::NoUnit),
            ("", UnitError::Malformed),
            ("ms", UnitError::Malformed),
            ("-1s", UnitError::Malformed),
            ("1.s", UnitError::Malformed),
            (".5s", UnitError::Malformed),
            ("1.2.3s", UnitError::Malformed),
            ("5 ms", UnitError::Malformed),
            ("30s1m", UnitError::Malformed),
            ("1s1s", UnitError::Malformed),
            ("1m30", UnitError::NoUnit),
            ("5sec", unknown("sec")),
            ("5M", unknown("M")),
            ("99999999999h", UnitError::TooLarge),
            ("99999999999999999999999s", UnitError::TooLarge),
        ];
        for (text, error) in cases {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("32KiB"), Ok(32 << 10));
        assert_eq!(parse_size("1.5MiB"), Ok(3 << 19));
        assert_eq!(parse_size("64KB"), Ok(64_000));
        assert_eq!(parse_size("512B"), Ok(512));
        assert_eq!(parse_size("512"), Err(UnitError::NoUnit));
        assert_eq!(parse_size("1KiB1B"), Err(UnitError::Malformed));
        assert_eq!(parse_size("5k"), Err(UnitError::UnknownUnit("k".to_owned())));
        assert_eq!(parse_size("99999999999999GiB"), Err(UnitError::TooLarge));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for micros in [0, 1, 999, 1_000, 1_500_000, 75_000_000, 3_600_000_000, 90_061_000_000] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1_000, 1_024, 32 << 10, 1 << 30, (1 << 20) + 1] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
