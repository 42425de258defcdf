//! Messages that pass through Core without lying in a queue.
//!
//! Theory. `deliver` and then `take_front` leave little behind: a stamp that is drawn, a serial of the reader's pool that is
//! used up. So messages to a reader for whom nothing waits may be kept aside for a moment, each with its stamp. Those that
//! reach the reader are counted (`passed`); those that do not are delivered late, in their order, and then everything is as
//! if they had been queued when they came. Meanwhile nothing else happens in Core (those for one reader may be delivered
//! late before those for others), and no more is kept aside than has *room*: whatever of it lies where and is whose, no
//! quota would refuse it.
//!
//! Invariants. 1. What `passed` leaves is what `deliver` and `take_front` of each message would have left. 2. What was found
//! to have room is delivered late without fail.
//!
//! Not here: who keeps messages aside (`lane::transit`).

use std::os::fd::RawFd;
use std::sync::Arc;

use super::account::{BYTES, FDS, SLICES};
use super::api::{Credentials, Parts, Payload};
use super::backing::Memory;
use super::transaction::aligned;
use super::{Core, NEVER};

/// How much may be kept aside, at all readers together, if some of it is from this sender to this reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub messages: u64,
    pub bytes: u64,
    pub fds: u64,
    /// Charged with each of them beyond its size.
    pub beside: u64,
}

impl Room {
    /// What a message of so many bytes, with so many descriptors, is charged.
    pub fn charge(&self, n_bytes: usize, n_fds: usize) -> u64 {
        let size = aligned(n_bytes as u64).saturating_add(aligned(4 * n_fds as u64));
        size.max(8).saturating_add(self.beside)
    }
}

impl Core {
    /// For messages of `sender` to the root of `reader`; None if they have to be queued.
    pub fn room(&self, sender: u64, reader: u64, credentials: &Credentials) -> Option<Room> {
        let uid = self.ledger.users[self.peers.get(&sender)?.account.user].uid;
        let peer = self.peers.get(&reader)?;
        let root = &self.nodes[self.handles.get(peer.root)?.node];
        let is_simple = peer.queue.n == 0
            && root.died == NEVER
            && matches!(peer.pool.memory, Memory::Heap(_))
            && peer.pool.is_at_rest()
            && self.sequencer.broken.is_none();
        if !is_simple {
            return None;
        }
        let user = &self.ledger.users[peer.account.user];
        let context = credentials.secctx.as_ref().map_or(0, |label| aligned(label.len() as u64));
        Some(Room {
            messages: peer.account.room(user, uid, SLICES),
            bytes: peer.account.room(user, uid, BYTES),
            fds: peer.account.room(user, uid, FDS),
            beside: peer.account.terms.overhead.saturating_add(context),
        })
    }

    /// The stamp of one message that is kept aside.
    pub fn draw_stamp(&mut self) -> u64 {
        self.sequencer.draw()
    }

    /// So many messages have reached their reader.
    pub fn passed(&mut self, reader: u64, n_messages: u64) {
        if let Some(peer) = self.peers.get_mut(&reader) {
            peer.pool.serial += n_messages;
        }
    }

    /// One message that was kept aside is queued, with the stamp that it has; takes `fds`, unless it is false.
    pub fn deliver_late(
        &mut self,
        (sender, reader): (u64, u64),
        parts: Parts,
        n_bytes: usize,
        fds: &[RawFd],
        credentials: &Arc<Credentials>,
        stamp: u64,
    ) -> bool {
        let placed = self.begin(sender, fds, credentials).and_then(|mut tx| {
            let what = super::express::outgoing(n_bytes, !fds.is_empty());
            self.place_at_root(&tx, reader, &what).inspect_err(|_| self.cancel(&mut tx))
        });
        match placed {
            Ok(entry) => self.commit_one(reader, entry, stamp, Payload::from(parts)),
            Err(ref error) => self.sequencer.fail(format!("a message with room found none: {error:?}")),
        }
        placed.is_ok()
    }
}
