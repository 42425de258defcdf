//! Replies: which answers are outstanding between D-Bus clients.
//!
//! Theory. A delivered call that wants an answer opens a slot (caller, callee, serial); the first answer takes it.
//! Slots are links of two lists, that of the caller and that of the callee, so the end of either finds its own, in
//! the order in which they were opened. A slot knows when that was. A caller's turn in `overdue` is that of the
//! first call it made since it last waited for nothing.
//!
//! Invariants. 1. A slot stands in its caller's list and in its callee's, or in neither. 2. `outstanding` and
//! `awaited_from` are the lengths of lists. 3. Who has no slot has no entry.
//!
//! Not here: calls with a native end; what an answer without a slot is worth.

use super::slab::{NONE, Slab};
use crate::core::hashing::CountedMap;
use ahash::RandomState;
use std::collections::HashMap;

/// The caller already awaits an answer with this serial from the callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnique {
    /// Of the call.
    pub serial: u32,
}

/// What closed with a peer: calls it made as (callee, serial), calls of others to it as (caller, serial).
pub type Closed = (Vec<(u64, u32)>, Vec<(u64, u32)>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    caller: u64,
    callee: u64,
    serial: u32,
}

#[derive(Default)]
struct Slot {
    caller: u64,
    callee: u64,
    serial: u32,
    opened: f64,
    made: Link,
    received: Link,
}

/// Neighbours in one list.
#[derive(Clone, Copy, Default)]
struct Link {
    before: u32,
    after: u32,
}

/// One list: of the slots of a caller, or of a callee.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
    length: usize,
}

const EMPTY: List = List { first: NONE, last: NONE, length: 0 };

struct Peer {
    made: List,
    received: List,
    /// When its list of calls made began, in the order of all.
    turn: u64,
}

/// All open slots; peers are Core peers.
#[derive(Default)]
pub struct ReplyTable {
    numbers: HashMap<Key, u32, RandomState>,
    slots: Slab<Slot>,
    peers: CountedMap<Peer>,
    next_turn: u64,
}

impl ReplyTable {
    /// Open a slot; refused if the caller already awaits this serial from the callee.
    pub fn add(&mut self, caller: u64, callee: u64, serial: u32, now: f64) -> Result<(), NotUnique> {
        let key = Key { caller, callee, serial };
        let std::collections::hash_map::Entry::Vacant(vacant) = self.numbers.entry(key) else {
            return Err(NotUnique { serial });
        };
        let number = self.slots.insert(Slot { caller, callee, serial, opened: now, ..Slot::default() });
        vacant.insert(number);
        let made = &mut self.peers.entry(caller).or_insert(Peer::NEW);
        if made.made.length == 0 {
            self.next_turn += 1;
            made.turn = self.next_turn;
        }
        made.made.append(number, &mut self.slots, Slot::made);
        let received = &mut self.peers.entry(callee).or_insert(Peer::NEW).received;
        received.append(number, &mut self.slots, Slot::received);
        Ok(())
    }

    /// Close the slot that this answer belongs to; false if there is none.
    pub fn take(&mut self, caller: u64, callee: u64, serial: u32) -> bool {
        let number = self.numbers.remove(&Key { caller, callee, serial });
        number.map(|number| self.unlink(number)).is_some()
    }

    /// Whether the slot is open.
    pub fn awaits(&self, caller: u64, callee: u64, serial: u32) -> bool {
        self.numbers.contains_key(&Key { caller, callee, serial })
    }

    /// The peer is gone: close its slots.
    ///
    /// The latest come first. Calls to itself are among those it made.
    pub fn drop_peer(&mut self, peer: u64) -> Closed {
        let (mut made, mut received) = (Vec::new(), Vec::new());
        while let Some(last) = self.peers.get(&peer).map(|peer| peer.made.last) {
            if last == NONE {
                break;
            }
            made.push((self.slots[last].callee, self.slots[last].serial));
            self.close(last);
        }
        while let Some(last) = self.peers.get(&peer).map(|peer| peer.received.last) {
            received.push((self.slots[last].caller, self.slots[last].serial));
            self.close(last);
        }
        (made, received)
    }

    /// How many answers the caller waits for.
    pub fn outstanding(&self, caller: u64) -> usize {
        self.peers.get(&caller).map_or(0, |peer| peer.made.length)
    }

    /// How many answers others (or itself) wait for from the callee.
    pub fn awaited_from(&self, callee: u64) -> usize {
        self.peers.get(&callee).map_or(0, |peer| peer.received.length)
    }

