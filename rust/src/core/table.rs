//! Tables of Core, and the keys of what lies in them.
//!
//! Theory. What is made and goes with each message lies in a `Table`, which is a slab; what peers keep, in a `Slab` without a
//! mark for places that are free. Keys are small, as everything names others by them. Peers are found by their
//! numbers, of which the table has no copy.
//!
//! Invariants. 1. A key stands for one value from `insert` to `remove`, and is never NONE.
//!
//! Not here: what lies there (`objects`, `queue`, `layout`).

use std::hash::{BuildHasher, Hasher};
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

/// All peers, by number.
#[derive(Default)]
pub(crate) struct Peers(HashTable<Box<Peer>>);

fn hash_of(number: u64) -> u64 {
    let mut hasher = ByCount.build_hasher();
    hasher.write_u64(number);
    hasher.finish()
}

impl Peers {
    /// The peer with this number.
    pub fn get(&self, number: u64) -> Option<&Peer> {
        self.0.find(hash_of(number), |peer| peer.pool.number == number).map(|peer| &**peer)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Peer> {
        self.0.find_mut(hash_of(number), |peer| peer.pool.number == number).map(|peer| &mut **peer)
    }

    /// One more.
    pub fn insert(&mut self, peer: Box<Peer>) {
        self.0.insert_unique(hash_of(peer.pool.number), peer, |peer| hash_of(peer.pool.number));
    }

    /// It is gone.
    pub fn remove(&mut self, number: u64) -> Option<Box<Peer>> {
        let found = self.0.find_entry(hash_of(number), |peer| peer.pool.number == number).ok()?;
        Some(found.remove().0)
    }

    /// All numbers, in any order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|peer| peer.pool.number)
    }
}
