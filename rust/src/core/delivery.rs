//! From the front of a queue to the peer.
//!
//! Theory. The twin of `bus1/core/delivery.py`, where the turning of in-flight references into user references, PEEK,
//! the seed and what follows the payload in a pool that the peer reads are told.
//!
//! Invariants. 1. What may fail (ERANGE, EDQUOT of PEEK) comes before any effect.
//!
//! Not here: the layout's size (`transaction`).

use bytes::Bytes;

use super::account::HANDLES;
use super::api::{
    CONTINUE, HANDLE_INVALID, HAS_SECCTX, INSTALL_FDS, Look, Message, OFFSET_INVALID, PEEK, Payload, SEED,
};
use super::error::{Error, Kind, Result};
use super::queue::{Body, Entry, Instance};
use super::{Core, Key, Memory, NEVER, NONE, context_of};

const NOBODY: i64 = 0xFFFF_FFFF;

/// What a reception takes out of the entry before it changes anything.
struct Front {
    stamp: u64,
    node: Key,
    n_bytes: u64,
    offset: u32,
    size: u32,
    slice: Key,
    nodes: Box<[Key]>,
    fds: Key,
    secctx: Option<Bytes>,
    who: (i64, i64, i64, i64),
}

impl Core {
    /// The next message, or the seed (§5): WouldBlock if there is none.
    pub fn recv(&mut self, peer: u64, flags: u64, max_offset: u64) -> Result<Message> {
        let result = self.receive(peer, flags, max_offset);
        self.end(result)
    }

    fn receive(&mut self, number: u64, flags: u64, max_offset: u64) -> Result<Message> {
        let peer = self.peer(number)?;
        if flags & !(PEEK | SEED | INSTALL_FDS) != 0 {
            return Err(Error::new(Kind::InvalidArgument, format!("receive flags {flags:#x}")));
        }
        let is_seed = flags & SEED != 0;
        let found = if is_seed { Some(peer.seed()).filter(|key| *key != NONE) } else { peer.queue.front() };
        let Some(key) = found else {
            let what = if is_seed { "no seed" } else { "nothing queued" };
            return Err(Error::new(Kind::WouldBlock, what));
        };
        let entry = &self.entries[key];
        let follows = !is_seed && self.behind(key).is_some_and(|next| next.stamp == entry.stamp);
        let bits = if follows { CONTINUE } else { 0 };
        match &entry.body {
            Body::Notice(_) => Ok(self.receive_notice(number, key, flags, bits)),
            Body::Data(instance) => {
                let front = self.front_of(number, entry, instance);
                self.receive_data(number, key, &front, flags, bits, max_offset)
            }
        }
    }

    fn front_of(&self, number: u64, entry: &Entry, instance: &Instance) -> Front {
        let slice = &self.slices[instance.slice];
        let who = &instance.credentials;
        let view = self.peers.get(number).and_then(|peer| peer.view());
        Front {
            stamp: entry.stamp,
            node: entry.node,
            n_bytes: instance.n_bytes,
            offset: slice.offset,
            size: slice.size,
            slice: instance.slice,
            nodes: instance.nodes.clone(),
            fds: instance.fds,
            secctx: context_of(who, instance.wants_context).cloned(),
            who: view.map_or((who.uid, who.gid, who.pid, who.tid), |view| view.of(who)),
        }
    }

    fn receive_data(
        &mut self,
        number: u64,
        key: Key,
        front: &Front,
        flags: u64,
        mut bits: u32,
        max_offset: u64,
    ) -> Result<Message> {
        let end = u64::from(front.offset) + u64::from(front.size);
        if end > max_offset {
            return Err(Error::new(Kind::OutOfRange, format!("the message ends at {end}")));
        }
        let handles =
            if front.nodes.is_empty() { Vec::new() } else { self.install_handles(number, front, flags)? };
        let fds = match self.descriptors.get(front.fds) {
            Some(descriptors) if flags & INSTALL_FDS != 0 => descriptors.numbers.to_vec(),
            _ => Vec::new(),
        };
        if let Some(peer) = self.peers.get_mut(number) {
            peer.pool.publish(front.slice, &mut self.slices[front.slice]);
            if !peer.pool.shares_buffers {
                self.write_tail(number, front, &handles, fds.len());
            }
        }
        let serial = self.slices[front.slice].serial;
        let destination = match front.node {
            NONE => HANDLE_INVALID,
            node => self.number_of(number, node).unwrap_or(HANDLE_INVALID),
        };
        if front.secctx.is_some() {
            bits |= HAS_SECCTX;
        }
        if flags & PEEK == 0 {
            let kept = handles.iter().filter(|handle| **handle != HANDLE_INVALID).count();
            self.take_message(number, key, kept);
        }
        let (uid, gid, pid, tid) = front.who;
        Ok(Message {
            kind: super::MessageType::Data,
            flags: bits,
            destination,
            uid,
            gid,
            pid,
            tid,
            offset: u64::from(front.offset),
            n_bytes: front.n_bytes,
            handles,
            fds,
            secctx: front.secctx.clone(),
            size: u64::from(front.size),
            serial,
        })
    }

    fn receive_notice(&mut self, number: u64, key: Key, flags: u64, bits: u32) -> Message {
        let entry = &self.entries[key];
        let kind = entry.kind();
        let destination = self.number_of(number, entry.node).unwrap_or(HANDLE_INVALID);
        if flags & PEEK == 0 {
            self.take_notice(number, key);
        }
        Message {
            kind,
            flags: bits,
            destination,
            uid: NOBODY,
            gid: NOBODY,
            pid: 0,
            tid: 0,
            offset: OFFSET_INVALID,
            n_bytes: 0,
            handles: Vec::new(),
            fds: Vec::new(),
            secctx: None,
            size: 0,
            serial: 0,
        }
    }

