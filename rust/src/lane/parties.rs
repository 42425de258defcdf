//! Who has joined the lane, and who owns which name.
//!
//! Theory. Connections lie in slots. A slot is found by Core peer, by descriptor, or by a name: unique names are those of
//! the connections, the owners of well-known ones are said by Python at each change, and may be anybody.
//!
//! Invariants. 1. A slot is in each line (`dirty`, `stale`, `busy`) at most once while its mark says so.
//!
//! Not here: what is done with them (`dbus`, `express`).

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;

use ahash::AHashMap;
use bytes::Bytes;

use super::connection::{Connection, Standing};
use super::door::Doors;
use super::slots::Slots;
use super::transit::Transit;
use crate::core::{Core, Credentials};
use crate::sys;

/// The bus itself, as a peer.
#[derive(Default)]
pub struct Bus {
    pub peer: u64,
    /// What GetId answers.
    pub id: String,
    pub credentials: Arc<Credentials>,
}

/// All connections of the lane.
#[derive(Default)]
pub struct Parties {
    pub bus: Bus,
    slots: Slots,
    /// The standing that was said last: most have the same.
    usual: Option<Arc<Standing>>,
    owners: AHashMap<Box<[u8]>, u64>,
    /// How many may not receive everything.
    n_asked: usize,
    /// Those that may have something to write.
    pub dirty: Vec<usize>,
    /// Those for which epoll may have to be asked for something else.
    pub stale: Vec<usize>,
    /// Those that can go on with what has come.
    pub busy: VecDeque<usize>,
    /// Those that were in the middle of their turn when Python had to decide.
    pub resuming: Vec<usize>,
    /// Peers whose queues have moved since Python was told.
    pub moved: Vec<u64>,
    /// Optional messages that found no room: sender, reader, header.
    pub lost: Vec<(u64, u64, Bytes)>,
    /// Descriptors in Core's queues of which nobody but the lane knows, with who has sent them.
    pub fds: AHashMap<RawFd, u64>,
    /// Core has let descriptors go that are Python's to close.
    pub has_freed: bool,
    /// Room for receivers.
    pub peers: Vec<u64>,
    /// Below which number descriptors may come in this turn, once that was asked.
    pub ceiling: Option<u64>,
    /// What is being written in this step.
    pub transit: Transit,
    /// The doors, and who has come in by them.
    pub doors: Doors,
}

