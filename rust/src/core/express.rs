//! The lanes' way through Core: one message to the root of a hosted peer, and out of its queue again.
//!
//! Theory. What `route`, and `recv` with `slice_release`, do with a message without handles, in fewer steps. The
//! effects are the same to the last counter.
//!
//! Invariants. 1. Whatever is done here can be undone by nobody else, and told from `route` by nobody.
//!
//! Not here: messages with handles, notifications (`messages`, `delivery`).

use std::sync::Arc;

use super::api::{Credentials, Parts, Payload};
use super::error::{Error, Kind, Result};
use super::messages::no_node;
use super::queue::{Body, Entry};
use super::transaction::{Outgoing, Transaction, check_counts, check_size};
use super::{Core, Key, NEVER, NO_LIMIT};

impl Core {
    /// One message to the root node of a hosted peer, no handles; takes `fds` on success.
    pub fn deliver(
        &mut self,
        sender: u64,
        reader: u64,
        parts: &Parts,
        n_bytes: usize,
        fds: &[i32],
        credentials: &Arc<Credentials>,
    ) -> Result<()> {
        let result = self.deliver_one(sender, reader, parts, n_bytes, fds, credentials);
        self.end(result)
    }

    fn deliver_one(
        &mut self,
        sender: u64,
        reader: u64,
        parts: &Parts,
        n_bytes: usize,
        fds: &[i32],
        credentials: &Arc<Credentials>,
    ) -> Result<()> {
        check_counts(0, fds.len())?;
        let mut tx = self.begin(sender, fds, credentials)?;
        let what = outgoing(n_bytes, !fds.is_empty());
        let checked = check_counts(parts.len(), 0).and_then(|()| check_size(what.n_bytes));
        match checked.and_then(|()| self.place_at_root(&tx, reader, &what)) {
            Ok(entry) => {
                let stamp = self.sequencer.draw();
                self.commit_one(reader, entry, stamp, Payload::from(parts.clone()));
                Ok(())
            }
            Err(error) => {
                self.cancel(&mut tx);
                Err(error)
            }
        }
    }

    /// The same message to many roots, all optional, one transaction; slots 0 or -errno go into `slots`.
    pub fn deliver_to_all(
        &mut self,
        sender: u64,
        readers: &[u64],
        parts: &Parts,
        n_bytes: usize,
        credentials: &Arc<Credentials>,
        slots: &mut Vec<i32>,
    ) -> Result<()> {
        let result = self.deliver_many(sender, readers, parts, n_bytes, credentials, slots);
        self.end(result)
    }

    fn deliver_many(
        &mut self,
        sender: u64,
        readers: &[u64],
        parts: &Parts,
        n_bytes: usize,
        credentials: &Arc<Credentials>,
        slots: &mut Vec<i32>,
    ) -> Result<()> {
        let mut tx = self.begin(sender, &[], credentials)?;
        if !readers.is_empty() {
            check_counts(parts.len(), 0)?;
            check_size(n_bytes as u64)?;
        }
        let what = outgoing(n_bytes, false);
        let before = slots.len();
        for &reader in readers {
            let result = match self.root_of(reader) {
                Some(node) => self.stage(&mut tx, node, &what),
                None => Err(no_node((reader, 0))),
            };
            match result {
                Ok(()) => slots.push(0),
                Err(error) if error.kind.is_remote() => slots.push(-error.errno()),
                Err(error) => {
                    slots.truncate(before);
                    self.cancel(&mut tx);
                    return Err(error);
                }
            }
        }
        let payload = Payload::from(parts.clone());
        self.commit(&mut tx, |_| &payload);
        Ok(())
    }

    fn root_of(&self, reader: u64) -> Option<Key> {
        // another's node can be named 0 by nobody
        self.peers.get(reader)?.handle_key(0).map(|root| self.handles[root].node)
    }

    pub(super) fn place_at_root(
        &mut self,
        tx: &Transaction<'_>,
        reader: u64,
        what: &Outgoing<'_>,
    ) -> Result<Key> {
        let node = self.root_of(reader).ok_or_else(|| no_node((reader, 0)))?;
        if self.nodes[node].died != NEVER {
            return Err(Error::new(Kind::NodeDestroyed, "the destination is destroyed"));
        }
        self.place(tx, reader, node, tx.sender, what)
    }

    /// `recv` and `slice_release` of what is at the front of the queue.
    pub fn take_front(&mut self, peer: u64) -> Result<()> {
        let front = self.peer(peer)?.queue.front();
        let is_plain = front.is_some_and(|key| match &self.entries[key].body {
            Body::Data(instance) => instance.nodes.is_empty() && !self.slices[instance.slice].published,
            Body::Notice(_) => false,
        });
        let shares_buffers = self.peer(peer)?.pool.shares_buffers;
        match front {
            Some(key) if is_plain && shares_buffers => {
                self.unlink(peer, key);
                let Entry { node, body, .. } = self.entries.remove(key);
                if let Body::Data(instance) = body {
                    self.unaddress(node, instance.above, instance.below);
                    self.with_pool(peer, |pool, around| {
                        around.purse.settle(&instance.charge, 0, around.sequencer);
                        pool.serial += 1;
                        pool.expose(around.slices[instance.slice].generation);
                        pool.free(instance.slice, true, around);
                    });
                    self.drop_descriptors(instance.fds);
                }
                self.end(Ok(()))
            }
            _ => {
                let message = self.recv(peer, 0, NO_LIMIT)?;
                if message.size == 0 {
                    return Ok(());
                }
                self.slice_release(peer, message.offset, message.serial, true)
            }
        }
    }
}

/// What `place` is to know of a message without handles.
pub(super) fn outgoing<'a>(n_bytes: usize, with_fds: bool) -> Outgoing<'a> {
    Outgoing { n_bytes: n_bytes as u64, nodes: &[], with_fds, note: 0, payload: 0 }
}
