//! Where connections lie, and how one is found.
//!
//! Theory. Each connection has a slot, by whose number others know it. The tables by peer and by unique name hold these numbers
//! alone: what they are looked up by is told by the connections themselves. Descriptors are small numbers, so they count
//! through a list.
//!
//! Invariants. 1. A connection is found by its peer and its descriptor, and by its unique name once it has one, as long as it
//! is in its slot. 2. A list by descriptor is no longer than the process may have descriptors.
//!
//! Not here: what connections are (`connection`), well-known names (`parties`).

use std::hash::BuildHasher;
use std::os::fd::RawFd;

use ahash::RandomState;
use hashbrown::HashTable;

use super::connection::Connection;
use crate::core::hashing::ByCount;

/// Something by descriptor.
#[derive(Debug, Default)]
pub(super) struct ByFd(Vec<u32>);

/// No number.
const NONE: u32 = u32::MAX;

impl ByFd {
    /// What is there.
    pub fn get(&self, fd: RawFd) -> Option<usize> {
        let number = *self.0.get(usize::try_from(fd).ok()?)?;
        Some(number as usize).filter(|_| number != NONE)
    }

    /// It is there from now on.
    pub fn insert(&mut self, fd: RawFd, number: usize) {
        let (Ok(at), Ok(number)) = (usize::try_from(fd), u32::try_from(number)) else { return };
        if self.0.len() <= at {
            self.0.resize(at + 1, NONE);
        }
        if let Some(place) = self.0.get_mut(at) {
            *place = number;
        }
    }

    /// Nothing is there any more.
    pub fn remove(&mut self, fd: RawFd) {
        if let Some(place) = usize::try_from(fd).ok().and_then(|at| self.0.get_mut(at)) {
            *place = NONE;
        }
    }
}

/// All connections.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Option<Box<Connection>>>,
    free: Vec<u32>,
    by_peer: HashTable<u32>,
    by_fd: ByFd,
    by_unique: HashTable<u32>,
    state: RandomState,
}

fn at(slots: &[Option<Box<Connection>>], slot: u32) -> Option<&Connection> {
    slots.get(slot as usize)?.as_deref()
}

impl Slots {
    /// The connection in a slot.
    pub fn get(&self, slot: usize) -> Option<&Connection> {
        self.slots.get(slot)?.as_deref()
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Connection> {
        self.slots.get_mut(slot)?.as_deref_mut()
    }

    /// Where the connection of a peer is.
    pub fn of_peer(&self, peer: u64) -> Option<usize> {
        let is_it = |slot: &u32| at(&self.slots, *slot).is_some_and(|c| c.peer == peer);
        self.by_peer.find(ByCount.hash_one(peer), is_it).map(|slot| *slot as usize)
    }

    /// Where the connection with a descriptor is.
    pub fn of_fd(&self, fd: RawFd) -> Option<usize> {
        self.by_fd.get(fd)
    }

    /// Where the connection with a unique name is.
    pub fn of_unique(&self, name: &[u8]) -> Option<usize> {
        let is_it = |slot: &u32| at(&self.slots, *slot).is_some_and(|c| c.unique.as_bytes() == name);
        self.by_unique.find(self.state.hash_one(name), is_it).map(|slot| *slot as usize)
    }

    /// All slots that are in use.
    pub fn all(&self) -> impl Iterator<Item = (usize, &Connection)> {
        self.slots.iter().enumerate().filter_map(|(slot, c)| Some((slot, c.as_deref()?)))
    }

    /// A new connection; its slot.
    pub fn enter(&mut self, connection: Box<Connection>) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // there are fewer connections than descriptors
            (self.slots.len() - 1) as u32
        });
        self.by_fd.insert(connection.fd, slot as usize);
        let (peer, has_name) = (connection.peer, !connection.unique.is_empty());
        self.slots[slot as usize] = Some(connection);
        let slots = &self.slots;
        let hash = |slot: &u32| ByCount.hash_one(at(slots, *slot).map_or(0, |c| c.peer));
        self.by_peer.insert_unique(ByCount.hash_one(peer), slot, hash);
        if has_name {
            self.file_name(slot);
        }
        slot as usize
    }

    fn file_name(&mut self, slot: u32) {
        let (slots, state) = (&self.slots, &self.state);
        let hash = |slot: &u32| state.hash_one(at(slots, *slot).map_or(&[][..], |c| c.unique.as_bytes()));
        self.by_unique.insert_unique(hash(&slot), slot, hash);
    }

    /// It has no name yet, and gets this one.
    pub fn name(&mut self, slot: usize, unique: &str) -> Option<&mut Connection> {
        self.get_mut(slot)?.unique = unique.into();
        self.file_name(slot as u32);
        self.get_mut(slot)
    }

    /// It is gone; where it was.
    pub fn remove(&mut self, peer: u64) -> Option<(usize, Box<Connection>)> {
        let slot = self.of_peer(peer)?;
        let number = slot as u32;
        if let Ok(found) = self.by_peer.find_entry(ByCount.hash_one(peer), |other| *other == number) {
            found.remove();
        }
        let connection = self.slots.get_mut(slot)?.take()?;
        let hash = self.state.hash_one(connection.unique.as_bytes());
        if let Ok(found) = self.by_unique.find_entry(hash, |other| *other == number) {
            found.remove();
        }
        self.by_fd.remove(connection.fd);
        self.free.push(number);
        Some((slot, connection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::connection::Standing;
    use std::sync::Arc;

    fn connection(at: usize) -> Box<Connection> {
        let unique = if at.is_multiple_of(3) { String::new() } else { format!(":1.{at}") };
        let (fd, peer) = ((2 * at) as RawFd, 7 * at as u64);
        Box::new(Connection::new(fd, peer, &unique, Arc::default(), Standing::default()))
    }

    #[test]
    fn each_is_found_by_all_that_it_is_known_by_and_no_longer_than_it_is_there() {
        let mut slots = Slots::default();
        let mut placed: Vec<usize> = (0..500).map(|at| slots.enter(connection(at))).collect();
        for (at, &slot) in placed.iter().enumerate() {
            if at.is_multiple_of(6) {
                assert!(slots.name(slot, &format!(":1.{at}")).is_some());
            }
        }
        for round in [2, 5, 1] {
            for at in (0..500).filter(|at| at % round == 0) {
                let (slot, gone) = slots.remove(7 * at as u64).unwrap();
                assert_eq!((slot, gone.peer), (placed[at], 7 * at as u64));
                assert!(slots.remove(gone.peer).is_none() && slots.of_fd(gone.fd).is_none());
                assert!(
                    slots.of_unique(format!(":1.{at}").as_bytes()).is_none() && slots.get(slot).is_none()
                );
                if round != 1 {
                    placed[at] = slots.enter(connection(at));
                }
            }
            for (at, &slot) in placed.iter().enumerate().filter(|_| round != 1) {
                assert_eq!(
                    (slots.of_peer(7 * at as u64), slots.of_fd((2 * at) as RawFd)),
                    (Some(slot), Some(slot))
                );
                let named = slots.get(slot).is_some_and(|c| !c.unique.is_empty());
                assert_eq!(slots.of_unique(format!(":1.{at}").as_bytes()), named.then_some(slot));
            }
        }
        assert!(slots.of_unique(b"").is_none() && slots.of_fd(-1).is_none() && slots.all().next().is_none());
        assert!(
            slots.by_fd.0.iter().all(|number| *number == NONE)
                && slots.by_peer.is_empty()
                && slots.by_unique.is_empty()
        );
    }
}
