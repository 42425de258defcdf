//! The state of the bus as plain data.
//!
//! Theory. The twin of `bus1/core/snapshot.py`: the same keys in the same order.
//!
//! Not here: reading it back.

use std::collections::HashMap;

use super::account::{Account, RESOURCES, Share, User};
use super::api::Counts;
use super::queue::{Body, Entry};
use super::value::{Value, dict, list};
use super::{Core, NEVER, NONE, Peer, context_of};

fn counts(counts: &Counts) -> Value {
    dict(RESOURCES.into_iter().zip(*counts))
}

fn sorted_shares(shares: &[Share]) -> Value {
    let mut shares = shares.to_vec();
    shares.sort_by_key(|share| share.uid);
    dict(shares.iter().map(|share| (share.uid, counts(&share.counts))))
}

fn user(user: &User) -> Value {
    dict([
        ("limits", counts(&user.limits)),
        ("used", counts(&user.used)),
        ("shares", sorted_shares(&user.shares)),
        ("peers", user.accounts.into()),
    ])
}

/// Nodes that their owner has let go, as they are met.
#[derive(Default)]
struct LetGo {
    nodes: Vec<usize>,
    places: HashMap<usize, usize, ahash::RandomState>,
}

impl Core {
    /// All of it.
    pub fn snapshot(&self) -> Value {
        let mut let_go = LetGo::default();
        let mut numbers: Vec<u64> = self.peers.keys().copied().collect();
        numbers.sort_unstable();
        let mut written = Vec::with_capacity(numbers.len());
        for number in numbers {
            if let Some(peer) = self.peers.get(&number) {
                written.push((number, self.peer_value(number, peer, &mut let_go)));
            }
        }
        let sequencer = &self.sequencer;
        let configured = self.ledger.configured.iter();
        let retired = sequencer.retired.iter();
        let gone = |node: &usize| match self.node_value(*node) {
            Value::Dict(mut items) => {
                items.push(("owner".into(), self.nodes[*node].owner.into()));
                Value::Dict(items)
            }
            other => other,
        };
        dict([
            ("last_peer", self.numbers.into()),
            ("defaults", counts(&self.ledger.defaults.0)),
            ("configured", dict(configured.map(|(uid, limits)| (*uid, counts(&limits.0))))),
            ("stamp", sequencer.stamp.into()),
            ("woken", list(self.woken())),
            ("freed", list(sequencer.freed.iter().copied())),
            ("retired", list(retired.map(|(peer, generation)| list([*peer, *generation])))),
            ("users", dict(self.ledger.in_order().into_iter().map(|who| (who.uid, user(who))))),
            ("peers", dict(written)),
            ("let_go", list(let_go.nodes.iter().map(gone))),
        ])
    }

    fn name(&self, node: usize, let_go: &mut LetGo) -> Value {
        let owner = self.nodes[node].owner;
        if let Some(number) = self.number_of(owner, node) {
            return list([owner, number]);
        }
        let next = let_go.nodes.len();
        let place = *let_go.places.entry(node).or_insert(next);
        if place == next {
            let_go.nodes.push(node);
        }
        Value::List(vec![Value::None, place.into()])
    }

    fn peer_value(&self, number: u64, peer: &Peer, let_go: &mut LetGo) -> Value {
        let mut handles: Vec<(u64, usize)> =
            peer.handle_keys().map(|key| (self.handles[key].number, key)).collect();
        handles.sort_unstable();
        let is_own = |key: &usize| self.nodes[self.handles[*key].node].owner == number;
        let own = handles.iter().filter(|(_, key)| is_own(key));
        let nodes = dict(own.map(|(id, key)| (*id, self.node_value(self.handles[*key].node))));
        let mut named = Vec::with_capacity(handles.len());
        for (id, key) in &handles {
            let handle = &self.handles[*key];
            let value = Value::List(vec![self.name(handle.node, let_go), handle.references.into()]);
            named.push((*id, value));
        }
        handles.sort_unstable_by_key(|(_, key)| self.handles[*key].order);
        let mut queue = Vec::with_capacity(peer.queue.n);
        for key in self.queued_keys(number) {
            queue.push(self.entry_value(&self.entries[key], let_go));
        }
        let seed = self.entries.get(peer.seed).map(|entry| self.entry_value(entry, let_go));
        dict([
            ("account", self.account_value(&peer.account)),
            ("flags", peer.flags.into()),
            ("view", peer.view.as_deref().map_or(Value::None, view_value)),
            ("last_id", peer.counter.into()),
            ("nodes", nodes),
            ("handles", dict(named)),
            ("named", list(handles.iter().map(|(id, _)| *id))),
            ("queue", list(queue)),
            ("seed", seed.into()),
            ("pool", self.pool_value(peer)),
        ])
    }