    /// The message is delivered; its node stays named until here.
    fn take_message(&mut self, number: u64, key: Key, kept: usize) {
        let is_seed = self.entries[key].node == NONE;
        if is_seed {
            if let Some(peer) = self.peers.get_mut(number) {
                peer.native().seed = None;
            }
        } else {
            self.unlink(number, key);
        }
        let Entry { node, body, .. } = self.entries.remove(key);
        if let Body::Data(instance) = body {
            if !is_seed {
                self.unaddress(node, instance.above, instance.below);
            }
            self.settle(number, &instance, kept);
            for &carried in &instance.nodes {
                self.unname(carried);
            }
        }
    }

    /// Ids for the handle array, each with one more user reference; QuotaExceeded for PEEK alone.
    fn install_handles(&mut self, number: u64, front: &Front, flags: u64) -> Result<Vec<u64>> {
        let is_seed = front.node == NONE;
        self.sequencer.effort += front.nodes.len() as u64;
        let is_valid = |core: &Core, node: Key| {
            let node = &core.nodes[node];
            if is_seed {
                return node.died == NEVER;
            }
            front.stamp < node.died && (node.owner != number || node.handle_of(number).is_some())
        };
        let valid: Vec<bool> = front.nodes.iter().map(|node| is_valid(self, *node)).collect();
        if flags & PEEK != 0 {
            let n = valid.iter().filter(|is_valid| **is_valid).count();
            self.purse(number)?.take(HANDLES, n as u64)?;
        }
        let mut ids = Vec::with_capacity(valid.len());
        for (&node, &is_valid) in front.nodes.iter().zip(&valid) {
            if flags & PEEK != 0 {
                if is_valid {
                    self.rise(node);
                }
            } else if front.stamp < self.nodes[node].died {
                if !is_seed {
                    self.arrive(node, number);
                }
                if !is_valid {
                    self.fall(node, 1);
                }
            }
            ids.push(if is_valid { self.hold(number, node) } else { HANDLE_INVALID });
        }
        Ok(ids)
    }

    fn write_tail(&mut self, number: u64, front: &Front, handles: &[u64], n_fds: usize) {
        let start = front.n_bytes.saturating_add(7) & !7;
        let room = u64::from(front.size).saturating_sub(start) as usize;
        let label = front.secctx.as_deref().unwrap_or_default();
        let is_bare = start == 0 && room <= 8 && handles.is_empty() && label.is_empty();
        if room == 0 || is_bare {
            return;
        }
        let mut tail = Vec::with_capacity(room);
        for handle in handles {
            tail.extend_from_slice(&handle.to_le_bytes());
        }
        tail.resize(tail.len() + ((4 * n_fds + 7) & !7), 0);
        tail.extend_from_slice(label);
        if tail.len() < room {
            tail.resize(room, 0);
        }
        let generation = self.slices[front.slice].generation;
        let mut payload = Payload::default();
        payload.parts.push(Bytes::from(tail));
        if let Some(peer) = self.peers.get_mut(number) {
            let at = front.offset + start as u32;
            self.mishap.note(peer.pool.memory.write(generation, at, payload, 0).map(|_| ()));
        }
    }

    // ---- looks -----------------------------------------------------------------------------------

    /// Entries from the front of the queue, without effect; none for a peer that is gone.
    pub fn look_ahead(&self, peer: u64) -> impl Iterator<Item = Look<'_>> {
        self.queued_keys(peer).map(move |key| self.look(peer, key))
    }

    /// The seed, without effect.
    pub fn seed_ahead(&self, peer: u64) -> Result<Option<Look<'_>>> {
        let seed = self.peer(peer)?.seed();
        Ok(Some(seed).filter(|key| *key != NONE).map(|key| self.look(peer, key)))
    }

    fn look(&self, number: u64, key: Key) -> Look<'_> {
        let entry = &self.entries[key];
        let destination = match entry.node {
            NONE => HANDLE_INVALID,
            node => self.number_of(number, node).unwrap_or(HANDLE_INVALID),
        };
        let mut look = Look {
            kind: entry.kind(),
            destination,
            sender: 0,
            offset: OFFSET_INVALID,
            n_bytes: 0,
            size: 0,
            n_handles: 0,
            fds: &[],
            parts: &[],
            origin: None,
            note: 0,
            stamp: entry.stamp,
        };
        if let Body::Data(instance) = &entry.body {
            let slice = &self.slices[instance.slice];
            look.sender = instance.sender;
            look.offset = u64::from(slice.offset);
            look.n_bytes = instance.n_bytes as usize;
            look.size = u64::from(slice.size);
            look.n_handles = instance.nodes.len();
            look.fds = self.descriptors.get(instance.fds).map_or(&[], |found| &found.numbers);
            look.parts = &slice.payload.parts;
            look.origin = slice.payload.origin.as_ref();
            look.note = instance.note;
        }
        look
    }

    /// What a foreign memory shows of a slice; None if the memory of the peer is not foreign.
    pub fn foreign_payload(&self, peer: u64, offset: u64) -> Option<Result<Payload>> {
        match &self.peers.get(peer)?.pool.memory {
            Memory::Foreign(memory) => Some(memory.read(u32::try_from(offset).ok()?)),
            _ => None,
        }
    }
}
