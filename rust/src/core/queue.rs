//! What waits for one peer, in the global order.
//!
//! Theory. The twin of `bus1/core/queue.py`. A queue is a list through a table of entries, so that any of them can
//! be taken out at once. The messages to one node are a second list through the same entries.
//!
//! Invariants. 1. Stamps of one transaction are adjacent in every queue. 2. A peer is reported as woken when
//! its queue turned from empty to not empty, and still is not empty (P-43).
//!
//! Not here: why an entry is removed (`objects`).

use std::sync::Arc;

use smallvec::SmallVec;

use super::account::Charge;
use super::api::{Credentials, MessageType};
use super::objects::Node;
use super::{Core, Key, NONE};

/// The descriptors of a transaction; freed when the last message that carries them is gone.
pub struct Descriptors {
    pub numbers: SmallVec<[i32; 2]>,
    pub carriers: u32,
}

/// A data message at one receiver, charged and in the pool.
pub struct Instance {
    pub sender: u64,
    pub credentials: Arc<Credentials>,
    /// The receiver wants the security context.
    pub wants_context: bool,
    pub n_bytes: u64,
    pub nodes: Box<[Key]>,
    /// Key of its descriptors.
    pub fds: Key,
    pub charge: Charge,
    pub slice: Key,
    pub note: u64,
    /// Its neighbours among the messages to its node.
    pub above: Key,
    pub below: Key,
}

/// What an entry is.
pub enum Body {
    /// A NODE_DESTROY or NODE_RELEASE on its way; uncharged.
    Notice(MessageType),
    /// A message.
    Data(Instance),
}

/// Something that is queued, or a seed.
pub struct Entry {
    pub stamp: u64,
    /// NONE for a seed.
    pub node: Key,
    pub body: Body,
    previous: Key,
    next: Key,
}

impl Entry {
    /// One that is in no queue yet.
    pub fn new(node: Key, stamp: u64, body: Body) -> Self {
        Entry { stamp, node, body, previous: NONE, next: NONE }
    }

    /// What will be received.
    pub fn kind(&self) -> MessageType {
        match self.body {
            Body::Notice(kind) => kind,
            Body::Data(_) => MessageType::Data,
        }
    }
}

/// The entries for one peer.
pub struct Queue {
    first: Key,
    last: Key,
    /// The order at which the peer woke, and not been told yet; 0: it is told, or not woken.
    woken: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { first: NONE, last: NONE, woken: 0 }
    }
}

impl Queue {
    /// Nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.first == NONE
    }

    /// The next entry to deliver.
    pub fn front(&self) -> Option<Key> {
        Some(self.first).filter(|key| *key != NONE)
    }
}

impl Core {
    /// Queue an entry behind everything older.
    pub(super) fn append(&mut self, number: u64, key: Key) {
        self.tidy_woken();
        let Some(peer) = self.peers.get_mut(number) else {
            self.sequencer.fail("something was queued for a peer that is gone");
            return;
        };
        let queue = &mut peer.queue;
        let entry = &mut self.entries[key];
        entry.previous = queue.last;
        entry.next = NONE;
        if queue.last == NONE {
            queue.first = key;
            queue.woken = self.sequencer.next_order();
            self.sequencer.note_woken(number, queue.woken);
        } else {
            self.entries[queue.last].next = key;
        }
        queue.last = key;
    }

    /// Take an entry out of the queue, wherever it is; it stays in the table.
    pub(super) fn unlink(&mut self, number: u64, key: Key) {
        let Some(peer) = self.peers.get_mut(number) else {
            self.sequencer.fail("something was queued for a peer that is gone");
            return;
        };
        let queue = &mut peer.queue;
        let (previous, next) = (self.entries[key].previous, self.entries[key].next);
        match self.entries.get_mut(previous) {
            Some(entry) => entry.next = next,
            None => queue.first = next,
        }
        match self.entries.get_mut(next) {
            Some(entry) => entry.previous = previous,
            None => queue.last = previous,
        }
        if queue.is_empty() {
            self.sequencer.forget_woken(&mut queue.woken);
        }
    }

