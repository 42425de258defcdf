//! Who comes in while the bus waits, up to its name.
//!
//! Theory. A client of a known user is accepted, read at once, authenticated (`dbus::sasl`), and gets its name with Hello. The
//! answers of the authentication, to Hello, and NameAcquired go out in one write, if they were asked for in one. Whatever a
//! guest says that is not everyday is handed over like that of anybody else, and so is the guest.
//!
//! Invariants. 1. What is carried out here is what Switch and driver in Python would have done. 2. Hello has an effect only if
//! everybody who is to hear of the name can be told at once.
//!
//! Not here: leaving (`departure`), what is told of names (`announcement`).

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use bytes::Bytes;
use libc::EPOLLIN;

use super::Report;
use super::announcement::{self, Change};
use super::connection::{Connection, End};
use super::dbus::DbusLane;
use super::door::User;
use super::express::{Climate, NotEveryday, OVERHEAD, Post, descriptors_below};
use super::output;
use super::parties::Parties;
use super::serving::hand_over_all;
use super::transit::Ahead;
use super::verdict;
use super::world::Tables;
use crate::core::{Credentials, Memory, Parts, Payload, Request, Setup};
use crate::dbus::build::{Outgoing, append_text};
use crate::dbus::header::Header;
use crate::dbus::{CALL, DRIVER_NAME, DRIVER_PATH, NO_REPLY_EXPECTED, RETURN, SIGNAL};
use crate::sys;

/// What each of the two messages that a new client gets is charged, at most.
const CHARGED: u64 = 2 << 10;
/// Bytes to ask for while a client authenticates: its lines are short.
pub const CHUNK: usize = 2 << 10;

impl Climate {
    /// Nobody has to see what happens but those whose rules match.
    pub(super) fn is_private(&self) -> bool {
        self.is_unwatched && !self.has_eavesdroppers && !self.is_followed
    }
}

impl DbusLane {
    /// Somebody knocks at a door: one is accepted, and if more wait that is reported again.
    pub(super) fn accept(&mut self, door: RawFd, tables: &mut Tables<'_>, now: f64, report: &mut Report) {
        let ceiling = *self.parties.ceiling.get_or_insert_with(descriptors_below);
        let is_below = |number: io::Result<RawFd>| number.is_ok_and(|number| (number as u64) < ceiling);
        if !(self.climate.is_private()
            && self.parties.doors.has_room()
            && is_below(sys::sockets::next_number(door)))
        {
            report.events.push((door, EPOLLIN as u32));
            return;
        }
        match sys::sockets::accept(door) {
            Ok(fd) => match self.admit(fd, tables, now) {
                Some(slot) => {
                    report.moves.push((fd, true));
                    self.read(slot, tables, now, report);
                }
                None => {
                    self.parties.doors.strangers.push(fd);
                    (report.is_due, report.stops) = (true, true);
                }
            },
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {
                }
                // Python meets it again, and waits
                _ => report.events.push((door, EPOLLIN as u32)),
            },
        }
    }

    /// A new guest, of whom nothing is read yet; None: Python has to look at it.
    fn admit(&mut self, fd: RawFd, tables: &mut Tables<'_>, now: f64) -> Option<usize> {
        let who = sys::sockets::who_connected(fd).ok()?;
        let user: User = (who.uid, who.gid, who.groups);
        let known = self.parties.doors.known(&user)?;
        let credentials = Arc::new(Credentials {
            uid: who.uid.into(),
            gid: who.gid.into(),
            pid: who.pid.into(),
            secctx: who.label.map(Bytes::from),
            groups: user.2.into_iter().map(i64::from).collect(),
            ..Credentials::default()
        });
        self.parties.settle(&mut tables.core);
        let setup = Setup { limits: Some(known.limits), overhead: OVERHEAD, view: None };
        let peer = tables.core.peer_new(credentials.uid, Memory::Heap(None), setup);
        // naming a node creates it: 0 is the root, where all messages to this client go
        let root = Request { handles: &[0], ..Request::default() };
        if tables.core.send(peer, &root, &Payload::default(), &credentials).is_err() {
            // nobody has seen it
            let _ = tables.core.peer_disconnect(peer);
            return None;
        }
        let mut guest = Connection::new(fd, peer, "", credentials, Arc::clone(&known.standing));
        guest.entry = Some(Box::default());
        guest.is_guest = true;
        self.parties.doors.came(peer, now);
        Some(self.parties.enter(Box::new(guest)))
    }

    /// Carry out the lines of a guest that has no name; false if no message follows.
    pub(super) fn authenticate(&mut self, slot: usize, report: &mut Report) -> bool {
        let greeting = std::mem::take(&mut self.parties.doors.greeting);
        let goes_on = self.parties.get_mut(slot).is_some_and(|c| {
            let uid = c.credentials.uid as u32;
            let Some(entry) = c.entry.as_deref_mut() else { return true };
            if entry.auth.is_done() {
                return true;
            }
            let lines = c.input.buffer.get(c.input.start..).unwrap_or_default();
            let (used, next) = entry.auth.feed(lines, uid, &greeting, &mut entry.unsent);
            entry.said.extend_from_slice(lines.get(..used).unwrap_or_default());
            c.input.start += used;
            let is_done = entry.auth.is_done();
            c.takes_fds = is_done && entry.auth.takes_fds();
            if next.is_err() || !(is_done || c.input.n_fds() == 0) {
                hand_over_all(c, End::Open, report);
                return false;
            }
            is_done
        });
        self.parties.doors.greeting = greeting;
        goes_on
    }

    /// What a guest without a name has been answered is written; if that fails it is Python's. Of what is handed over the
    /// answers are, too: if it turns out to be malformed they are dropped.
    pub(super) fn answer(&mut self, slot: usize, report: &mut Report) {
        let Some(c) = self.parties.get_mut(slot).filter(|c| c.input.is_ours) else { return };
        let Some(entry) = c.entry.as_deref_mut().filter(|entry| !entry.unsent.is_empty()) else { return };
        let written = sys::send(c.fd, &[&entry.unsent], &[]).unwrap_or(0);
        entry.unsent.drain(..written.min(entry.unsent.len()));
        if !entry.unsent.is_empty() {
            hand_over_all(c, End::Open, report);
        }
    }
}

