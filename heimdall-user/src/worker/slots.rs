//! A list whose items keep their positions while others come and go.

/// Items, each in a slot.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Option<T>>,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Slots<T> {
    /// Puts what `make` returns for a slot into that: the first that is free.
    pub(super) fn add(&mut self, make: impl FnOnce(usize) -> T) -> &mut T {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.len += 1;
        let item = make(slot);
        match self.slots.get_mut(slot) {
            Some(free) => free.insert(item),
            None => unreachable!("it was found, or pushed"),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.slots.get_mut(slot)?.as_mut()
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    #[inline]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }

    /// Removes the items for which `choose` returns something, and gives both to `take`.
    pub(super) fn remove<U>(
        &mut self,
        mut choose: impl FnMut(&mut T) -> Option<U>,
        mut take: impl FnMut(T, U),
    ) {
        for slot in &mut self.slots {
            if let Some(why) = slot.as_mut().and_then(&mut choose)
                && let Some(item) = slot.take()
            {
                self.len -= 1;
                take(item, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_slots_and_free_ones_are_used_again() {
        let mut slots = Slots::default();
        for name in ["a", "b", "c"] {
            slots.add(|slot| (slot, name));
        }
        let mut removed = Vec::new();
        slots.remove(
            |(_, name)| (*name == "b").then_some(7),
            |item, why| removed.push((item, why)),
        );
        assert_eq!(removed, [((1, "b"), 7)]);
        assert_eq!((slots.len(), slots.get_mut(1)), (2, None));
        assert_eq!(slots.get_mut(2), Some(&mut (2, "c")));
        assert_eq!(*slots.add(|slot| (slot, "d")), (1, "d"), "the free one");
        assert_eq!(*slots.add(|slot| (slot, "e")), (3, "e"));
        let items: Vec<_> = slots.iter().copied().collect();
        assert_eq!(items, [(0, "a"), (1, "d"), (2, "c"), (3, "e")]);
        assert_eq!((slots.len(), slots.get_mut(4)), (4, None));
    }
}
