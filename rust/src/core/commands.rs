//! The commands on peers, handles, nodes and slices, and the look-ups.
//!
//! Theory. The twin of `bus1/core/bus.py`; see `api.py` for the contract.
//!
//! Invariants. Those of Core.
//!
//! Not here: sending (`messages`), receiving (`delivery`).

use std::sync::Arc;

use super::account::HANDLES;
use super::api::{
    FLUSH, FLUSH_SEED, HANDLE_INVALID, KEEP, Limits, PeerState, RELEASE_HANDLES, Usage, UserUsage,
    WANT_SECCTX,
};
use super::error::{Error, Kind, Result};
use super::loss::NodeSet;
use super::objects::may_name_node;
use super::pool::Pool;
use super::queue::{Body, Queue};
use super::transaction::Fresh;
use super::{Core, KeyedMap, Memory, NEVER, NONE, Peer, View};

const LIMIT_MAX: u64 = 0x7FFF_FFFF;

/// How a new peer differs from others.
#[derive(Default)]
pub struct Setup {
    /// None: the user's.
    pub limits: Option<Limits>,
    /// Bytes that are charged with every message beyond its slice.
    pub overhead: u64,
    /// None: it sees ids as the bus does.
    pub view: Option<View>,
}

impl Core {
    // ---- peers -----------------------------------------------------------------------------------

    /// A new peer accounted to `uid` (P-1, P-7).
    pub fn peer_new(&mut self, uid: i64, memory: Memory, setup: Setup) -> u64 {
        self.numbers += 1;
        let number = self.numbers;
        let order = self.sequencer.next_order();
        let account = self.ledger.open(uid, setup.limits, setup.overhead, order);
        let peer = Peer {
            account,
            pool: Pool::new(number, memory),
            queue: Queue::default(),
            view: setup.view.map(Box::new),
            flags: 0,
            handles: KeyedMap::default(),
            counter: 0,
            root: NONE,
            seed: NONE,
        };
        self.peers.insert(number, Box::new(peer));
        number
    }

    /// All of P-10 … P-17: nodes die at one instant, handles go, queue and pool are emptied.
    pub fn peer_disconnect(&mut self, peer: u64) -> Result<()> {
        self.flush(peer, &NodeSet::default())?;
        self.discard_seed(peer);
        self.with_pool(peer, |pool, around| pool.close(around));
        if let Some(gone) = self.peers.remove(&peer) {
            self.ledger.close(&gone.account, &mut self.sequencer);
            if gone.queue.n != 0 {
                self.sequencer.fail(format!("peer {peer} left with a queue"));
            }
        }
        self.sequencer.retired.retain(|entry| entry.0 != peer);
        self.end(Ok(()))
    }

    /// Flags and limits (P-20 … P-22).
    pub fn peer_query(&self, peer: u64) -> Result<PeerState> {
        let found = self.peer(peer)?;
        Ok(PeerState { flags: found.flags, limits: Limits(found.account.terms.limits) })
    }

