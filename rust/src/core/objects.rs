//! Nodes and handles, and how references keep them.
//!
//! Theory. The twin of `bus1/core/objects.py`, where U(node), NODE_RELEASE, NODE_DESTROY and the validity of what a
//! message carries are told. A handle lies in a table and is listed with its node, by peer, and with its
//! peer, by number. `Node::named` counts the handles, notices and messages that name a node: with the last
//! one it goes.
//!
//! Invariants. 1. A live node's owner holds it. 2. At most one NODE_RELEASE per node and one NODE_DESTROY per node
//! and peer is queued (N-6, N-13). 3. A handle exists iff it has references. 4. No message addressed to a
//! node is queued once its owner has let the dead node go (H-33).
//!
//! Not here: charges of messages (`account`), messages that are lost (`loss`), commands (`commands`).

use smallvec::SmallVec;

use super::account::HANDLES;
use super::api::{HANDLE_INVALID, MANAGED, MessageType, REMOTE};
use super::queue::{Body, Entry};
use super::{Core, Key, NEVER, NONE};

/// The references of one peer to one node.
#[derive(Default)]
pub struct Handle {
    pub number: u64,
    pub references: u64,
    /// Handles are listed as they came to be.
    pub order: u64,
    pub node: Key,
}

/// How many undelivered messages to one receiver carry a node.
pub struct Carrier {
    pub peer: u64,
    pub count: u64,
    pub order: u64,
}

/// What others than its owner have to do with a node.
#[derive(Default)]
pub struct Others {
    /// Those that hold it, by peer.
    pub holders: SmallVec<[(u64, Key); 1]>,
    /// By peer; of messages older than the destruction.
    pub carriers: SmallVec<[Carrier; 1]>,
    /// Every NODE_DESTROY that is queued, by peer, the owner's too.
    pub notices: SmallVec<[(u64, Key); 1]>,
}

/// What can be addressed; `died` is the stamp of its destruction.
pub struct Node {
    pub owner: u64,
    pub died: u64,
    /// U(node).
    pub uses: u64,
    /// Who names it.
    pub named: u64,
    /// The latest transaction that is addressed to it.
    pub mark: u64,
    others: Option<Box<Others>>,
    /// The owner's handle.
    own: Key,
    /// A NODE_RELEASE that is queued.
    pub release: Key,
    /// The queued messages to this node.
    pub first: Key,
    pub last: Key,
}

impl Default for Node {
    /// None, which refers to nothing.
    fn default() -> Self {
        Node {
            owner: 0,
            died: 0,
            uses: 0,
            named: 0,
            mark: 0,
            others: None,
            own: NONE,
            release: NONE,
            first: NONE,
            last: NONE,
        }
    }
}

impl Node {
    fn new(owner: u64) -> Self {
        Node { owner, died: NEVER, uses: 1, ..Node::default() }
    }

    /// Those to whom messages on their way carry it, by peer.
    pub fn carriers(&self) -> &[Carrier] {
        self.others.as_ref().map_or(&[], |others| &others.carriers)
    }

    fn others_mut(&mut self) -> &mut Others {
        self.others.get_or_insert_default()
    }

    /// Key of the handle of a peer.
    pub fn handle_of(&self, peer: u64) -> Option<Key> {
        if peer == self.owner {
            return Some(self.own).filter(|key| *key != NONE);
        }
        let holders = &self.others.as_ref()?.holders;
        let at = holders.binary_search_by_key(&peer, |holder| holder.0).ok()?;
        Some(holders[at].1)
    }

    /// All that hold it, with the keys of their handles.
    pub fn holders(&self) -> impl Iterator<Item = (u64, Key)> + '_ {
        let own = Some((self.owner, self.own)).filter(|own| own.1 != NONE);
        own.into_iter().chain(self.others.iter().flat_map(|others| others.holders.iter().copied()))
    }

    fn hold(&mut self, peer: u64, key: Key) {
        if peer == self.owner {
            self.own = key;
            return;
        }
        let holders = &mut self.others_mut().holders;
        let at = holders.partition_point(|holder| holder.0 < peer);
        holders.insert(at, (peer, key));
    }

    fn let_go(&mut self, peer: u64) {
        if peer == self.owner {
            self.own = NONE;
        } else if let Some(others) = &mut self.others
            && let Ok(at) = others.holders.binary_search_by_key(&peer, |holder| holder.0)
        {
            others.holders.remove(at);
        }
    }

    /// Remove the notice to a peer from the list; its key.
    pub fn forget_notice(&mut self, peer: u64) -> Option<Key> {
        let notices = &mut self.others.as_mut()?.notices;
        let at = notices.binary_search_by_key(&peer, |notice| notice.0).ok()?;
        Some(notices.remove(at).1)
    }

    fn carrier_of(&self, peer: u64) -> std::result::Result<usize, usize> {
        self.carriers().binary_search_by_key(&peer, |carrier| carrier.peer)
    }
}

