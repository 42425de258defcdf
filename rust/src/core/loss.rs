//! Messages that are lost: those to nodes that were let go, a seed that is replaced, all of a peer that is flushed.
//!
//! Theory. The rest of the twin of `bus1/core/objects.py`. What a lost message carried falls, its charge, its slice
//! and its descriptors go, in the order in which Python does that.
//!
//! Invariants. 1. A flush keeps the seed and its own nodes, and nothing else (S-12 … S-14).
//!
//! Not here: references (`objects`).

use std::collections::HashSet;

use super::error::Result;
use super::hashing::ByCount;
use super::queue::{Body, Entry, Instance};
use super::{Core, Key, NEVER, NONE};

/// Keys of nodes.
pub type NodeSet = HashSet<u64, ByCount>;

impl Core {
    /// Drop the queued messages to own dead nodes that were let go (H-33).
    pub(super) fn forsake(&mut self, peer: u64, nodes: &[Key]) {
        let mut lost: Vec<(u64, Key)> = Vec::new();
        for &node in nodes {
            let mut key = self.nodes[node].first;
            while let Some(entry) = self.entries.get(key) {
                lost.push((entry.stamp, key));
                key = match &entry.body {
                    Body::Data(instance) => instance.below,
                    Body::Notice(_) => NONE,
                };
            }
        }
        lost.sort_by_key(|entry| entry.0);
        for (_, key) in lost {
            self.unlink(peer, key);
            self.discard(peer, key);
        }
    }

    /// An undelivered message, already out of the queue, is gone for good.
    pub(super) fn discard(&mut self, peer: u64, key: Key) {
        let Entry { stamp, node, body, .. } = self.entries.remove(key);
        let Body::Data(instance) = body else {
            self.sequencer.fail("a notification was discarded");
            return;
        };
        self.sequencer.effort += 1 + instance.nodes.len() as u64;
        if node != NONE {
            self.unaddress(node, instance.above, instance.below);
        }
        for &carried in &instance.nodes {
            if stamp < self.nodes[carried].died {
                self.arrive(carried, peer);
                self.fall(carried, 1);
                if self.nodes[carried].died != NEVER {
                    self.withdraw_notice(carried, peer);
                }
            }
        }
        self.settle(peer, &instance, 0);
        for &carried in &instance.nodes {
            self.unname(carried);
        }
    }

    /// Drop the seed, if there is one (S-11).
    pub(super) fn discard_seed(&mut self, peer: u64) {
        let seed =
            self.peers.get_mut(peer).and_then(|peer| peer.natives.as_mut()?.seed.take()).unwrap_or(NONE);
        if seed == NONE {
            return;
        }
        let Entry { stamp, body, .. } = self.entries.remove(seed);
        if let Body::Data(instance) = body {
            self.sequencer.effort += instance.nodes.len() as u64;
            for &node in &instance.nodes {
                if stamp < self.nodes[node].died {
                    self.fall(node, 1);
                }
            }
            self.settle(peer, &instance, 0);
            for &node in &instance.nodes {
                self.unname(node);
            }
        }
    }

    /// The message is undelivered no more: its charge, its slice and its descriptors go.
    pub(super) fn settle(&mut self, peer: u64, instance: &Instance, kept: usize) {
        self.with_pool(peer, |pool, around| {
            around.purse.settle(&instance.charge, kept, around.sequencer);
            pool.unpin(instance.slice, around);
        });
        self.drop_descriptors(instance.fds);
    }

    /// One message less carries them.
    pub(super) fn drop_descriptors(&mut self, key: Key) {
        let Some(descriptors) = self.descriptors.get_mut(key) else {
            return;
        };
        descriptors.carriers = descriptors.carriers.saturating_sub(1);
        if descriptors.carriers == 0 {
            let numbers = self.descriptors.remove(key).numbers;
            self.sequencer.freed.extend_from_slice(&numbers);
        }
    }

    /// P-34, P-35: everything but the seed and its own nodes, which are `protected` (S-12 … S-14).
    pub(super) fn flush(&mut self, peer: u64, protected: &NodeSet) -> Result<()> {
        let mut handles: Vec<(u64, Key)> = {
            let keys = self.peer(peer)?.handle_keys();
            keys.map(|key| (self.handles[key].order, key)).collect()
        };
        handles.sort_unstable();
        let is_kept =
            |core: &Core, node: Key| core.nodes[node].died == NEVER && protected.contains(&(node as u64));
        let own: Vec<Key> = handles
            .iter()
            .map(|(_, key)| self.handles[*key].node)
            .filter(|node| self.nodes[*node].owner == peer && self.nodes[*node].died == NEVER)
            .filter(|node| !is_kept(self, *node))
            .collect();
        let stamp = self.sequencer.draw();
        self.destroy(&own, stamp);
        let entries = self.clear_queue(peer);
        self.sequencer.effort += (handles.len() + entries.len()) as u64;
        let mut messages = Vec::new();
        for key in entries {
            if let Body::Data(_) = self.entries[key].body {
                messages.push(key);
                continue;
            }
            let node = self.entries.remove(key).node;
            self.nodes[node].forget_notice(peer);
            if self.nodes[node].release == key {
                self.nodes[node].release = NONE;
            }
            self.unname(node);
        }
        for (_, key) in handles {
            let kept = u64::from(is_kept(self, self.handles[key].node));
            let references = self.handles[key].references;
            if references > kept {
                self.release(peer, key, references - kept);
            }
        }
        for key in messages {
            self.discard(peer, key);
        }
        self.with_pool(peer, |pool, around| pool.unpublish(around));
        Ok(())
    }
}
