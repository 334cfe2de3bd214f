//! The search for the highest rate that a server answers.

use anyhow::Result;
use lab::Kxdpgun;

/// A run at one rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Queries a second that the generator was to send.
    pub(crate) asked: f64,
    /// Queries a second that it sent.
    pub(crate) offered: f64,
    /// Good answers for each query, 0 to 1.
    pub(crate) answered: f64,
}

impl Step {
    /// What kxdpgun measured when it was to send at this rate. Only NOERROR counts as an answer.
    pub(crate) fn new(asked: f64, load: Kxdpgun) -> Self {
        Self {
            asked,
            offered: load.queries as f64 / load.seconds,
            answered: load.noerror as f64 / load.queries.max(1) as f64,
        }
    }

    pub(crate) fn answers(&self) -> f64 {
        self.offered * self.answered
    }

    /// Whether the generator fell short of the rate: nothing above this can be measured.
    pub(crate) fn limited(&self) -> bool {
        self.offered < 0.95 * self.asked
    }
}

/// How thoroughly to search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// The factor between a rate that is answered and one that is not, at which a search ends.
    pub(crate) precision: f64,
    /// Runs after which it ends anyway: with an unsteady generator it might not converge.
    pub(crate) runs: usize,
}

/// Lowest rate to try.
const LOWEST: f64 = 500.0;

/// Looks for the highest rate of which at least the part `limit` is answered: growing strides up or down
/// from `start` until the rate is between two steps, then bisection until these are close enough
/// together. `steps` holds earlier steps, of a search for another limit, and receives the new ones.
///
/// A rate that was missed narrowly is tried once more, and the better run counts, because a pause of the
/// machine is not the server's limit. For the same reason a generator that fell short has two more
/// tries.
pub(crate) fn highest(
    start: f64,
    limit: f64,
    effort: Effort,
    steps: &mut Vec<Step>,
    mut run: impl FnMut(f64) -> Result<Step>,
) -> Result<Option<Step>> {
    let by_rate = |a: &&Step, b: &&Step| a.offered.total_cmp(&b.offered);
    let mut stride = 1.2;
    let mut runs = steps.len();
    loop {
        let good = steps
            .iter()
            .filter(|step| step.answered >= limit)
            .max_by(by_rate);
        let floor = good.map_or(0.0, |step| step.offered);
        let bad = steps
            .iter()
            .filter(|step| step.answered < limit && step.offered > floor)
            .min_by(by_rate);
        let next = match (good, bad) {
            (Some(good), _) if good.limited() => {
                let tries = steps.iter().filter(|step| step.asked == good.asked);
                if tries.count() > 2 {
                    return Ok(Some(*good));
                }
                good.asked
            }
            (Some(good), Some(bad)) if bad.offered <= good.offered * effort.precision => {
                return Ok(Some(*good));
            }
            (Some(good), Some(bad)) => (good.offered * bad.offered).sqrt(),
            (Some(good), None) => good.offered * stride,
            (None, Some(bad)) => bad.offered / stride,
            (None, None) => start,
        };
        if next < LOWEST || runs >= effort.runs {
            return Ok(good.copied());
        }
        if good.is_none() != bad.is_none() {
            stride = f64::min(stride * stride, 3.0);
        }
        let mut step = run(next)?;
        runs += 1;
        if (0.9 * limit..limit).contains(&step.answered) {
            let again = run(next)?;
            runs += 1;
            if again.answered > step.answered {
                step = again;
            }
        }
        steps.push(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFORT: Effort = Effort {
        precision: 1.03,
        runs: 30,
    };

    /// A server that answers `capacity`, and a generator that sends `most`.
    fn model(capacity: f64, most: f64) -> impl FnMut(f64) -> Result<Step> {
        move |asked| {
            let offered = asked.min(most);
            Ok(Step {
                asked,
                offered,
                answered: (capacity / offered).min(1.0),
            })
        }
    }

    #[test]
    fn finds_the_capacity_from_above_and_below() {
        for capacity in [3_000.0, 45_000.0, 51_000.0, 333_333.0, 2_000_000.0] {
            let mut steps = Vec::new();
            let found = highest(50_000.0, 0.999, EFFORT, &mut steps, model(capacity, 1e9)).unwrap();
            let answers = found.unwrap().answers();
            assert!(
                answers <= capacity && answers >= capacity / 1.03,
                "{capacity}: {answers}"
            );
            assert!(steps.len() <= 14, "{capacity}: {} steps", steps.len());
        }
    }

    #[test]
    fn stops_at_the_generators_limit() {
        let found = highest(
            50_000.0,
            0.99,
            EFFORT,
            &mut Vec::new(),
            model(1e9, 500_000.0),
        );
        let found = found.unwrap().unwrap();
        assert!(found.limited());
        assert_eq!(found.answers(), 500_000.0);
    }

    #[test]
    fn a_generator_that_fell_short_has_two_more_tries() {
        let mut limits = [200_000.0, 150_000.0, 300_000.0].into_iter();
        let mut steps = Vec::new();
        let found = highest(500_000.0, 0.99, EFFORT, &mut steps, |asked| {
            model(1e9, limits.next().unwrap())(asked)
        });
        assert_eq!(found.unwrap().unwrap().answers(), 300_000.0);
        let again = highest(500_000.0, 0.9, EFFORT, &mut steps, |_| {
            panic!("enough tried")
        });
        assert_eq!(again.unwrap().unwrap().answers(), 300_000.0);
        // A pause of the generator's at first, and then the server's limit.
        let mut limits = [200_000.0].into_iter();
        let found = highest(300_000.0, 0.99, EFFORT, &mut Vec::new(), |asked| {
            model(400_000.0, limits.next().unwrap_or(1e9))(asked)
        });
        let answers = found.unwrap().unwrap().answers();
        assert!((388_000.0..=400_000.0).contains(&answers), "{answers}");
    }

    #[test]
    fn gives_up_on_a_server_that_answers_nothing() {
        let found = highest(50_000.0, 0.99, EFFORT, &mut Vec::new(), model(0.0, 1e9));
        assert!(found.unwrap().is_none());
    }

    #[test]
    fn ends_after_so_many_runs_with_the_best_yet() {
        let effort = Effort { runs: 3, ..EFFORT };
        let mut runs = 0;
        let found = highest(100_000.0, 0.999, effort, &mut Vec::new(), |asked| {
            runs += 1;
            model(130_000.0, 1e9)(asked)
        });
        assert_eq!((found.unwrap().unwrap().asked, runs), (120_000.0, 3));
    }

    #[test]
    fn another_limit_uses_the_steps_that_were_taken() {
        let mut steps = Vec::new();
        highest(100_000.0, 0.999, EFFORT, &mut steps, model(150_000.0, 1e9)).unwrap();
        let before = steps.len();
        let found = highest(1.0, 0.99, EFFORT, &mut steps, model(150_000.0, 1e9)).unwrap();
        assert!(found.unwrap().offered <= 150_000.0 / 0.99);
        assert!(steps.len() <= before + 3);
    }

    #[test]
    fn a_rate_that_was_just_missed_has_a_second_try() {
        let mut runs = 0;
        let found = highest(100_000.0, 0.999, EFFORT, &mut Vec::new(), |asked| {
            runs += 1;
            let mut step = model(200_000.0, 1e9)(asked)?;
            if runs == 1 {
                step.answered = 0.95;
            }
            Ok(step)
        });
        assert!(found.unwrap().unwrap().offered > 190_000.0);
    }
}