    /// (caller, callee, serial) of every slot that has been open for as long.
    pub fn overdue(&self, now: f64, timeout: f64) -> Vec<(u64, u64, u32)> {
        let is_overdue = |number: u32| self.slots[number].opened + timeout <= now;
        let mut late: Vec<&Peer> =
            self.peers.values().filter(|peer| peer.made.length > 0 && is_overdue(peer.made.first)).collect();
        late.sort_unstable_by_key(|peer| peer.turn);
        let mut found = Vec::new();
        for peer in late {
            let mut at = peer.made.first;
            while at != NONE && is_overdue(at) {
                let slot = &self.slots[at];
                found.push((slot.caller, slot.callee, slot.serial));
                at = slot.made.after;
            }
        }
        found
    }

    /// When the oldest slot was opened.
    pub fn oldest(&self) -> Option<f64> {
        let waiting = self.peers.values().filter(|peer| peer.made.length > 0);
        waiting.map(|peer| self.slots[peer.made.first].opened).reduce(f64::min)
    }

    fn close(&mut self, number: u32) {
        let Slot { caller, callee, serial, .. } = self.slots[number];
        self.numbers.remove(&Key { caller, callee, serial });
        self.unlink(number);
    }

    fn unlink(&mut self, number: u32) {
        let Slot { caller, callee, .. } = self.slots[number];
        if let Some(peer) = self.peers.get_mut(&caller) {
            peer.made.remove(number, &mut self.slots, Slot::made);
            if peer.made.length + peer.received.length == 0 {
                self.peers.remove(&caller);
            }
        }
        if let Some(peer) = self.peers.get_mut(&callee) {
            peer.received.remove(number, &mut self.slots, Slot::received);
            if peer.made.length + peer.received.length == 0 {
                self.peers.remove(&callee);
            }
        }
        self.slots.remove(number);
    }
}

impl Peer {
    const NEW: Peer = Peer { made: EMPTY, received: EMPTY, turn: 0 };
}

impl Slot {
    fn made(&mut self) -> &mut Link {
        &mut self.made
    }

    fn received(&mut self) -> &mut Link {
        &mut self.received
    }
}

impl List {
    fn append(&mut self, number: u32, slots: &mut Slab<Slot>, link: fn(&mut Slot) -> &mut Link) {
        *link(&mut slots[number]) = Link { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = number,
            last => link(&mut slots[last]).after = number,
        }
        self.last = number;
        self.length += 1;
    }

    fn remove(&mut self, number: u32, slots: &mut Slab<Slot>, link: fn(&mut Slot) -> &mut Link) {
        let Link { before, after } = *link(&mut slots[number]);
        match before {
            NONE => self.first = after,
            before => link(&mut slots[before]).after = after,
        }
        match after {
            NONE => self.last = before,
            after => link(&mut slots[after]).before = before,
        }
        self.length -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{NotUnique, ReplyTable};

    #[test]
    fn the_first_answer_takes_the_slot() {
        let mut table = ReplyTable::default();
        assert_eq!(table.add(1, 2, 7, 0.0), Ok(()));
        assert_eq!(table.add(1, 2, 7, 0.0), Err(NotUnique { serial: 7 }));
        assert!(table.awaits(1, 2, 7) && !table.awaits(2, 1, 7));
        assert!(table.take(1, 2, 7) && !table.take(1, 2, 7));
        assert_eq!((table.outstanding(1), table.awaited_from(2)), (0, 0));
        assert!(table.peers.is_empty());
    }

    #[test]
    fn the_end_of_a_peer_closes_its_slots_the_latest_first() {
        let mut table = ReplyTable::default();
        for (caller, callee, serial) in [(1, 2, 5), (3, 2, 6), (2, 2, 8), (1, 2, 7), (2, 1, 9)] {
            assert!(table.add(caller, callee, serial, 0.0).is_ok());
        }
        let closed = table.drop_peer(2);
        assert_eq!(closed, (vec![(1, 9), (2, 8)], vec![(1, 7), (3, 6), (1, 5)]));
        assert!(table.peers.is_empty() && table.numbers.is_empty());
    }

    #[test]
    fn overdue_slots_come_by_callers_in_their_turn() {
        let mut table = ReplyTable::default();
        for (caller, serial, now) in [(5, 1, 1.0), (3, 2, 2.0), (5, 3, 3.0), (5, 4, 9.0)] {
            assert!(table.add(caller, 2, serial, now).is_ok());
        }
        assert_eq!(table.overdue(8.0, 5.0), [(5, 2, 1), (5, 2, 3), (3, 2, 2)]);
        assert_eq!(table.oldest(), Some(1.0));
    }
}
