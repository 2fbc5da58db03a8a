//! Who got what part: max-min fair shares of the application's time, and how far from them it went.

use super::tally::ClientTally;

/// How evenly a window's work was shared out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fairness {
    /// Jain's index of the work done for those that asked for more than their share: 1 is even.
    pub(super) jain: Option<f64>,
    /// The part of calls that was not answered, of those that asked for less than their share.
    pub(super) loss_below_share: Option<f64>,
}

/// Judges a window in which `work` was done in all.
pub(super) fn judge(clients: &[ClientTally], work: f64) -> Fairness {
    let mut asked: Vec<f64> = clients.iter().map(|client| client.asked).collect();
    asked.sort_by(f64::total_cmp);
    let share = fair_share(&asked, work);
    let above = clients.iter().filter(|client| client.asked > share).map(|client| client.served);
    let (count, sum, squares) =
        above.fold((0.0, 0.0, 0.0), |(n, sum, squares), x| (n + 1.0, sum + x, squares + x * x));
    // Whoever asks for about as much as its share is on neither side.
    let below = clients.iter().filter(|client| client.asked < 0.9 * share);
    let (calls, answered) = below.fold((0, 0), |(calls, answered), client| {
        (calls + client.calls, answered + client.answered)
    });
    Fairness {
        jain: (squares > 0.0).then(|| sum * sum / (count * squares)),
        loss_below_share: (calls > 0).then(|| 1.0 - f64::from(answered) / f64::from(calls)),
    }
}

/// The level up to which everybody's demand is met when `work` is shared out max-min fairly.
fn fair_share(ascending: &[f64], work: f64) -> f64 {
    let mut left = work;
    for (index, asked) in ascending.iter().enumerate() {
        let level = left / (ascending.len() - index) as f64;
        if *asked > level {
            return level;
        }
        left -= asked;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(asked: f64, served: f64) -> ClientTally {
        ClientTally { asked, served, calls: 100, answered: (served / asked * 100.0) as u32 }
    }

    #[test]
    fn the_fair_share_leaves_the_modest_whole() {
        assert_eq!(fair_share(&[1.0, 5.0, 5.0], 7.0), 3.0);
        assert_eq!(fair_share(&[1.0, 2.0], 7.0), f64::INFINITY);
    }

    #[test]
    fn an_even_split_is_one_and_a_greedy_one_is_less() {
        let even = [client(1.0, 1.0), client(5.0, 3.0), client(9.0, 3.0)];
        let fair = judge(&even, 7.0);
        assert_eq!((fair.jain, fair.loss_below_share), (Some(1.0), Some(0.0)));
        let greedy = [client(1.0, 0.5), client(5.0, 0.5), client(9.0, 6.0)];
        let unfair = judge(&greedy, 7.0);
        assert!(unfair.jain.unwrap() < 0.6);
        assert_eq!(unfair.loss_below_share, Some(0.5));
        assert_eq!(judge(&even, 100.0).jain, None, "everybody got what they asked for");
    }
}