/// Whether a peer may choose `number` for a new node (H-13).
pub fn may_name_node(number: u64) -> bool {
    number & (MANAGED | REMOTE) == 0 && number != HANDLE_INVALID
}

impl Core {
    /// A node that nobody holds yet, named once by who makes it.
    pub(super) fn make_node(&mut self, owner: u64) -> Key {
        let mut node = Node::new(owner);
        node.named = 1;
        self.nodes.insert(node)
    }

    /// One name less.
    pub(super) fn unname(&mut self, node: Key) {
        let named = &mut self.nodes[node].named;
        *named = named.saturating_sub(1);
        if *named == 0 {
            self.nodes.remove(node);
        }
    }

    /// What `peer` calls a node that it holds.
    pub(super) fn number_of(&self, peer: u64, node: Key) -> Option<u64> {
        self.nodes[node].handle_of(peer).map(|key| self.handles[key].number)
    }

    /// The handle of a peer with this number.
    pub(super) fn handle_at(&self, peer: u64, number: u64) -> Option<(Key, &Handle)> {
        let key = self.peers.get(peer)?.handle_key(number)?;
        Some((key, &self.handles[key]))
    }

    // ---- handles ---------------------------------------------------------------------------------

    fn add_handle(&mut self, peer: u64, node: Key, number: u64) {
        let order = self.sequencer.next_order();
        let key = self.handles.insert(Handle { node, number, references: 1, order });
        self.nodes[node].hold(peer, key);
        self.nodes[node].named += 1;
        if let Some(holder) = self.peers.get_mut(peer) {
            if number == 0 {
                holder.root = key;
            } else {
                holder.native().handles.insert(number, key);
            }
        }
    }

    /// A new node comes into being under `number`, with its pinned reference (charged).
    pub(super) fn own(&mut self, peer: u64, node: Key, number: u64) {
        self.add_handle(peer, node, number);
    }

    /// One user reference more (charged, counted in U); its number (H-16, H-55).
    pub(super) fn hold(&mut self, peer: u64, node: Key) -> u64 {
        if let Some(key) = self.nodes[node].handle_of(peer) {
            let handle = &mut self.handles[key];
            handle.references += 1;
            return handle.number;
        }
        let number = match self.peers.get_mut(peer) {
            Some(holder) => {
                let counter = &mut holder.native().counter;
                *counter += 1;
                *counter << 3 | REMOTE | MANAGED
            }
            None => HANDLE_INVALID,
        };
        self.add_handle(peer, node, number);
        number
    }

    /// Drop user references; true if those were the last: then the caller follows up with `forsake`.
    ///
    /// The caller names the node.
    pub(super) fn release(&mut self, peer: u64, key: Key, references: u64) -> bool {
        let handle = &mut self.handles[key];
        let (node, number) = (handle.node, handle.number);
        handle.references = handle.references.saturating_sub(references);
        let is_gone = handle.references == 0;
        self.give(peer, HANDLES, references);
        if is_gone {
            self.handles.remove(key);
            self.nodes[node].let_go(peer);
            if let Some(holder) = self.peers.get_mut(peer) {
                if number == 0 {
                    holder.root = NONE;
                } else if let Some(natives) = &mut holder.natives {
                    natives.handles.remove(&number);
                    if natives.handles.is_empty() && natives.handles.capacity() > 64 {
                        natives.handles.shrink_to_fit();
                    }
                }
            }
            if self.nodes[node].died != NEVER {
                self.withdraw_notice(node, peer);
            }
        }
        self.fall(node, references);
        if is_gone {
            self.unname(node);
        }
        is_gone
    }

    // ---- references ------------------------------------------------------------------------------

    /// One reference more; a pending NODE_RELEASE is withdrawn.
    pub(super) fn rise(&mut self, node: Key) {
        self.nodes[node].uses += 1;
        self.withdraw_release(node);
    }

