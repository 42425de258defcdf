//! The commands that send: `send`, `route`, and `rehearse`, which only looks.
//!
//! Theory. See `bus1/core/bus.py`: which failure of a destination is tolerated, and that everything that may fail
//! comes before the first effect.
//!
//! Invariants. Those of Core.
//!
//! Not here: staging (`transaction`), the lanes' way (`express`).

use std::sync::Arc;

use super::account::HANDLES;
use super::api::{Credentials, Parcel, Payload, SEND_CONTINUE, SEND_SEED, Stretch};
use super::error::{Error, Kind, Result};
use super::transaction::{Outgoing, Transaction, check_counts, check_size};
use super::{Core, Key};
use super::{NEVER, NONE};

/// What a send names.
#[derive(Clone, Copy, Default)]
pub struct Request<'a> {
    pub destinations: &'a [u64],
    pub handles: &'a [u64],
    pub fds: &'a [i32],
    pub flags: u64,
    pub optional: &'a [u64],
}

/// A transaction that can be committed, the entry of its seed, and a slot for each destination.
type Collected<'a> = (Transaction<'a>, Key, Vec<i32>);

impl Core {
    /// One transaction (§4): a slot per destination, optional ones last: 0 or -errno.
    pub fn send(
        &mut self,
        peer: u64,
        request: &Request<'_>,
        payload: &Payload,
        credentials: &Arc<Credentials>,
    ) -> Result<Vec<i32>> {
        let size = payload.size();
        let result = self.collect(peer, request, (payload.parts.len(), size), size, credentials).map(
            |(mut tx, seed, slots)| {
                self.commit(&mut tx, |_| payload);
                if seed != NONE {
                    self.discard_seed(peer);
                    if let Some(sender) = self.peers.get_mut(peer) {
                        sender.native().seed = Some(seed);
                    }
                }
                slots
            },
        );
        self.end(result)
    }

    /// `send`, without seed, of what lies in a file, to receivers whose pools are sealed: it is copied there at once.
    pub fn send_from(
        &mut self,
        peer: u64,
        request: &Request<'_>,
        from: &Stretch,
        credentials: &Arc<Credentials>,
    ) -> Result<Vec<i32>> {
        let result = self.copy_and_commit(peer, request, from, credentials);
        self.end(result)
    }

    fn copy_and_commit(
        &mut self,
        peer: u64,
        request: &Request<'_>,
        from: &Stretch,
        credentials: &Arc<Credentials>,
    ) -> Result<Vec<i32>> {
        if request.flags & SEND_SEED != 0 {
            return Err(Error::new(Kind::InvalidArgument, "a seed in a file"));
        }
        let lies_there = u32::try_from(from.size).unwrap_or(u32::MAX); // more is refused
        let (mut tx, _, slots) = self.collect(peer, request, (1, from.size), from.size, credentials)?;
        if let Err(error) = self.copy_in(&tx, from) {
            let n_fresh = tx.fresh.len() as u64;
            self.cancel(&mut tx);
            self.give(peer, HANDLES, n_fresh);
            return Err(error);
        }
        let payload = Payload { lies_there, ..Payload::default() };
        self.commit(&mut tx, |_| &payload);
        Ok(slots)
    }

    /// Whether anybody would get a message of `n_bytes`; fails where `send` would.
    pub fn rehearse(
        &mut self,
        peer: u64,
        request: &Request<'_>,
        n_bytes: u64,
        credentials: &Arc<Credentials>,
    ) -> Result<bool> {
        let result =
            self.collect(peer, request, (0, 0), n_bytes, credentials).map(|(mut tx, seed, slots)| {
                let n_fresh = tx.fresh.len() as u64;
                self.cancel(&mut tx);
                self.give(peer, HANDLES, n_fresh);
                seed != NONE || slots.contains(&0)
            });
        self.end(result)
    }

