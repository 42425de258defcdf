//! The doors: listening sockets of the bus, and who has come in by them since Python was last asked.
//!
//! Theory. While the bus waits, the lane accepts whom Python knows to be let in: users of whom it has had a client before. Who
//! comes in so is a *guest*: the lane serves it from its first byte on, and Python has never heard of it. Whatever ends the
//! wait, Python is told first of all guests that are there, in the order in which they came, and from then on they are
//! clients like all others. Of a guest that has left again nothing is to be told.
//!
//! Before the wait Python says how many guests there may be at the same time, so that no limit is passed; nobody else, and no
//! more of them, is accepted here. Who is accepted and turns out to be somebody else is a *stranger*: Python gets its
//! socket, of which nothing has been read.
//!
//! Invariants. 1. Python carries nothing out while there is a guest of whom it has not been told. 2. There are never more
//! guests than there is `room`. 3. A guest without a name is here for `PATIENCE` at most. 4. One thread alone runs the Python of
//! a bus with doors, and waits.
//!
//! Not here: accepting (`arrival`), leaving (`departure`), the state of guests (`parties`).

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
    /// When it came.
    pub since: f64,
    /// The bus's number for its next message to it.
    pub next_serial: u32,
    /// What has come of it and is not carried out, if it is not in the lane any more.
    pub rest: Option<Handed>,
}

/// The listening sockets, and what Python has said of who may come in.
#[derive(Default)]
pub struct Doors {
    listening: Vec<RawFd>,
    /// How many guests there may be.
    pub room: usize,
    /// The number of the next unique name.
    pub next_number: u64,
    pub greeting: Greeting,
    known: AHashMap<User, Arc<Known>>,
    /// Who has come in last.
    latest: Arc<Credentials>,
    /// Peers of the guests, in order of arrival, and when that was.
    pub guests: Vec<(u64, f64)>,
    /// How many of them have names, and the most that ever had.
    pub n_named: usize,
    pub most_named: usize,
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
        self.guests.len() < self.room && self.strangers.is_empty()
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

    /// A guest has that name.
    pub fn named(&mut self) {
        self.next_number += 1;
        self.n_named += 1;
        self.most_named = self.most_named.max(self.n_named);
    }

    /// A guest is gone, its socket is to be closed.
    pub fn left(&mut self, guest: &Connection) {
        self.guests.retain(|(peer, _)| *peer != guest.peer);
        self.n_named -= usize::from(guest.entry.is_none());
        self.closing.push((guest.fd, guest.watched != 0));
    }
}

impl DbusLane {
    /// All guests that are there, in order of arrival: from now on Python knows them, and serves those that have no name yet,
    /// or are to be answered first.
    pub fn take_guests(&mut self, epoll: Option<&Epoll>) -> Vec<Guest> {
        let doors = &mut self.parties.doors;
        doors.room = 0;
        doors.n_named = 0;
        let guests = std::mem::take(&mut doors.guests);
        guests.into_iter().filter_map(|(peer, since)| self.take_guest(epoll, peer, since)).collect()
    }

    fn take_guest(&mut self, epoll: Option<&Epoll>, peer: u64, since: f64) -> Option<Guest> {
        let c = self.parties.slot(peer).and_then(|slot| self.parties.get_mut(slot))?;
        c.is_guest = false;
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
            since,
            next_serial: c.next_serial,
            rest: None,
        };
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
