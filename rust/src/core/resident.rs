//! What a peer in the process of its bus asks of Core beyond the commands.
//!
//! Theory. Such a peer carries out its everyday operations itself, in one step with what follows from them. So it has to
//! know beforehand whether a reception is everyday, and afterwards whether what a command has left concerns
//! others than such peers.
//!
//! Invariants. 1. What is left is taken as a whole, or not at all.
//!
//! Not here: the commands (`messages`, `delivery`), who lives there (`py::resident`).

use smallvec::SmallVec;

use super::Core;
use super::api::Payload;
use super::queue::Body;

impl Core {
    /// The next message of the peer, if there is one, carries no descriptors.
    pub fn comes_alone(&self, peer: u64) -> bool {
        let front = self.peers.get(&peer).and_then(|peer| peer.queue.front());
        front.is_some_and(|key| match &self.entries[key].body {
            Body::Data(instance) => self.descriptors.get(instance.fds).is_none(),
            Body::Notice(_) => true,
        })
    }

    /// The payload of a published slice that keeps its buffers.
    pub fn published_payload(&self, peer: u64, offset: u64) -> Option<&Payload> {
        let pool = &self.peers.get(&peer)?.pool;
        let key = pool.published(offset)?;
        self.slices.get(key).map(|slice| &slice.payload).filter(|_| pool.shares_buffers)
    }

    /// Takes what commands have left, if it is nothing but peers of these that turned readable; None: it is all there yet.
    pub fn take_woken_of(&mut self, is_one: impl Fn(u64) -> bool) -> Option<SmallVec<[u64; 4]>> {
        let mut woken = SmallVec::new();
        if !self.sequencer.freed.is_empty() || !self.sequencer.retired.is_empty() {
            return None;
        }
        woken.extend(self.woken());
        if !woken.iter().all(|peer| is_one(*peer)) {
            return None;
        }
        for peer in &woken {
            self.unwake(*peer);
        }
        Some(woken)
    }
}