    fn account_value(&self, account: &Account) -> Value {
        let dues = account.dues.as_deref();
        let flows = dues.map_or_else(Vec::new, |dues| dues.flows.sorted());
        let queued = flows.into_iter().map(|(sender, flow)| {
            let [bytes, messages, fds] = flow.undelivered;
            let values = [bytes.into(), messages.into(), fds.into(), Value::from(flow.uid)];
            (sender, list(values))
        });
        dict([
            ("uid", self.ledger.users[account.user].uid.into()),
            ("overhead", account.terms.overhead.into()),
            ("limits", counts(&account.terms.limits)),
            ("used", counts(&account.used())),
            ("shares", sorted_shares(dues.map_or(&[], |dues| &dues.shares))),
            ("queued", dict(queued)),
        ])
    }

    fn node_value(&self, node: usize) -> Value {
        let node = &self.nodes[node];
        let mut holders: Vec<_> =
            node.holders.iter().map(|(peer, key)| (self.handles[*key].order, *peer)).collect();
        holders.sort_unstable();
        let mut carriers: Vec<_> = node.carriers.iter().collect();
        carriers.sort_by_key(|carrier| carrier.order);
        dict([
            ("uses", node.uses.into()),
            ("died", Some(node.died).filter(|died| *died != NEVER).into()),
            ("holders", list(holders.into_iter().map(|(_, peer)| peer))),
            ("carriers", dict(carriers.into_iter().map(|carrier| (carrier.peer, carrier.count)))),
            ("addressed", node.addressed.into()),
            ("release_queued", (node.release != NONE).into()),
        ])
    }

    fn entry_value(&self, entry: &Entry, let_go: &mut LetGo) -> Value {
        let node = match entry.node {
            NONE => Value::None,
            node => self.name(node, let_go),
        };
        let mut known: Vec<(Value, Value)> = vec![
            ("type".into(), entry.kind().name().into()),
            ("stamp".into(), entry.stamp.into()),
            ("node".into(), node),
        ];
        let Body::Data(instance) = &entry.body else {
            return Value::Dict(known);
        };
        let who = &instance.credentials;
        let secctx = context_of(who, instance.wants_context).cloned();
        let slice = &self.slices[instance.slice];
        let mut handles = Vec::with_capacity(instance.nodes.len());
        for node in &instance.nodes {
            handles.push(self.name(*node, let_go));
        }
        let fds = self.descriptors.get(instance.fds).map(|found| found.numbers.to_vec());
        let place = [slice.offset.into(), slice.size.into(), Value::from(slice.charged)];
        let more: [(&'static str, Value); 10] = [
            ("sender", instance.sender.into()),
            ("credentials", list([who.uid, who.gid, who.pid, who.tid])),
            ("pids", list(who.pids.iter().map(|(space, pid)| list([*space, *pid])))),
            ("secctx", secctx.map_or(Value::None, Value::Bytes)),
            ("n_bytes", instance.n_bytes.into()),
            ("slice", list(place)),
            ("charged", instance.charge.size.into()),
            ("handles", list(handles)),
            ("fds", list(fds.unwrap_or_default())),
            ("note", instance.note.into()),
        ];
        known.extend(more.into_iter().map(|(key, value)| (key.into(), value)));
        Value::Dict(known)
    }

    fn pool_value(&self, peer: &Peer) -> Value {
        let pool = &peer.pool;
        let segments = pool.segments();
        let segments = segments.iter().map(|segment| {
            let values: [Value; 5] = [
                segment.base.into(),
                segment.size.into(),
                segment.slices.into(),
                segment.exposed.into(),
                segment.shared.into(),
            ];
            (segment.generation, list(values))
        });
        let retired = pool.retired().iter().map(|(segment, charged)| {
            let values: [Value; 3] = [segment.base.into(), segment.size.into(), (*charged).into()];
            (segment.generation, list(values))
        });
        let published = pool.published_in_order(&self.slices).into_iter().map(|key| {
            let slice = &self.slices[key];
            let values: [Value; 4] =
                [slice.offset.into(), slice.size.into(), slice.charged.into(), slice.serial.into()];
            list(values)
        });
        dict([
            ("shares_buffers", pool.shares_buffers.into()),
            ("last_generation", pool.generation.into()),
            ("last_serial", pool.serial.into()),
            ("segments", dict(segments)),
            ("retired", dict(retired)),
            ("published", list(published)),
            ("slices", pool.n_slices().into()),
        ])
    }
}

fn view_value(view: &super::View) -> Value {
    let extents = |extents: &[super::view::Extent]| {
        list(extents.iter().map(|(there, here, count)| list([*there, *here, *count])))
    };
    dict([
        ("uids", extents(&view.uids)),
        ("gids", extents(&view.gids)),
        ("pid_namespace", view.pid_namespace.into()),
    ])
}