    /// All of `send` that may fail; of `n_bytes`, so many are `here`, in so many parts.
    fn collect<'a>(
        &mut self,
        peer: u64,
        request: &Request<'_>,
        (n_parts, here): (usize, u64),
        n_bytes: u64,
        credentials: &'a Arc<Credentials>,
    ) -> Result<Collected<'a>> {
        let sender = self.peer(peer)?;
        let flags = request.flags;
        let n = request.destinations.len() + request.optional.len();
        if flags > SEND_SEED || (flags == SEND_SEED && n != 0) {
            return Err(Error::new(Kind::InvalidArgument, format!("send flags {flags:#x}")));
        }
        check_counts(n_parts, request.fds.len())?;
        if n as u64 > self.ledger.users[sender.account.user].limits[HANDLES] {
            return Err(Error::new(Kind::InvalidArgument, format!("{n} destinations")));
        }
        check_size(here)?;
        let mut tx = self.begin(peer, request.fds, credentials)?;
        match self.collect_all(&mut tx, request, n_bytes) {
            Ok((seed, slots)) => Ok((tx, seed, slots)),
            Err(error) => {
                self.cancel(&mut tx);
                Err(error)
            }
        }
    }

    fn collect_all(
        &mut self,
        tx: &mut Transaction<'_>,
        request: &Request<'_>,
        n_bytes: u64,
    ) -> Result<(Key, Vec<i32>)> {
        let nodes = self.resolve_all(tx.sender, request.handles, &mut tx.fresh)?;
        let what = Outgoing { n_bytes, nodes: &nodes, with_fds: true, note: 0, payload: 0 };
        let mut seed = NONE;
        if request.flags == SEND_SEED {
            seed = self.stage_seed(tx, &what)?;
        }
        let mut slots = Vec::with_capacity(request.destinations.len() + request.optional.len());
        for &number in request.destinations {
            let result = self.collect_one(tx, number, &what);
            slots.push(tolerated(result, |kind| request.flags == SEND_CONTINUE && kind.is_remote())?);
        }
        for &number in request.optional {
            let result = self.collect_one(tx, number, &what);
            slots.push(tolerated(result, Kind::is_optional)?);
        }
        self.charge_fresh(tx)?;
        Ok((seed, slots))
    }

    fn collect_one(&mut self, tx: &mut Transaction<'_>, number: u64, what: &Outgoing<'_>) -> Result<()> {
        let node = self.resolve(tx.sender, number, &mut tx.fresh)?;
        if std::mem::replace(&mut self.nodes[node].mark, tx.mark) == tx.mark {
            return Err(Error::new(Kind::NotUnique, format!("destination {number:#x} twice")));
        }
        self.stage(tx, node, what)
    }

    /// One transaction to nodes, each with its own payload (privileged).
    pub fn route(
        &mut self,
        sender: u64,
        parcels: &[Parcel],
        fds: &[i32],
        credentials: &Arc<Credentials>,
    ) -> Result<Vec<i32>> {
        let result = self.route_all(sender, parcels, fds, credentials);
        self.end(result)
    }

    fn route_all(
        &mut self,
        sender: u64,
        parcels: &[Parcel],
        fds: &[i32],
        credentials: &Arc<Credentials>,
    ) -> Result<Vec<i32>> {
        check_counts(0, fds.len())?;
        let mut tx = self.begin(sender, fds, credentials)?;
        let mut slots = Vec::with_capacity(parcels.len());
        let mut result = Ok(());
        for (at, parcel) in parcels.iter().enumerate() {
            match self.route_one(&mut tx, at, parcel) {
                Ok(slot) => slots.push(slot),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        match result.and_then(|()| self.charge_fresh(&tx)) {
            Ok(()) => {
                self.commit(&mut tx, |at| &parcels[at].payload);
                Ok(slots)
            }
            Err(error) => {
                self.cancel(&mut tx);
                Err(error)
            }
        }
    }

    fn route_one(&mut self, tx: &mut Transaction<'_>, at: usize, parcel: &Parcel) -> Result<i32> {
        check_counts(parcel.payload.parts.len(), 0)?;
        let n_bytes = parcel.payload.size();
        check_size(n_bytes)?;
        let nodes = self.resolve_all(tx.sender, &parcel.handles, &mut tx.fresh)?;
        let what =
            Outgoing { n_bytes, nodes: &nodes, with_fds: parcel.with_fds, note: parcel.note, payload: at };
        let result = match self.node_at(parcel.node) {
            Some(node) => self.stage(tx, node, &what),
            None => Err(no_node(parcel.node)),
        };
        tolerated(result, |kind| !parcel.mandatory && kind.is_remote())
    }

    /// The node that its owner names so; it may be dead.
    pub(super) fn node_at(&self, (owner, number): (u64, u64)) -> Option<Key> {
        let peer = self.peers.get(owner)?;
        let node = self.handles[peer.handle_key(number)?].node;
        Some(node).filter(|node| self.nodes[*node].owner == owner)
    }

    /// The live node behind a handle of `peer`: (owner, its number there).
    pub fn node_of(&self, peer: u64, handle: u64) -> Result<Option<(u64, u64)>> {
        self.peer(peer)?;
        let found = self.handle_at(peer, handle).map(|(_, handle)| handle.node);
        let Some(node) = found.filter(|node| self.nodes[*node].died == NEVER) else {
            return Ok(None);
        };
        let owner = self.nodes[node].owner;
        Ok(self.number_of(owner, node).map(|number| (owner, number)))
    }
}

/// NodeDestroyed, for a node that is not there.
pub fn no_node((owner, number): (u64, u64)) -> Error {
    Error::new(Kind::NodeDestroyed, format!("no node ({owner}, {number})"))
}

fn tolerated(result: Result<()>, is_tolerated: impl Fn(Kind) -> bool) -> Result<i32> {
    match result {
        Ok(()) => Ok(0),
        Err(error) if is_tolerated(error.kind) => Ok(-error.errno()),
        Err(error) => Err(error),
    }
}