impl Parties {
    /// The connection in a slot.
    pub fn get(&self, slot: usize) -> Option<&Connection> {
        self.slots.get(slot)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Connection> {
        self.slots.get_mut(slot)
    }

    /// Where the connection of a peer is.
    pub fn slot(&self, peer: u64) -> Option<usize> {
        self.slots.of_peer(peer)
    }

    /// Where the connection with a descriptor is.
    pub fn slot_of_fd(&self, fd: RawFd) -> Option<usize> {
        self.slots.of_fd(fd)
    }

    /// The connection behind a name, if it is one of the lane.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        if name.first() == Some(&b':') {
            self.slots.of_unique(name)
        } else {
            self.slot(*self.owners.get(name)?)
        }
    }

    /// Somebody owns the well-known name, in the lane or elsewhere.
    pub fn is_owned(&self, name: &[u8]) -> bool {
        self.owners.contains_key(name)
    }

    /// All slots that are in use.
    pub fn all(&self) -> impl Iterator<Item = (usize, &Connection)> {
        self.slots.all()
    }

    /// Those of whom Python does not know.
    pub fn guests(&self) -> impl Iterator<Item = &Connection> {
        self.all().map(|(_, c)| c).filter(|c| c.is_guest)
    }

    /// A new connection; its slot.
    pub fn enter(&mut self, mut connection: Box<Connection>) -> usize {
        connection.is_stale = false;
        self.n_asked += usize::from(!connection.standing.receives_all);
        let slot = self.slots.enter(connection);
        self.mark_stale(slot);
        slot
    }

    /// A guest has its name from now on.
    pub fn name(&mut self, slot: usize, unique: &str) -> Option<&mut Connection> {
        let guest = self.slots.name(slot, unique)?;
        self.doors.name(guest.peer);
        Some(guest)
    }

    /// It is none of the lane any more.
    pub fn remove(&mut self, peer: u64) -> Option<Box<Connection>> {
        let (slot, connection) = self.slots.remove(peer)?;
        self.n_asked -= usize::from(!connection.standing.receives_all);
        self.dirty.retain(|&other| other != slot);
        self.stale.retain(|&other| other != slot);
        self.busy.retain(|&other| other != slot);
        self.resuming.retain(|&other| other != slot);
        Some(connection)
    }

    /// The name is the peer's from now on, or nobody's.
    pub fn own(&mut self, name: &str, peer: Option<u64>) {
        let old = match peer {
            Some(peer) => self.owners.insert(name.as_bytes().into(), peer),
            None => self.owners.remove(name.as_bytes()),
        };
        if let Some(c) = old.and_then(|old| self.slot(old)).and_then(|slot| self.get_mut(slot)) {
            c.change_held(|held| held.names.retain(|other| **other != *name));
        }
        if let Some(c) = peer.and_then(|peer| self.slot(peer)).and_then(|slot| self.get_mut(slot)) {
            c.change_held(|held| held.names.push(name.into()));
        }
    }

    /// The peer owns the name or waits for it, or does no longer.
    pub fn claim(&mut self, peer: u64, name: &str, is_held: bool) {
        if let Some(c) = self.slot(peer).and_then(|slot| self.get_mut(slot)) {
            c.change_held(|held| {
                let _ = if is_held { held.claims.insert(name.into()) } else { held.claims.remove(name) };
            });
        }
    }

    /// Everybody may receive everything.
    pub fn receive_all(&self) -> bool {
        self.n_asked == 0
    }

    /// One for all that are alike.
    pub fn shared(&mut self, standing: Standing) -> Arc<Standing> {
        if let Some(usual) = self.usual.as_ref().filter(|usual| ***usual == standing) {
            return Arc::clone(usual);
        }
        let standing = Arc::new(standing);
        self.usual = Some(Arc::clone(&standing));
        standing
    }

    /// Other rights and limits of a peer from now on.
    pub fn set_standing(&mut self, peer: u64, standing: Standing, takes_fds: bool) {
        let standing = self.shared(standing);
        if let Some(c) = self.slot(peer).and_then(|slot| self.get_mut(slot)) {
            let before = usize::from(!c.standing.receives_all);
            let after = usize::from(!standing.receives_all);
            (c.standing, c.takes_fds) = (standing, takes_fds);
            self.n_asked = self.n_asked - before + after;
        }
    }

    /// There may be something to write.
    pub fn mark_dirty(&mut self, slot: usize) {
        if let Some(c) = self.slots.get_mut(slot)
            && !c.output.is_dirty
        {
            c.output.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Epoll may have to be asked for something else.
    pub fn mark_stale(&mut self, slot: usize) {
        if let Some(c) = self.slots.get_mut(slot)
            && !c.is_stale
        {
            c.is_stale = true;
            self.stale.push(slot);
        }
    }

    /// It can go on with what has come.
    pub fn mark_busy(&mut self, slot: usize) {
        if let Some(c) = self.slots.get_mut(slot)
            && !c.input.is_busy
        {
            c.input.is_busy = true;
            self.busy.push_back(slot);
        }
    }

    /// Descriptors that are written: those that only the lane knows are closed, the others are Python's business.
    pub fn close_freed(&mut self, core: &mut Core) {
        let freed = core.freed_fds();
        freed.retain(|fd| match self.fds.remove(fd) {
            Some(_) => {
                sys::close(*fd);
                false
            }
            None => true,
        });
        self.has_freed |= !freed.is_empty();
    }

    /// A message was queued for it.
    pub fn delivered(&mut self, slot: usize, was_empty: bool, now: f64) {
        if was_empty {
            self.moved(slot, now);
        }
        self.mark_dirty(slot);
    }

    /// Its queue moves; true if somebody waits for that.
    pub fn moved(&mut self, slot: usize, now: f64) -> bool {
        let Some(c) = self.slots.get_mut(slot) else {
            return false;
        };
        c.moved = now;
        if !(c.is_noted || c.is_guest) {
            c.is_noted = true;
            self.moved.push(c.peer);
        }
        c.is_awaited
    }
}

impl Drop for Parties {
    fn drop(&mut self) {
        // nobody else knows these sockets
        self.guests().for_each(|c| sys::close(c.fd));
    }
}
