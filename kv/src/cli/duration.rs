//! Parses durations of the command line.

use std::time::Duration;

/// The longest duration that is accepted: one day.
const DURATION_MAX: Duration = Duration::from_secs(86_400);

/// Parses `10s`, `500ms` or `2m`. A number without a unit is in seconds.
pub fn parse(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err("expected a number with the unit ms, s or m, as 500ms, 10s or 2m".into()),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number * factor <= DURATION_MAX.as_secs_f64() => {
            Ok(Duration::from_secs_f64(number * factor))
        }
        _ => Err("expected a duration of more than nothing and at most a day".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert!(parse("0s").is_err() && parse("5h").is_err() && parse("x").is_err());
    }
}
