//! The bus1 state machine: the twin of `bus1/core`, whose `api.py` is the contract of both.
//!
//! Theory. Peers, nodes, handles, queue entries and slices lie in tables of one `Core` and name each other by
//! keys; there is no reference that could go round in a circle. A node counts who names it, and goes with the
//! last one. Where Python's dicts keep the order of insertion, and that order can be seen, entries carry a
//! number of it. Each command resolves, checks and charges first, and applies then what cannot fail.
//!
//! Invariants. 1. A command that fails has changed nothing that `snapshot` shows. 2. When every peer is gone all
//! charges are zero, all tables are empty, and every descriptor has been handed out as freed.
//!
//! Not here: sockets, clocks, chance, Python.

pub mod account;
pub mod api;
pub mod backing;
mod commands;
mod delivery;
pub mod error;
mod express;
mod flows;
mod gaps;
pub(crate) mod hashing;
mod layout;
mod ledger;
mod loss;
mod messages;
mod objects;
pub mod pool;
mod queue;
mod resident;
mod sequencer;
mod snapshot;
mod table;
mod transaction;
mod transit;
pub mod value;
pub mod view;

use std::sync::Arc;

pub use api::*;
pub use backing::{Board, Foreign, Memory};
pub use commands::Setup;
pub use error::{Error, Kind, Result};
pub use messages::Request;
pub use transit::Room;
pub use view::View;

use account::{Account, Purse};
use backing::Mishap;
use hashing::KeyedMap;
use layout::Slices;
use ledger::Ledger;
use objects::{Handle, Node};
use pool::{Pool, Surroundings};
use queue::{Descriptors, Entry, Queue};
use sequencer::Sequencer;
pub(crate) use table::{Key, NONE};
use table::{Pages, Peers, Table};

/// The destruction stamp of a live node.
pub(crate) const NEVER: u64 = u64::MAX;

/// A queue, a pool, an account and handles; `view` is how it sees the ids of others.
pub(crate) struct Peer {
    pub account: Account,
    pub pool: Pool,
    pub queue: Queue,
    /// The handle with the number 0, that of the root node.
    pub root: Key,
    /// What a D-Bus client has none of.
    pub natives: Option<Box<Natives>>,
}

/// What native peers have, others not.
#[derive(Default)]
pub(crate) struct Natives {
    pub flags: u64,
    /// The entry of the seed.
    pub seed: Option<Key>,
    pub view: Option<View>,
    /// Handles but that of the root, by their numbers.
    pub handles: KeyedMap<Key>,
    /// Of the latest assigned number.
    pub counter: u64,
}

impl Peer {
    /// Key of the handle with this number.
    pub fn handle_key(&self, number: u64) -> Option<Key> {
        match number {
            0 => Some(self.root).filter(|key| *key != NONE),
            _ => self.natives.as_ref()?.handles.get(&number).copied(),
        }
    }

    /// Keys of all its handles.
    pub fn handle_keys(&self) -> impl Iterator<Item = Key> + '_ {
        let others = self.natives.iter().flat_map(|natives| natives.handles.values().copied());
        self.handle_key(0).into_iter().chain(others)
    }

    /// What native peers have.
    pub fn native(&mut self) -> &mut Natives {
        self.natives.get_or_insert_default()
    }

    /// How it sees ids; None: as the bus does.
    pub fn view(&self) -> Option<&View> {
        self.natives.as_ref()?.view.as_ref()
    }

    /// The entry of the seed, or NONE.
    pub fn seed(&self) -> Key {
        self.natives.as_ref().and_then(|natives| natives.seed).unwrap_or(NONE)
    }

    /// Those of `peer_query`.
    pub fn flags(&self) -> u64 {
        self.natives.as_ref().map_or(0, |natives| natives.flags)
    }

    /// Of the latest assigned number.
    pub fn counter(&self) -> u64 {
        self.natives.as_ref().map_or(0, |natives| natives.counter)
    }
}