    /// Set flags and limits (KEEP: as they are), then flush (P-30 … P-37).
    pub fn peer_reset(&mut self, peer: u64, flags: u64, peer_flags: u64, maxima: [u64; 4]) -> Result<()> {
        let found = self.peer_mut(peer)?;
        if flags & !(FLUSH | FLUSH_SEED) != 0 {
            return Err(Error::new(Kind::InvalidArgument, format!("reset flags {flags:#x}")));
        }
        if !matches!(peer_flags, KEEP | 0 | WANT_SECCTX) {
            return Err(Error::new(Kind::InvalidArgument, format!("peer flags {peer_flags:#x}")));
        }
        if !maxima.iter().all(|limit| *limit == KEEP || *limit <= LIMIT_MAX) {
            let [slices, handles, bytes, fds] = maxima;
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("limits ({slices}, {handles}, {bytes}, {fds})"),
            ));
        }
        if peer_flags != KEEP {
            found.flags = peer_flags;
        }
        if maxima != [KEEP; 4] {
            let limits = &mut Arc::make_mut(&mut found.account.terms).limits;
            for (limit, new) in limits.iter_mut().zip(maxima) {
                if new != KEEP {
                    *limit = new;
                }
            }
        }
        if flags & FLUSH != 0 {
            let pinned = if flags & FLUSH_SEED != 0 { NodeSet::default() } else { self.pinned_by_seed(peer) };
            self.flush(peer, &pinned)?;
        }
        if flags & FLUSH_SEED != 0 {
            self.discard_seed(peer);
        }
        self.end(Ok(()))
    }

    /// Own nodes that the seed carries.
    fn pinned_by_seed(&self, peer: u64) -> NodeSet {
        let seed = self.peers.get(&peer).and_then(|found| self.entries.get(found.seed));
        match seed.map(|entry| &entry.body) {
            Some(Body::Data(instance)) => {
                let nodes = instance.nodes.iter().filter(|node| self.nodes[**node].owner == peer);
                nodes.map(|node| *node as u64).collect()
            }
            _ => NodeSet::default(),
        }
    }

    // ---- handles and nodes -----------------------------------------------------------------------

    /// One more reference for `destination`; its number there, HANDLE_INVALID for a dead node (H-50 … H-58).
    pub fn handle_transfer(&mut self, source: u64, handle: u64, destination: u64) -> Result<u64> {
        self.peer(source)?;
        self.peer(destination)?;
        let mut fresh = Fresh::default();
        let node = self.resolve(source, handle, &mut fresh)?;
        if self.nodes[node].died != NEVER {
            return Ok(HANDLE_INVALID);
        }
        if let Err(error) = self.charge_transfer(source, destination, fresh.len() as u64) {
            self.unmake(&mut fresh);
            return self.end(Err(error));
        }
        self.own_all(source, &mut fresh);
        self.rise(node);
        let number = self.hold(destination, node);
        self.end(Ok(number))
    }

    fn charge_transfer(&mut self, source: u64, destination: u64, n_fresh: u64) -> Result<()> {
        self.purse(destination)?.take(HANDLES, 1)?;
        let result = self.purse(source)?.take(HANDLES, n_fresh);
        if result.is_err() {
            self.give(destination, HANDLES, 1);
        }
        result
    }

    /// Drop one reference (H-40 … H-45); NoSuchHandle, Busy.
    pub fn handle_release(&mut self, peer: u64, handle: u64) -> Result<()> {
        self.peer(peer)?;
        let Some((key, found)) = self.handle_at(peer, handle) else {
            if may_name_node(handle) {
                return Err(Error::new(Kind::Busy, format!("{handle:#x} would be an own live node")));
            }
            return Err(Error::new(Kind::NoSuchHandle, format!("no handle {handle:#x}")));
        };
        let node = found.node;
        let is_own = self.nodes[node].owner == peer;
        if is_own && self.nodes[node].died == NEVER && found.references == 1 {
            return Err(Error::new(Kind::Busy, format!("the pinned reference of node {handle:#x}")));
        }
        self.nodes[node].named += 1;
        if self.release(peer, key, 1) && is_own {
            self.forsake(peer, &[node]);
        }
        self.unname(node);
        self.end(Ok(()))
    }

    /// Destroy a set of own nodes at one instant (H-60 … H-68).
    pub fn node_destroy(&mut self, peer: u64, nodes: &[u64], flags: u64) -> Result<()> {
        let owner = self.peer(peer)?;
        if flags & !RELEASE_HANDLES != 0 {
            return Err(Error::new(Kind::InvalidArgument, format!("destroy flags {flags:#x}")));
        }
        if nodes.len() as u64 > self.ledger.users[owner.account.user].limits[HANDLES] {
            return Err(Error::new(Kind::InvalidArgument, format!("{} nodes", nodes.len())));
        }
        let mut fresh = Fresh::default();
        let doomed = match self.doom(peer, nodes, &mut fresh) {
            Ok(doomed) => doomed,
            Err(error) => {
                self.unmake(&mut fresh);
                return self.end(Err(error));
            }
        };
        self.own_all(peer, &mut fresh);
        let stamp = self.sequencer.draw();
        self.destroy(&doomed, stamp);
        if flags & RELEASE_HANDLES != 0 {
            self.let_go(peer, &doomed);
        }
        self.end(Ok(()))
    }

    /// The nodes to be destroyed, new ones charged.
    fn doom(&mut self, peer: u64, numbers: &[u64], fresh: &mut Fresh) -> Result<Vec<usize>> {
        let mark = self.sequencer.next_order();
        let mut doomed = Vec::with_capacity(numbers.len());
        for &number in numbers {
            let node = self.resolve(peer, number, fresh)?;
            let found = &mut self.nodes[node];
            let (kind, text) = if found.mark == mark {
                (Kind::NotUnique, format!("node {number:#x} twice"))
            } else if found.owner != peer {
                (Kind::ForeignNode, format!("{number:#x} is not an own node"))
            } else if found.died != NEVER {
                (Kind::AlreadyDestroyed, format!("node {number:#x}"))
            } else {
                found.mark = mark;
                doomed.push(node);
                continue;
            };
            return Err(Error::new(kind, text));
        }
        self.purse(peer)?.take(HANDLES, fresh.len() as u64)?;
        Ok(doomed)
    }

    /// The owner drops one reference to each of its dead nodes.
    fn let_go(&mut self, peer: u64, nodes: &[usize]) {
        let mut forsaken = Vec::new();
        for &node in nodes {
            self.nodes[node].named += 1;
            if let Some(key) = self.nodes[node].handle_of(peer)
                && self.release(peer, key, 1)
            {
                forsaken.push(node);
            }
        }
        self.forsake(peer, &forsaken);
        for &node in nodes {
            self.unname(node);
        }
    }

    // ---- slices ----------------------------------------------------------------------------------

    /// Give a received slice back (L-7 … L-10); serial 0: whichever is published there.
    pub fn slice_release(&mut self, peer: u64, offset: u64, serial: u64, unmapped: bool) -> Result<()> {
        self.peer(peer)?;
        let released = self.with_pool(peer, |pool, around| pool.release(offset, serial, unmapped, around));
        self.end(released.unwrap_or(Ok(())))
    }

    /// The peer has unmapped a retired segment: its charge returns.
    pub fn segment_unmapped(&mut self, peer: u64, generation: u64) -> Result<()> {
        self.peer(peer)?;
        let unmapped = self.with_pool(peer, |pool, around| pool.unmapped(generation, around));
        self.end(unmapped.unwrap_or(Ok(())))
    }

    // ---- look-ups --------------------------------------------------------------------------------

    /// PeerShutdown if there is no such peer.
    pub fn check_peer(&self, peer: u64) -> Result<()> {
        self.peer(peer).map(|_| ())
    }

    /// Something is queued (P-41, P-42); false for a peer that is gone.
    pub fn is_readable(&self, peer: u64) -> bool {
        self.peers.get(&peer).is_some_and(|found| found.queue.n != 0)
    }

    /// What `sender` has queued, undelivered, at `reader`; None: the reader is gone.
    pub fn queued(&self, sender: u64, reader: u64) -> Option<Usage> {
        Some(self.peers.get(&reader)?.account.queued(sender))
    }

    /// What everybody has queued, undelivered, at `reader`; None: it is gone.
    pub fn waiting(&self, reader: u64) -> Option<Usage> {
        Some(self.peers.get(&reader)?.account.waiting())
    }

    /// Every user that has peers.
    pub fn users(&self) -> Vec<(i64, UserUsage)> {
        self.ledger.usage()
    }

    /// Replace the maxima of a user; current use is untouched.
    pub fn set_user_limits(&mut self, uid: i64, limits: Limits) {
        self.ledger.configure(uid, limits);
    }
}
