//! The doors: listening sockets of the bus, and who has come in by them of whom Python does not know.
//!
//! Theory. While the bus waits, the lane accepts whom Python knows to be let in: users of whom it has had a client before. Who
//! comes in so is a *guest*: the lane serves it from its first byte on, and Python has never heard of it. It stays one for as
//! long as nobody there asks for it. When a wait is over, Python *meets* first of all the guests that have no name yet, in the
//! order in which they came, and those of whom the lane leaves something to it (`called`); later whomever it looks up. From
//! then on they are clients like all others. Of a guest that has left again nothing is to be told.
//!
//! Before the wait Python says how many guests there may be at the same time, so that no limit is passed; nobody else, and no
//! more of them, is accepted here. Who is accepted and turns out to be somebody else is a *stranger*: Python gets its
//! socket, of which nothing has been read.
//!
//! Invariants. 1. While Python runs, each guest has a name, its input is the lane's, and nothing goes before its queue; but for
//! one that is about to end, as there was no memory to meet it. 2. There
//! are never more guests than there is `room`. 3. A guest without a name is here for `PATIENCE` at most. 4. One thread alone
//! runs the Python of a bus with doors, and waits. 5. Peers are numbered in the order of arrival (`nameless`).
//!
//! Not here: accepting (`arrival`), leaving (`departure`), the state of guests (`parties`).

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::Arc;

use ahash::AHashMap;

use super::connection::{Connection, Handed, Standing};
use super::dbus::DbusLane;
use crate::core::{Beside, Credentials, Limits};
use crate::dbus::sasl::{Auth, Greeting};
use crate::sys::{self, Epoll};

/// Seconds after which Python watches how long a client takes to get its name.
pub const PATIENCE: f64 = 0.25;

/// What the kernel says of a user: uid, gid, and all groups.
pub type User = (u32, u32, Vec<u32>);

/// What holds for each client of a user.
#[derive(Clone)]
pub struct Known {
    pub standing: Arc<Standing>,
    /// In Core.
    pub limits: Limits,
}

/// A guest without a name.
#[derive(Default)]
pub struct Entry {
    pub auth: Auth,
    /// The lines that are answered.
    pub said: Vec<u8>,
    /// Answers that are not written.
    pub unsent: Vec<u8>,
}

/// What is told of one guest.
pub struct Guest {
    pub fd: RawFd,
    pub peer: u64,
    pub credentials: Arc<Credentials>,
    /// Empty before Hello.
    pub unique: Box<str>,
    pub takes_fds: bool,
    pub said: Vec<u8>,
    pub unsent: Box<[u8]>,
    /// When it came, if it has no name.
    pub since: Option<f64>,
    /// When its queue moved last; 0 if it never has.
    pub moved: f64,
    /// The bus's number for its next message to it.
    pub next_serial: u32,
    /// What has come of it and is not carried out, if it is not in the lane any more.
    pub rest: Option<Handed>,
}

/// How many guests there may be, and how many of them without a name.
#[derive(Clone, Copy, Default)]
pub struct Room {
    pub guests: usize,
    pub nameless: usize,
}

/// The listening sockets, and what Python has said of who may come in.
#[derive(Default)]
pub struct Doors {
    listening: Vec<RawFd>,
    pub room: Room,
    /// The number of the next unique name.
    pub next_number: u64,
    pub greeting: Greeting,
    known: AHashMap<User, Arc<Known>>,
    /// Who has come in last.
    latest: Arc<Credentials>,
    /// Peers of the guests that have no name, and when they came.
    nameless: BTreeMap<u64, f64>,
    /// Peers of guests of whom something is Python's.
    called: Vec<u64>,
    /// How many guests have names, and the most that had since Python said who may come in.
    n_named: usize,
    most_named: usize,
    /// Sockets that are accepted, and Python's.
    pub strangers: Vec<RawFd>,
    /// Sockets of guests that have left, and whether they are watched: to be closed.
    pub closing: Vec<(RawFd, bool)>,
}

impl Doors {
    /// The listening socket is one of the bus's doors from now on, or no longer.
    pub fn set_open(&mut self, fd: RawFd, is_open: bool) {
        self.listening.retain(|other| *other != fd);
        if is_open {
            self.listening.push(fd);
        }
    }

    /// Somebody knocks there.
    pub fn is_one(&self, fd: RawFd) -> bool {
        self.listening.contains(&fd)
    }

    /// One more guest may come.
    pub fn has_room(&self) -> bool {
        let n_nameless = self.nameless.len();
        n_nameless < self.room.nameless
            && n_nameless + self.n_named < self.room.guests
            && self.strangers.is_empty()
    }

    /// So many guests may be there until the next wait is over; the number of the next unique name.
    pub fn admit(&mut self, room: Room, next_number: u64) {
        self.room = room;
        self.next_number = next_number;
        self.most_named = self.n_named;
    }

    /// How many guests have names, and the most that had.
    pub fn named(&self) -> (usize, usize) {
        (self.n_named, self.most_named)
    }

    /// Clients of this user are let in.
    pub fn know(&mut self, user: User, known: Known) {
        self.known.insert(user, Arc::new(known));
    }