    /// Take everything out, in order; the entries stay in the table.
    pub(super) fn clear_queue(&mut self, number: u64) -> Vec<Key> {
        let keys: Vec<Key> = self.queued_keys(number).collect();
        if let Some(peer) = self.peers.get_mut(number) {
            self.sequencer.forget_woken(&mut peer.queue.woken);
            peer.queue = Queue::default();
        }
        keys
    }

    /// Keys from the front of the queue; none for a peer that is gone.
    pub(super) fn queued_keys(&self, number: u64) -> impl Iterator<Item = Key> + '_ {
        let first = self.peers.get(number).map_or(NONE, |peer| peer.queue.first);
        std::iter::successors(self.entries.get(first).map(|_| first), |key| {
            Some(self.entries[*key].next).filter(|next| *next != NONE)
        })
    }

    /// The entry behind this one.
    pub(super) fn behind(&self, key: Key) -> Option<&Entry> {
        self.entries.get(self.entries[key].next)
    }

    /// Forget that the peer turned readable.
    pub fn unwake(&mut self, number: u64) {
        if let Some(peer) = self.peers.get_mut(number) {
            self.sequencer.forget_woken(&mut peer.queue.woken);
        }
    }

    /// Peers that turned readable go into `out`, in order, each once.
    pub fn drain_woken(&mut self, out: &mut Vec<u64>) {
        for (number, order) in self.sequencer.woken.drain(..) {
            if let Some(peer) = self.peers.get_mut(number)
                && peer.queue.woken == order
            {
                peer.queue.woken = 0;
                out.push(number);
            }
        }
        self.sequencer.n_woken = 0;
    }

    /// The same, looked at.
    pub fn woken(&self) -> Vec<u64> {
        let is_meant =
            |number: &u64, order: u64| self.peers.get(*number).is_some_and(|peer| peer.queue.woken == order);
        let listed = self.sequencer.woken.iter();
        listed.filter(|(number, order)| is_meant(number, *order)).map(|entry| entry.0).collect()
    }

    /// Take the stale entries out of the list of the woken, if they are many.
    fn tidy_woken(&mut self) {
        if self.sequencer.woken.len() > 64 && self.sequencer.woken.len() > 4 * self.sequencer.n_woken {
            let peers = &self.peers;
            self.sequencer
                .woken
                .retain(|(number, order)| peers.get(*number).is_some_and(|peer| peer.queue.woken == *order));
        }
    }

    // ---- the messages to a node ------------------------------------------------------------------

    /// A queued message is addressed to its node.
    pub(super) fn address(&mut self, key: Key) {
        let node = &mut self.nodes[self.entries[key].node];
        let last = node.last;
        node.last = key;
        node.named += 1;
        if last == NONE {
            node.first = key;
        } else if let Body::Data(instance) = &mut self.entries[last].body {
            instance.below = key;
        }
        if let Body::Data(instance) = &mut self.entries[key].body {
            (instance.above, instance.below) = (last, NONE);
        }
    }

    /// How many queued messages are addressed to a node.
    pub(super) fn addressed(&self, node: &Node) -> usize {
        let first = Some(node.first).filter(|key| *key != NONE);
        let below = |key: &Key| match &self.entries.get(*key)?.body {
            Body::Data(instance) => Some(instance.below).filter(|key| *key != NONE),
            Body::Notice(_) => None,
        };
        std::iter::successors(first, below).count()
    }

    /// It is not any more; the node is still named.
    pub(super) fn unaddress(&mut self, node: Key, above: Key, below: Key) {
        match self.entries.get_mut(above).map(|entry| &mut entry.body) {
            Some(Body::Data(instance)) => instance.below = below,
            _ => self.nodes[node].first = below,
        }
        match self.entries.get_mut(below).map(|entry| &mut entry.body) {
            Some(Body::Data(instance)) => instance.above = above,
            _ => self.nodes[node].last = above,
        }
        self.unname(node);
    }
}
