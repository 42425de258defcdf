//! Messages on their way into queues, all or none.
//!
//! Theory. The twin of `bus1/core/transaction.py`. Collecting may fail: ids are resolved, new nodes made up, and
//! for every destination the charge is taken and the slice allocated, one after the other. `cancel` undoes that
//! in reverse order. `commit` cannot fail.
//!
//! Invariants. 1. After `cancel` nothing is left (E-3, T-50). 2. Descriptors that no message took are freed by
//! `commit` (the call owns them), and untouched by `cancel`.
//!
//! Not here: which failure is tolerated (`messages`).

use std::sync::Arc;

use super::account::HANDLES;
use super::api::{Credentials, FD_MAX, PAYLOAD_MAX, Payload, Stretch, VEC_MAX, WANT_SECCTX};
use super::error::{Error, Kind, Result};
use super::hashing::KeyedMap;
use super::objects::may_name_node;
use super::queue::{Body, Descriptors, Entry, Instance};
use super::{Core, Key, NEVER, NONE};

/// A message that is charged and has its slice.
struct Staged {
    reader: u64,
    entry: Key,
    payload: usize,
}

/// New nodes of a command, by the numbers that they will have.
#[derive(Default)]
pub struct Fresh {
    list: Vec<(u64, Key)>,
    by_number: KeyedMap<Key>,
}

impl Fresh {
    /// How many.
    pub fn len(&self) -> usize {
        self.list.len()
    }
}

/// One event with any number of messages, collected on behalf of `sender`.
pub struct Transaction<'a> {
    pub sender: u64,
    uid: i64,
    credentials: &'a Arc<Credentials>,
    context: u64,
    descriptors: Key,
    n_fds: usize,
    staged: Vec<Staged>,
    pub fresh: Fresh,
    /// Marks the nodes that are destinations.
    pub mark: u64,
}

/// One message to be staged.
pub struct Outgoing<'a> {
    pub n_bytes: u64,
    pub nodes: &'a [Key],
    pub with_fds: bool,
    pub note: u64,
    /// Which payload `commit` is to write.
    pub payload: usize,
}

/// TooLarge beyond VEC_MAX parts or FD_MAX descriptors (T-11, T-31).
pub fn check_counts(n_parts: usize, n_fds: usize) -> Result<()> {
    if n_parts > VEC_MAX || n_fds > FD_MAX {
        return Err(Error::new(Kind::TooLarge, format!("{n_parts} parts, {n_fds} descriptors")));
    }
    Ok(())
}

/// TooLarge beyond 2 GiB - 4 KiB (T-11).
pub fn check_size(n_bytes: u64) -> Result<()> {
    if n_bytes > PAYLOAD_MAX {
        return Err(Error::new(Kind::TooLarge, format!("{n_bytes} bytes")));
    }
    Ok(())
}

/// As it lies in a pool.
pub fn aligned(n: u64) -> u64 {
    n.saturating_add(7) & !7
}

