//! Questions whose answers were promoted and never given.
//!
//! Workers go on to nominate a question whose answer the programs hold but cannot give: because packets of the
//! interface have no room for it, for example. It is kept from promotion for a while, which doubles each time, so
//! that it takes no entry from others again and again.
//!
//! A table of fixed size, one place for each hash, in which the question that was demoted last stays: one that is
//! lost is promoted once more, no worse.

use super::candidates::WINDOW;

/// Seconds for which a question is kept out, the first time and at most.
const SHORTEST: u32 = WINDOW;
const LONGEST: u32 = 16 * WINDOW;

#[derive(Debug)]
pub(super) struct Fruitless {
    /// A power of two.
    places: Box<[Barred]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Barred {
    hash: u64,
    /// The second of the demotion.
    since: u32,
    /// Seconds from then on. 0: the place is free.
    time: u32,
}

impl Fruitless {
    /// For a tier of so many entries.
    pub(super) fn new(entries: u32) -> Self {
        let places = (entries as usize).next_power_of_two();
        Self {
            places: vec![Barred::default(); places].into(),
        }
    }

    /// The entry of a question was demoted: whether it has ever answered since it was written.
    pub(super) fn demoted(&mut self, hash: u64, has_answered: bool, now: u32) {
        let at = self.place(hash);
        let Some(place) = self.places.get_mut(at) else {
            return;
        };
        let is_known = place.time > 0 && place.hash == hash;
        match (has_answered, is_known) {
            (true, true) => *place = Barred::default(),
            (true, false) => {}
            (false, _) => {
                // The time of one that came back long after is over.
                let is_recent = is_known && now.wrapping_sub(place.since) < 2 * LONGEST;
                let time = if is_recent { 2 * place.time } else { SHORTEST };
                *place = Barred {
                    hash,
                    since: now,
                    time: time.min(LONGEST),
                };
            }
        }
    }

    /// Whether a question is not to be promoted now.
    pub(super) fn is_barred(&self, hash: u64, now: u32) -> bool {
        let place = self.places.get(self.place(hash));
        let is_barred =
            |place: &Barred| place.hash == hash && now.wrapping_sub(place.since) < place.time;
        place.is_some_and(is_barred)
    }

    fn place(&self, hash: u64) -> usize {
        hash as usize & (self.places.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds for which a question is kept out.
    fn barred(fruitless: &Fruitless, hash: u64, now: u32) -> u32 {
        let mut seconds = now..now + 10 * LONGEST;
        let free = seconds.find(|second| !fruitless.is_barred(hash, *second));
        free.unwrap_or_default() - now
    }

    #[test]
    fn the_time_doubles_up_to_a_bound() {
        let mut fruitless = Fruitless::new(8);
        let mut now = 1000;
        assert_eq!(barred(&fruitless, 5, now), 0);
        for windows in [1, 2, 4, 8, 16, 16] {
            fruitless.demoted(5, false, now);
            assert_eq!(barred(&fruitless, 5, now), windows * WINDOW);
            assert_eq!(barred(&fruitless, 6, now), 0);
            now += (windows + 2) * WINDOW;
        }
        fruitless.demoted(5, false, now + 2 * LONGEST);
        assert_eq!(barred(&fruitless, 5, now + 2 * LONGEST), WINDOW);
    }

    #[test]
    fn an_answer_that_was_given_begins_again() {
        let mut fruitless = Fruitless::new(8);
        fruitless.demoted(5, false, 1000);
        // Of another question in its place.
        fruitless.demoted(13, true, 1001);
        assert_eq!(barred(&fruitless, 5, 1001), WINDOW - 1);
        fruitless.demoted(5, true, 1002);
        assert_eq!(barred(&fruitless, 5, 1002), 0);
        fruitless.demoted(5, false, 1003);
        assert_eq!(barred(&fruitless, 5, 1003), WINDOW);
        fruitless.demoted(13, false, 1004);
        assert_eq!(barred(&fruitless, 5, 1004), 0, "the other took its place");
    }
}
