//! What can be asked of a law of service times: a draw, its mean, its quantiles. In nanoseconds.

use super::random::Random;
use crate::config::scenario::Law;

/// The longest service time drawn, as a multiple of the mean: a Pareto law has no longest one.
const LONGEST: f64 = 1_000.0;

pub(super) fn draw(law: &Law, random: &mut Random) -> u64 {
    let time = match *law {
        Law::Constant(time) => return time.as_nanos() as u64,
        Law::Exponential(mean) => mean.as_nanos() as f64 * random.exponential(),
        Law::Pareto { .. } => quantile(law, 1.0 - random.unit()).min(mean(law) * LONGEST),
        Law::Bimodal { low, high, share } => {
            let time = if random.chance(share) { high } else { low };
            return time.as_nanos() as u64;
        }
    };
    time.max(1.0) as u64
}

pub(super) fn mean(law: &Law) -> f64 {
    match *law {
        Law::Constant(mean) | Law::Exponential(mean) | Law::Pareto { mean, .. } => {
            mean.as_nanos() as f64
        }
        Law::Bimodal { low, high, share } => {
            high.as_nanos() as f64 * share + low.as_nanos() as f64 * (1.0 - share)
        }
    }
}

/// The time that a part `q` of the requests stay below; `q` is below 1.
pub(super) fn quantile(law: &Law, q: f64) -> f64 {
    match *law {
        Law::Constant(time) => time.as_nanos() as f64,
        Law::Exponential(mean) => mean.as_nanos() as f64 * -(1.0 - q).ln(),
        Law::Pareto { mean, shape } => {
            let shortest = mean.as_nanos() as f64 * (shape - 1.0) / shape;
            shortest * (1.0 - q).powf(-1.0 / shape)
        }
        Law::Bimodal { low, high, share } => {
            let time = if q > 1.0 - share { high } else { low };
            time.as_nanos() as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_agree_with_mean_and_quantile() {
        for text in ["20ms", "exp:20ms", "pareto:20ms:3", "bimodal:5ms:100ms:0.2"] {
            let law: Law = text.parse().unwrap();
            let mut random = Random::new(3, 0);
            let draws: Vec<f64> = (0..50_000).map(|_| draw(&law, &mut random) as f64).collect();
            let drawn = draws.iter().sum::<f64>() / draws.len() as f64;
            assert!((drawn / mean(&law) - 1.0).abs() < 0.05, "{text}: {drawn}");
            let below = draws.iter().filter(|time| **time <= quantile(&law, 0.9) + 1.0).count();
            let below = below as f64 / draws.len() as f64;
            assert!(below > 0.89, "{text}: {below}");
        }
    }
}
