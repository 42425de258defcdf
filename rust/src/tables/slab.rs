//! Slab: values under small numbers that are used again.
//!
//! Theory. A vector with a list of free places. When the last value goes, the memory goes, too, unless it is little: what
//! comes and goes one at a time is no work for the allocator.
//!
//! Invariants. 1. A number stands for one value from `insert` to `remove`. 2. Numbers are below `LIMIT`, so that
//! their highest bit is free for whoever keeps them.
//!
//! Not here: checks of numbers from outside; there are none, numbers are made here.

/// No number.
pub(super) const NONE: u32 = u32::MAX;
/// More values than memory has room for; a number has 31 bits.
pub(super) const LIMIT: usize = 1 << 31;
/// Room for so many values is kept.
const KEPT: usize = 16;

/// Values by number.
pub(super) struct Slab<T> {
    values: Vec<T>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { values: Vec::new(), free: Vec::new() }
    }
}

impl<T: Default> Slab<T> {
    /// Puts a value in; its number.
    pub fn insert(&mut self, value: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self.values[number as usize] = value;
            return number;
        }
        assert!(self.values.len() < LIMIT, "a slab is full");
        self.values.push(value);
        (self.values.len() - 1) as u32
    }

    /// How many values there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    /// Takes the value out.
    pub fn remove(&mut self, number: u32) -> T {
        let value = std::mem::take(&mut self.values[number as usize]);
        self.free.push(number);
        if self.free.len() == self.values.len() {
            if self.values.capacity() > KEPT {
                *self = Slab::default();
            }
            self.values.clear();
            self.free.clear();
        }
        value
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.values[number as usize]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.values[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Slab};

    #[test]
    fn a_number_is_used_again_and_an_empty_slab_has_little_memory() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert("a"), slab.insert("b"));
        assert_eq!((slab[a], slab[b]), ("a", "b"));
        assert_eq!(slab.remove(a), "a");
        assert_eq!(slab.insert("c"), a);
        assert_eq!((slab.remove(a), slab.remove(b)), ("c", "b"));
        let room = slab.values.capacity();
        assert!((1..=KEPT).contains(&room) && slab.insert("d") == 0 && slab.values.capacity() == room);
        for _ in 0..KEPT {
            slab.insert("e");
        }
        for number in 0..=KEPT as u32 {
            slab.remove(number);
        }
        assert_eq!((slab.values.capacity(), slab.free.capacity(), slab.len()), (0, 0, 0));
    }
}