    /// What is known of users holds no more.
    pub fn forget_users(&mut self) {
        self.known.clear();
    }

    /// What holds for the clients of a user that is let in.
    pub fn known(&self, user: &User) -> Option<Arc<Known>> {
        self.known.get(user).cloned()
    }

    /// Those of one process are one, and what is the same for several processes is.
    pub fn credentials(&mut self, [uid, gid, pid]: [i64; 3], beside: Beside) -> Arc<Credentials> {
        let latest = &self.latest;
        let beside = match &latest.beside {
            Some(known) if **known == beside => Arc::clone(known),
            _ => Arc::new(beside),
        };
        let these = Credentials { uid, gid, pid, tid: 0, beside: Some(beside) };
        if **latest != these {
            self.latest = Arc::new(these);
        }
        Arc::clone(&self.latest)
    }

    /// The next unique name. It counts as used when its owner is `named`.
    pub fn next_name(&self) -> String {
        format!(":1.{}", self.next_number)
    }

    /// A guest has come.
    pub fn came(&mut self, peer: u64, now: f64) {
        self.nameless.insert(peer, now);
    }

    /// A guest has that name.
    pub fn name(&mut self, peer: u64) {
        self.nameless.remove(&peer);
        self.next_number += 1;
        self.n_named += 1;
        self.most_named = self.most_named.max(self.n_named);
    }

    /// A guest is none any more; when it came, if it has no name.
    fn forget(&mut self, peer: u64) -> Option<f64> {
        let since = self.nameless.remove(&peer);
        self.n_named -= usize::from(since.is_none());
        since
    }

    /// A guest is gone, its socket is to be closed.
    pub fn left(&mut self, guest: &Connection) {
        self.forget(guest.peer);
        self.closing.push((guest.fd, guest.watched != 0));
    }

    /// When the first guest without a name becomes Python's.
    pub fn due(&self) -> Option<f64> {
        self.nameless.first_key_value().map(|(_, since)| since + PATIENCE)
    }
}

impl DbusLane {
    /// Something of these sockets is Python's: the guests among them become known to it.
    pub(super) fn call(&mut self, events: &[(RawFd, u32)]) {
        for &(fd, _) in events {
            let found = self.parties.slot_of_fd(fd).and_then(|slot| self.parties.get(slot));
            if let Some(peer) = found.filter(|c| c.is_guest).map(|c| c.peer) {
                self.parties.doors.called.push(peer);
            }
        }
    }

    /// The guests that Python has to meet when a wait is over: those that have no name yet, in order of arrival, and those of
    /// whom something is Python's. It serves those that have no name, or are to be answered first.
    pub fn take_guests(&mut self, epoll: Option<&Epoll>) -> Vec<Guest> {
        let doors = &mut self.parties.doors;
        doors.room = Room::default();
        let mut peers: Vec<u64> = doors.nameless.keys().copied().collect();
        peers.append(&mut doors.called);
        peers.into_iter().filter_map(|peer| self.take_guest(epoll, peer)).collect()
    }

    /// Peers of all guests, in order of arrival.
    pub fn guests(&self) -> Vec<u64> {
        let mut peers: Vec<u64> = self.parties.guests().map(|c| c.peer).collect();
        peers.sort_unstable();
        peers
    }

    /// Python could not meet it: it is a guest again, as before.
    pub fn put_back(&mut self, peer: u64) {
        let found = self.parties.slot(peer).and_then(|slot| self.parties.get_mut(slot));
        if let Some(c) = found.filter(|c| !c.is_guest) {
            c.is_guest = true;
            self.parties.doors.n_named += 1;
        }
    }

    /// The guest hears and says nothing more. Unless it leaves here, Python meets it when the next wait is over.
    pub fn hang_up(&mut self, peer: u64) {
        if let Some(c) = self.parties.slot(peer).and_then(|slot| self.parties.get(slot)) {
            sys::sockets::hang_up(c.fd);
            self.parties.doors.called.push(peer);
        }
    }

    /// The guest of this number is Python's from now on; None if there is none.
    pub fn take_guest(&mut self, epoll: Option<&Epoll>, peer: u64) -> Option<Guest> {
        let c = self.parties.slot(peer).and_then(|slot| self.parties.get_mut(slot))?;
        if !std::mem::take(&mut c.is_guest) {
            return None;
        }
        let has_entered = c.entry.is_none() && c.unsent().is_empty();
        let (said, unsent) = match c.entry.take() {
            Some(entry) => (entry.said, entry.unsent.into_boxed_slice()),
            None => (Vec::new(), c.take_unsent()),
        };
        let mut guest = Guest {
            fd: c.fd,
            peer,
            credentials: Arc::clone(&c.credentials),
            unique: (*c.unique).into(),
            takes_fds: c.takes_fds,
            said,
            unsent,
            since: None,
            moved: c.moved,
            next_serial: c.next_serial,
            rest: None,
        };
        guest.since = self.parties.doors.forget(peer);
        if !has_entered {
            guest.rest = self.leave(epoll, peer).map(|(handed, _, _)| handed);
        }
        Some(guest)
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.strangers.drain(..).for_each(sys::close);
        self.closing.drain(..).for_each(|(fd, _)| sys::close(fd));
    }
}