/// The bus1 state machine.
pub struct Core {
    numbers: u64,
    ledger: Ledger,
    sequencer: Sequencer,
    peers: Peers,
    nodes: Pages<Node>,
    handles: Pages<Handle>,
    entries: Table<Entry>,
    slices: Slices,
    descriptors: Table<Descriptors>,
    mishap: Mishap,
}

impl Core {
    /// A bus without peers, with these maxima for its users.
    pub fn new(limits: Limits) -> Self {
        Core {
            numbers: 0,
            ledger: Ledger::new(limits),
            sequencer: Sequencer::default(),
            peers: Peers::default(),
            nodes: Pages::default(),
            handles: Pages::default(),
            entries: Table::default(),
            slices: Slices::default(),
            descriptors: Table::default(),
            mishap: Mishap::default(),
        }
    }

    fn peer(&self, number: u64) -> Result<&Peer> {
        self.peers.get(number).ok_or_else(|| gone(number))
    }

    fn peer_mut(&mut self, number: u64) -> Result<&mut Peer> {
        self.peers.get_mut(number).ok_or_else(|| gone(number))
    }

    /// The purse of a peer that exists.
    fn purse(&mut self, number: u64) -> Result<Purse<'_>> {
        let peer = self.peers.get_mut(number).ok_or_else(|| gone(number))?;
        let user = &mut self.ledger.users[peer.account.user];
        Ok(Purse { account: &mut peer.account, user })
    }

    /// Give handles back that a peer was charged for.
    fn give(&mut self, number: u64, resource: usize, amount: u64) {
        if let Some(peer) = self.peers.get_mut(number) {
            let user = &mut self.ledger.users[peer.account.user];
            let account = &mut peer.account;
            Purse { account, user }.give(resource, amount, &mut self.sequencer);
        }
    }

    /// Do something with the pool of a peer, if it exists.
    fn with_pool<T>(
        &mut self,
        number: u64,
        action: impl FnOnce(&mut Pool, &mut Surroundings<'_>) -> T,
    ) -> Option<T> {
        let peer = self.peers.get_mut(number)?;
        let mut around = Surroundings {
            slices: &mut self.slices,
            purse: Purse { user: &mut self.ledger.users[peer.account.user], account: &mut peer.account },
            sequencer: &mut self.sequencer,
            mishap: &mut self.mishap,
        };
        Some(action(&mut peer.pool, &mut around))
    }

    /// What a command answers; what went wrong where nothing may comes first.
    fn end<T>(&mut self, result: Result<T>) -> Result<T> {
        let mishap = self.mishap.take();
        if let Some(text) = self.sequencer.broken.take() {
            return Err(Error::new(Kind::Internal, text));
        }
        let value = result?;
        mishap.map(|()| value)
    }

    // ---- effects ---------------------------------------------------------------------------------

    /// Something is to be taken.
    pub fn has_effects(&self) -> bool {
        let sequencer = &self.sequencer;
        sequencer.n_woken != 0 || !sequencer.freed.is_empty() || !sequencer.retired.is_empty()
    }

    /// Peers that turned readable, in order, each once.
    pub fn take_woken(&mut self) -> Vec<u64> {
        let mut woken = Vec::with_capacity(self.sequencer.n_woken);
        self.drain_woken(&mut woken);
        woken
    }

    /// Descriptors to close.
    pub fn take_freed_fds(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.sequencer.freed)
    }

    /// Descriptors to close, where they are.
    pub fn freed_fds(&mut self) -> &mut Vec<i32> {
        &mut self.sequencer.freed
    }

    /// (peer, generation) of segments to unmap.
    pub fn take_retired(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.sequencer.retired)
    }

    /// Handles and queue entries touched so far.
    pub fn effort(&self) -> u64 {
        self.sequencer.effort
    }
}

fn gone(number: u64) -> Error {
    Error::new(Kind::PeerShutdown, format!("peer {number} is gone"))
}

/// The label that a reader gets, if it wants one and there is one.
fn context_of(credentials: &Arc<Credentials>, is_wanted: bool) -> Option<&bytes::Bytes> {
    credentials.secctx.as_ref().filter(|_| is_wanted)
}

#[cfg(test)]
mod tests;