impl Core {
    /// Begin a transaction; the sender exists.
    pub(super) fn begin<'a>(
        &mut self,
        sender: u64,
        fds: &[i32],
        credentials: &'a Arc<Credentials>,
    ) -> Result<Transaction<'a>> {
        let uid = self.ledger.users[self.peer(sender)?.account.user].uid;
        let descriptors = if fds.is_empty() {
            NONE
        } else {
            self.descriptors.insert(Descriptors { numbers: fds.into(), carriers: 0 })
        };
        Ok(Transaction {
            sender,
            uid,
            credentials,
            context: credentials.secctx.as_ref().map_or(0, |label| aligned(label.len() as u64)),
            descriptors,
            n_fds: fds.len(),
            staged: Vec::new(),
            fresh: Fresh::default(),
            mark: self.sequencer.next_order(),
        })
    }

    /// The node that `peer` names `number`; an unused legal number is a new node in `fresh` (H-21).
    pub(super) fn resolve(&mut self, peer: u64, number: u64, fresh: &mut Fresh) -> Result<Key> {
        if let Some((_, handle)) = self.handle_at(peer, number) {
            return Ok(handle.node);
        }
        if let Some(node) = fresh.by_number.get(&number) {
            return Ok(*node);
        }
        if !may_name_node(number) {
            return Err(Error::new(Kind::NoSuchHandle, format!("no handle {number:#x}")));
        }
        let node = self.make_node(peer);
        fresh.list.push((number, node));
        fresh.by_number.insert(number, node);
        Ok(node)
    }

    /// Several of them.
    pub(super) fn resolve_all(&mut self, peer: u64, numbers: &[u64], fresh: &mut Fresh) -> Result<Vec<Key>> {
        let mut nodes = Vec::with_capacity(numbers.len());
        for &number in numbers {
            nodes.push(self.resolve(peer, number, fresh)?);
        }
        Ok(nodes)
    }

    /// Charge and allocate a message to `node`; an error leaves the other ones staged.
    pub(super) fn stage(&mut self, tx: &mut Transaction<'_>, node: Key, what: &Outgoing<'_>) -> Result<()> {
        if self.nodes[node].died != NEVER {
            return Err(Error::new(Kind::NodeDestroyed, "the destination is destroyed"));
        }
        let reader = self.nodes[node].owner;
        let entry = self.place(tx, reader, node, tx.sender, what)?;
        tx.staged.push(Staged { reader, entry, payload: what.payload });
        Ok(())
    }

    /// Charge and allocate the sender's seed (S-3); its entry.
    pub(super) fn stage_seed(&mut self, tx: &mut Transaction<'_>, what: &Outgoing<'_>) -> Result<Key> {
        let reader = tx.sender;
        let entry = self.place(tx, reader, NONE, super::account::SEED_SENDER, what)?;
        tx.staged.push(Staged { reader, entry, payload: what.payload });
        Ok(entry)
    }

    /// Charge the sender for the nodes that it creates: the last step that may fail (T-2).
    pub(super) fn charge_fresh(&mut self, tx: &Transaction<'_>) -> Result<()> {
        self.purse(tx.sender)?.take(HANDLES, tx.fresh.len() as u64)
    }

    /// A message in no queue yet: its entry.
    pub(super) fn place(
        &mut self,
        tx: &Transaction<'_>,
        reader: u64,
        node: Key,
        sender: u64,
        what: &Outgoing<'_>,
    ) -> Result<Key> {
        let fds = if what.with_fds { tx.descriptors } else { NONE };
        let n_fds = if fds == NONE { 0 } else { tx.n_fds };
        let beside = 8 * what.nodes.len() as u64 + tx.context;
        let mut size = aligned(what.n_bytes).saturating_add(beside);
        if fds != NONE {
            size = size.saturating_add(aligned(4 * n_fds as u64));
        }
        let size = size.max(8);
        let peer = self.peers.get_mut(reader).ok_or_else(|| super::gone(reader))?;
        let mut purse =
            super::Purse { user: &mut self.ledger.users[peer.account.user], account: &mut peer.account };
        let charge = purse.charge(sender, tx.uid, what.nodes.len(), size, n_fds)?;
        let slice = match peer.pool.allocate(size, charge.size, &mut self.slices, &mut self.mishap) {
            Ok(slice) => slice,
            Err(error) => {
                purse.cancel(&charge, &mut self.sequencer);
                return Err(error);
            }
        };
        if let Some(descriptors) = self.descriptors.get_mut(fds) {
            descriptors.carriers += 1;
        }
        let instance = Instance {
            sender,
            credentials: Arc::clone(tx.credentials),
            wants_context: peer.flags() & WANT_SECCTX != 0,
            n_bytes: what.n_bytes,
            nodes: what.nodes.into(),
            fds,
            charge,
            slice,
            note: what.note,
            above: NONE,
            below: NONE,
        };
        Ok(self.entries.insert(Entry::new(node, 0, Body::Data(instance))))
    }

    /// Copy a payload to where what is staged will be received; an error leaves all staged.
    pub(super) fn copy_in(&mut self, tx: &Transaction<'_>, from: &Stretch) -> Result<()> {
        for staged in &tx.staged {
            if let Body::Data(instance) = &self.entries[staged.entry].body
                && let Some(peer) = self.peers.get_mut(staged.reader)
            {
                let slice = &self.slices[instance.slice];
                peer.pool.memory.copy_in(slice.generation, slice.offset, from)?;
            }
        }
        Ok(())
    }

    /// Undo everything that was staged.
    pub(super) fn cancel(&mut self, tx: &mut Transaction<'_>) {
        for Staged { reader, entry, .. } in std::mem::take(&mut tx.staged).into_iter().rev() {
            if let Body::Data(instance) = self.entries.remove(entry).body {
                self.with_pool(reader, |pool, around| {
                    pool.cancel(instance.slice, around.slices, around.mishap);
                    around.purse.cancel(&instance.charge, around.sequencer);
                });
            }
        }
        self.descriptors.try_remove(tx.descriptors);
        self.unmake(&mut tx.fresh);
    }

    /// Nodes that were made up never were.
    pub(super) fn unmake(&mut self, fresh: &mut Fresh) {
        for (_, node) in std::mem::take(&mut fresh.list) {
            self.unname(node);
        }
    }

    /// New nodes come into being (H-22).
    pub(super) fn own_all(&mut self, peer: u64, fresh: &mut Fresh) {
        for (number, node) in std::mem::take(&mut fresh.list) {
            self.own(peer, node, number);
            self.unname(node);
        }
    }

    /// Apply; cannot fail.
    pub(super) fn commit<'b>(&mut self, tx: &mut Transaction<'_>, payload: impl Fn(usize) -> &'b Payload) {
        let stamp = self.sequencer.draw();
        self.own_all(tx.sender, &mut tx.fresh);
        for staged in std::mem::take(&mut tx.staged) {
            self.commit_one(staged.reader, staged.entry, stamp, payload(staged.payload).clone());
        }
        if let Some(descriptors) = self.descriptors.get(tx.descriptors)
            && descriptors.carriers == 0
        {
            self.drop_descriptors(tx.descriptors);
        }
    }

    /// One message is written and queued; or becomes a seed, which the caller remembers.
    pub(super) fn commit_one(&mut self, reader: u64, key: Key, stamp: u64, payload: Payload) {
        let entry = &mut self.entries[key];
        entry.stamp = stamp;
        let is_seed = entry.node == NONE;
        let Body::Data(instance) = &entry.body else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(reader) {
            let slice = &mut self.slices[instance.slice];
            peer.pool.fill(slice, payload, instance.n_bytes, &mut self.mishap);
        }
        if !instance.nodes.is_empty() {
            let nodes = instance.nodes.clone();
            for &node in &nodes {
                self.nodes[node].named += 1;
                if self.nodes[node].died == NEVER {
                    if is_seed {
                        self.rise(node);
                    } else {
                        self.carry(node, reader);
                    }
                }
            }
        }
        if !is_seed {
            self.address(key);
            self.append(reader, key);
        }
    }
}