/// The message is Hello, and its sender has no name yet.
pub(super) fn is_hello(sender: &Connection, header: &Header, message: &[u8]) -> bool {
    sender.entry.is_some()
        && header.kind == CALL
        && header.unix_fds == 0
        && header.destination_span.bytes(message) == DRIVER_NAME.as_bytes()
        && header.interface(message) == Some(DRIVER_NAME)
        && header.member(message) == Some("Hello")
        && header.signature(message).is_empty()
}

/// The guest gets its name, and everybody is told.
pub(super) fn hello(
    post: &Post<'_>,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
) -> Result<usize, NotEveryday> {
    if !post.climate.is_private() {
        return Err(NotEveryday);
    }
    let guest = parties.get(post.from).ok_or(NotEveryday)?;
    let (peer, unique) = (guest.peer, parties.doors.next_name());
    if !verdict::may_have_its_name(guest) {
        return Err(NotEveryday);
    }
    let mut bytes = guest.entry.as_ref().map_or_else(Vec::new, |entry| entry.unsent.clone());
    let n_lines = bytes.len();
    put_answer(post.header.serial, &unique, &mut bytes);
    let n_answer = bytes.len() - n_lines;
    put_acquired(&unique, &mut bytes);
    let change = Change { name: &unique, old: "", new: &unique, leaving: None };
    let mut ahead = Ahead { messages: 2, bytes: 2 * CHARGED, fds: 0 };
    // from here on nothing is in transit
    parties.settle(&mut tables.core);
    let hearers = announcement::hearers(&change, parties, tables, &mut ahead)?;
    let (lines, messages) = bytes.split_at(n_lines);
    let (answer, acquired) = messages.split_at(n_answer);
    queue(answer, peer, parties, tables).map_err(|_| NotEveryday)?;
    // from here on it happens
    announcement::put(&change, &hearers, parties, tables, post.now);
    parties.settle(&mut tables.core);
    if let Err(header) = queue(acquired, peer, parties, tables) {
        parties.lost.push((parties.bus.peer, peer, header));
    }
    let Some(guest) = parties.name(post.from, &unique) else { return Err(NotEveryday) };
    guest.entry = None;
    guest.next_serial = 3;
    if let Some(waiting) = tables.core.waiting(peer) {
        guest.output.note_peak(waiting);
    }
    tables.core.unwake(peer);
    let written = sys::send(guest.fd, &[&bytes], &[]).unwrap_or(0);
    // what goes wrong here goes wrong again where it is told
    let _ = output::dequeue(guest, &mut tables.core, written.saturating_sub(lines.len()));
    if written < bytes.len() {
        // if the lines are not written Python goes on with them, before all that is queued
        guest.unsent = lines.get(written..).unwrap_or_default().into();
        guest.output.is_held = !guest.unsent.is_empty();
        parties.delivered(post.from, true, post.now);
    }
    Ok(hearers.len())
}

/// A message of the bus waits for a guest; its bytes, if it does not.
fn queue(message: &[u8], to: u64, parties: &Parties, tables: &mut Tables<'_>) -> Result<(), Bytes> {
    let message = Bytes::copy_from_slice(message);
    let mut parts = Parts::new();
    parts.push(message.clone());
    let bus = &parties.bus;
    let queued = tables.core.deliver(bus.peer, to, &parts, message.len(), &[], &bus.credentials);
    queued.map_err(|_| message)
}

/// The answer to Hello.
fn put_answer(serial: u32, unique: &str, out: &mut Vec<u8>) {
    let given = Outgoing { kind: RETURN, serial: 1, reply_serial: serial, ..for_newcomer(unique) };
    append_text(&given, unique, out);
}

/// NameAcquired.
fn put_acquired(unique: &str, out: &mut Vec<u8>) {
    let given = Outgoing {
        kind: SIGNAL,
        serial: 2,
        path: Some(DRIVER_PATH),
        interface: Some(DRIVER_NAME),
        member: Some("NameAcquired"),
        ..for_newcomer(unique)
    };
    append_text(&given, unique, out);
}

/// What the bus says to who has this name now.
fn for_newcomer(unique: &str) -> Outgoing<'_> {
    Outgoing {
        flags: NO_REPLY_EXPECTED,
        destination: Some(unique),
        sender: Some(DRIVER_NAME),
        ..Outgoing::default()
    }
}