    /// Fewer references; the last but the pinned one queues NODE_RELEASE.
    pub(super) fn fall(&mut self, node: Key, references: u64) {
        let found = &mut self.nodes[node];
        found.uses = found.uses.saturating_sub(references);
        if found.uses == 1 && found.died == NEVER {
            let owner = found.owner;
            let stamp = self.sequencer.draw();
            let key = self.notice(node, MessageType::NodeRelease, stamp);
            self.nodes[node].release = key;
            self.append(owner, key);
        }
    }

    fn notice(&mut self, node: Key, kind: MessageType, stamp: u64) -> Key {
        self.nodes[node].named += 1;
        self.entries.insert(Entry::new(node, stamp, Body::Notice(kind)))
    }

    /// Take a notification out of a queue, for good. The caller names the node.
    fn drop_notice(&mut self, peer: u64, key: Key) {
        self.unlink(peer, key);
        let node = self.entries.remove(key).node;
        self.unname(node);
    }

    /// The notification is being delivered.
    pub(super) fn take_notice(&mut self, peer: u64, key: Key) {
        let (node, kind) = (self.entries[key].node, self.entries[key].kind());
        if kind == MessageType::NodeDestroy {
            self.nodes[node].forget_notice(peer);
        } else {
            self.nodes[node].release = NONE;
        }
        self.drop_notice(peer, key);
    }

    fn withdraw_release(&mut self, node: Key) {
        let found = &mut self.nodes[node];
        let (owner, key) = (found.owner, std::mem::replace(&mut found.release, NONE));
        if key != NONE {
            self.drop_notice(owner, key);
        }
    }

    /// A message to `receiver` carries this live node.
    pub(super) fn carry(&mut self, node: Key, receiver: u64) {
        self.rise(node);
        let order = self.sequencer.next_order();
        let found = &mut self.nodes[node];
        match found.carrier_of(receiver) {
            Ok(at) => found.others_mut().carriers[at].count += 1,
            Err(at) => found.others_mut().carriers.insert(at, Carrier { peer: receiver, count: 1, order }),
        }
    }

    /// That message is not undelivered any more.
    pub(super) fn arrive(&mut self, node: Key, receiver: u64) {
        let found = &mut self.nodes[node];
        let Ok(at) = found.carrier_of(receiver) else {
            self.sequencer.fail("a node arrived that was not carried");
            return;
        };
        let carriers = &mut found.others_mut().carriers;
        if carriers[at].count > 1 {
            carriers[at].count -= 1;
        } else {
            carriers.remove(at);
        }
    }

    /// Queue NODE_DESTROY at everybody concerned (N-1, N-4).
    fn notify(&mut self, node: Key) {
        let found = &self.nodes[node];
        let mut concerned: Vec<(u64, u64)> =
            found.holders().map(|(peer, key)| (self.handles[key].order, peer)).collect();
        concerned.sort_unstable();
        let n_holders = concerned.len();
        let carriers = found.carriers();
        self.sequencer.effort += (n_holders + carriers.len()) as u64;
        let others = carriers.iter().filter(|carrier| found.handle_of(carrier.peer).is_none());
        concerned.extend(others.map(|carrier| (carrier.order, carrier.peer)));
        concerned[n_holders..].sort_unstable();
        let died = found.died;
        for (_, peer) in concerned {
            let key = self.notice(node, MessageType::NodeDestroy, died);
            let notices = &mut self.nodes[node].others_mut().notices;
            let at = notices.partition_point(|notice| notice.0 < peer);
            notices.insert(at, (peer, key));
            self.append(peer, key);
        }
    }

    /// `peer` let the dead node go: NODE_DESTROY has lost its meaning, unless a handle comes.
    pub(super) fn withdraw_notice(&mut self, node: Key, peer: u64) {
        let found = &mut self.nodes[node];
        let is_concerned =
            found.handle_of(peer).is_some() || (peer != found.owner && found.carrier_of(peer).is_ok());
        if is_concerned {
            return;
        }
        if let Some(key) = found.forget_notice(peer) {
            self.drop_notice(peer, key);
        }
    }

    /// Live nodes die at one instant (H-64).
    pub(super) fn destroy(&mut self, nodes: &[Key], stamp: u64) {
        for &node in nodes {
            self.withdraw_release(node);
            self.nodes[node].died = stamp;
        }
        for &node in nodes {
            self.notify(node);
        }
    }
}
