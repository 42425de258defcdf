//! Tables of Core, and the keys of what lies in them.
//!
//! Theory. What is made and goes with each message lies in a `Table`, which is a slab. What peers keep lies in `Pages`: they are
//! many, and never move, as moving them would leave a hole as large as all of them. Keys are small, as everything
//! names others by them. Peers are found by their numbers, of which the table has no copy.
//!
//! Invariants. 1. A key stands for one value from `insert` to `remove`, and is never NONE. 2. When the last value goes, all
//! pages but one go.
//!
//! Not here: what lies there (`objects`, `queue`, `layout`).

use std::hash::BuildHasher;
use std::ops::{Index, IndexMut};

use hashbrown::HashTable;

use super::Peer;
use super::hashing::ByCount;

/// Where something lies.
pub type Key = u32;
/// The key of nothing.
pub const NONE: Key = Key::MAX;

/// Values by key.
pub struct Table<T>(slab::Slab<T>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table(slab::Slab::new())
    }
}

impl<T> Table<T> {
    /// Puts a value in; its key.
    pub fn insert(&mut self, value: T) -> Key {
        // as with a vector that is full: there is no memory for so many
        assert!(self.0.len() < NONE as usize, "a table is full");
        self.0.insert(value) as Key
    }

    /// The value, if there is one.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.0.get(key as usize)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.0.get_mut(key as usize)
    }

    /// Takes the value out.
    pub fn remove(&mut self, key: Key) -> T {
        self.0.remove(key as usize)
    }

    /// The same, if there is one.
    pub fn try_remove(&mut self, key: Key) -> Option<T> {
        self.0.try_remove(key as usize)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    /// There are none.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Index<Key> for Table<T> {
    type Output = T;

    fn index(&self, key: Key) -> &T {
        &self.0[key as usize]
    }
}

impl<T> IndexMut<Key> for Table<T> {
    fn index_mut(&mut self, key: Key) -> &mut T {
        &mut self.0[key as usize]
    }
}

/// Values in a page.
const PAGE: usize = 32;

/// Values by key, for those that stay.
pub struct Pages<T> {
    // they are moved to where they lie once
    pages: Vec<Box<[T; PAGE]>>,
    free: Vec<Key>,
    /// Keys below it have been given.
    n_given: Key,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Pages { pages: Vec::new(), free: Vec::new(), n_given: 0 }
    }
}

impl<T: Default> Pages<T> {
    /// Puts a value in; its key.
    pub fn insert(&mut self, value: T) -> Key {
        let key = self.free.pop().unwrap_or_else(|| {
            // as with a vector that is full: there is no memory for so many
            assert!(self.n_given < NONE, "there are too many pages");
            if self.n_given as usize == self.pages.len() * PAGE {
                self.pages.push(Box::new(std::array::from_fn(|_| T::default())));
            }
            self.n_given += 1;
            self.n_given - 1
        });
        self[key] = value;
        key
    }

    /// Takes the value out.
    pub fn remove(&mut self, key: Key) -> T {
        let value = std::mem::take(&mut self[key]);
        self.free.push(key);
        if self.free.len() == self.n_given as usize {
            self.pages.truncate(1);
            (self.free, self.n_given) = (Vec::new(), 0);
        }
        value
    }

    /// There are none.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.n_given == 0
    }
}

impl<T> Index<Key> for Pages<T> {
    type Output = T;

    fn index(&self, key: Key) -> &T {
        &self.pages[key as usize / PAGE][key as usize % PAGE]
    }
}

impl<T> IndexMut<Key> for Pages<T> {
    fn index_mut(&mut self, key: Key) -> &mut T {
        &mut self.pages[key as usize / PAGE][key as usize % PAGE]
    }
}

/// All peers, by number.
#[derive(Default)]
pub(crate) struct Peers(HashTable<Box<Peer>>);

impl Peers {
    /// The peer with this number.
    pub fn get(&self, number: u64) -> Option<&Peer> {
        self.0.find(ByCount.hash_one(number), |peer| peer.pool.number == number).map(|peer| &**peer)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Peer> {
        self.0.find_mut(ByCount.hash_one(number), |peer| peer.pool.number == number).map(|peer| &mut **peer)
    }

    /// One more.
    pub fn insert(&mut self, peer: Box<Peer>) {
        self.0.insert_unique(ByCount.hash_one(peer.pool.number), peer, |peer| {
            ByCount.hash_one(peer.pool.number)
        });
    }

    /// It is gone.
    pub fn remove(&mut self, number: u64) -> Option<Box<Peer>> {
        let found = self.0.find_entry(ByCount.hash_one(number), |peer| peer.pool.number == number).ok()?;
        Some(found.remove().0)
    }

    /// All numbers, in any order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|peer| peer.pool.number)
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, Pages};

    #[test]
    fn a_key_is_given_again_and_pages_go_with_the_last_value() {
        let mut pages = Pages::default();
        let keys: Vec<_> = (0..3 * PAGE + 1).map(|at| pages.insert(at)).collect();
        assert!(keys.iter().enumerate().all(|(at, key)| pages[*key] == at) && pages.pages.len() == 4);
        assert_eq!(pages.remove(keys[5]), 5);
        assert_eq!((pages.insert(7777), pages[keys[5]]), (keys[5], 7777));
        for key in &keys {
            assert!(!pages.is_empty());
            pages.remove(*key);
        }
        assert!(pages.is_empty() && pages.pages.len() == 1 && pages.free.is_empty());
        assert_eq!((pages.insert(1), pages[0]), (0, 1));
    }
}
