//! The small words of a scenario: how long an application works, how often clients come, when.
//!
//! Read the same way in a file and on the command line: `exp:20ms`, `800/s`, `5s..20s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};

use crate::config::units::{format_duration, parse_duration};

/// How long the application works on a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Law {
    /// Always the same.
    Constant(Duration),
    /// Exponential, of this mean.
    Exponential(Duration),
    /// Pareto: mostly short, with a long tail.
    Pareto {
        /// The mean.
        mean: Duration,
        /// The weight of the tail, above 1: the lower, the heavier.
        shape: f64,
    },
    /// One of two constants.
    Bimodal {
        /// The usual one.
        low: Duration,
        /// The other one.
        high: Duration,
        /// The part of requests that take `high`, 0 to 1.
        share: f64,
    },
}

/// How often something happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub f64);

/// A duration with its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// After how long a queue that was never empty stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Never.
    Off,
    /// After so long.
    After(Duration),
}

/// A part of a run, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it begins.
    pub from: Duration,
    /// When it ends.
    pub to: Duration,
}

/// What a duration must look like.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .map_err(|_| format!("\"{text}\" is no duration: write \"20ms\" or \"1.5s\""))
}

fn number(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| format!("\"{text}\" is not a number such as 0.1 or 2.5"))
}

// === impl Law ===

impl FromStr for Law {
    type Err = String;

    fn from_str(text: &str) -> Result<Law, String> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            [constant] | ["constant", constant] => Ok(Law::Constant(duration(constant)?)),
            ["exp", mean] => Ok(Law::Exponential(duration(mean)?)),
            ["pareto", mean, shape] => {
                let (mean, shape) = (duration(mean)?, number(shape)?);
                if shape <= 1.0 {
                    return Err(format!("the shape of \"{text}\" must be above 1, such as 2.1"));
                }
                Ok(Law::Pareto { mean, shape })
            }
            ["bimodal", low, high, share] => {
                let share = number(share)?;
                if share > 1.0 {
                    return Err(format!("the share of \"{text}\" is a part of 1, such as 0.1"));
                }
                Ok(Law::Bimodal { low: duration(low)?, high: duration(high)?, share })
            }
            _ => Err(format!(
                "\"{text}\" is no law of service times: write \"20ms\", \"exp:20ms\", \
                 \"pareto:20ms:2.1\" or \"bimodal:5ms:200ms:0.1\""
            )),
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Law::Constant(time) => f.write_str(&format_duration(time)),
            Law::Exponential(mean) => write!(f, "exp:{}", format_duration(mean)),
            Law::Pareto { mean, shape } => write!(f, "pareto:{}:{shape}", format_duration(mean)),
            Law::Bimodal { low, high, share } => {
                write!(f, "bimodal:{}:{}:{share}", format_duration(low), format_duration(high))
            }
        }
    }
}

// === impl Rate, Span, Window ===

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
        let seconds = match unit {
            "s" => 1.0,
            "m" | "min" => 60.0,
            _ => return Err(format!("\"{text}\" is no rate: write \"500/s\"")),
        };
        Ok(Rate(
            number(count).map_err(|_| format!("\"{text}\" is no rate: write \"500/s\""))? / seconds,
        ))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        duration(text).map(Span)
    }
}

impl FromStr for Standing {
    type Err = String;

    fn from_str(text: &str) -> Result<Standing, String> {
        if text == "off" { Ok(Standing::Off) } else { duration(text).map(Standing::After) }
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Window, String> {
        let help = || format!("\"{text}\" is no window: write \"3s..20s\"");
        let (from, to) = text.split_once("..").ok_or_else(help)?;
        let (from, to) = (duration(from)?, duration(to)?);
        if from < to { Ok(Window { from, to }) } else { Err(help()) }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", format_duration(self.from), format_duration(self.to))
    }
}

macro_rules! read_from_text {
    ($($word:ty),*) => {$(
        impl<'de> Deserialize<'de> for $word {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$word, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

read_from_text!(Law, Rate, Span, Standing, Window);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laws_are_read_and_written() {
        for text in ["20ms", "exp:20ms", "pareto:20ms:2.1", "bimodal:5ms:200ms:0.1"] {
            assert_eq!(text.parse::<Law>().unwrap().to_string(), text);
        }
        for text in ["20", "exp", "exp:20", "pareto:20ms:1", "bimodal:1ms:2ms:3", "normal:1ms"] {
            assert!(text.parse::<Law>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates_and_windows_are_read() {
        assert_eq!("90/m".parse(), Ok(Rate(1.5)));
        assert_eq!("800".parse(), Ok(Rate(800.0)));
        assert!("800/h".parse::<Rate>().is_err() && "-1/s".parse::<Rate>().is_err());
        let window: Window = "3s..20s".parse().unwrap();
        assert_eq!(window.to_string(), "3s..20s");
        assert!("3s..2s".parse::<Window>().is_err());
    }
}
