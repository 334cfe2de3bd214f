//! The search for the highest rate that a server answers.

use anyhow::Result;

/// A run at one rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Queries a second that the generator was to send.
    pub(super) asked: f64,
    /// Queries a second that it sent.
    pub(super) offered: f64,
    /// Good answers for each query, 0 to 1.
    pub(super) answered: f64,
}

impl Step {
    pub(super) fn answers(&self) -> f64 {
        self.offered * self.answered
    }

    /// Whether the generator did not get as far as it was to: nothing above this can be measured.
    pub(super) fn limited(&self) -> bool {
        self.offered < 0.95 * self.asked
    }
}

/// Enough for any search that gets anywhere; a generator that stutters could keep one up for ever.
const MOST_STEPS: usize = 30;

/// Below this nothing is looked for.
const LOWEST: f64 = 500.0;

/// Looks for the highest rate of which at least the part `limit` is answered: strides that grow,
/// up or down from `start`, until the rate lies between two steps, then halves between them, until
/// the two lie no further apart than by the factor `precision`. `steps` holds what was tried
/// before, for another limit, and gets what is tried now.
///
/// A rate that was just missed is tried once more, and the better run counts: a pause of the
/// machine is not the server's limit.
pub(super) fn highest(
    start: f64,
    limit: f64,
    precision: f64,
    steps: &mut Vec<Step>,
    mut run: impl FnMut(f64) -> Result<Step>,
) -> Result<Option<Step>> {
    let by_rate = |a: &&Step, b: &&Step| a.offered.total_cmp(&b.offered);
    let mut stride = 1.2;
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
            (Some(good), _) if good.limited() => return Ok(Some(*good)),
            (Some(good), Some(bad)) if bad.offered <= good.offered * precision => {
                return Ok(Some(*good));
            }
            (Some(good), Some(bad)) => (good.offered * bad.offered).sqrt(),
            (Some(good), None) => good.offered * stride,
            (None, Some(bad)) => bad.offered / stride,
            (None, None) => start,
        };
        if next < LOWEST || steps.len() >= MOST_STEPS {
            return Ok(good.copied());
        }
        if good.is_none() != bad.is_none() {
            stride = f64::min(stride * stride, 3.0);
        }
        let mut step = run(next)?;
        if (0.9 * limit..limit).contains(&step.answered) {
            let again = run(next)?;
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

    /// A server that answers so many, and a generator that gets so far.
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
            let found = highest(50_000.0, 0.999, 1.03, &mut steps, model(capacity, 1e9)).unwrap();
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
        let found = highest(50_000.0, 0.99, 1.03, &mut Vec::new(), model(1e9, 500_000.0));
        let found = found.unwrap().unwrap();
        assert!(found.limited());
        assert_eq!(found.answers(), 500_000.0);
    }

    #[test]
    fn gives_up_on_a_server_that_answers_nothing() {
        let found = highest(50_000.0, 0.99, 1.03, &mut Vec::new(), model(0.0, 1e9));
        assert!(found.unwrap().is_none());
    }

    #[test]
    fn another_limit_uses_the_steps_that_were_taken() {
        let mut steps = Vec::new();
        highest(100_000.0, 0.999, 1.03, &mut steps, model(150_000.0, 1e9)).unwrap();
        let before = steps.len();
        let found = highest(1.0, 0.99, 1.03, &mut steps, model(150_000.0, 1e9)).unwrap();
        assert!(found.unwrap().offered <= 150_000.0 / 0.99);
        assert!(steps.len() <= before + 3);
    }

    #[test]
    fn a_rate_that_was_just_missed_has_a_second_try() {
        let mut runs = 0;
        let found = highest(100_000.0, 0.999, 1.03, &mut Vec::new(), |asked| {
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
