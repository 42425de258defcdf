//! What becomes of one message of a D-Bus client, if it is everyday.
//!
//! Theory. Everyday is a valid message between D-Bus clients of the lane that policies let pass in silence, which finds its
//! receivers, fits below the marks of back-pressure and within all limits, and which nobody else may want to see. Descriptors make it
//! less so: they go to one client, for whom nothing waits, and are such that nobody can make their closing wait. Whether
//! it is everyday is found out without an effect that lasts; then it is carried out, which is one transaction of Core, or
//! a passage without a queue (`passing`), and at most one reply slot. Everything else is `NotEveryday`: the planner in
//! Python decides, and nothing has happened.
//!
//! Invariants. 1. What is carried out here is what the planner would have done.
//!
//! Not here: reading (`reading`), framing (`serving`), writing (`output`).

use std::os::fd::RawFd;

use bytes::Bytes;

use super::arrival::{hello, is_hello};
use super::connection::Connection;
use super::driver::{Method, ask, method_of};
use super::parties::Parties;
use super::passing::{pass, pass_to_all};
use super::poller::locked;
use super::transit::Marks;
use super::verdict;
use super::world::Tables;
use crate::core::Parts;
use crate::dbus::arguments::arguments;
use crate::dbus::header::Header;
use crate::dbus::stamp::{MARGIN, stamp};
use crate::dbus::{CALL, DRIVER_NAME, ERROR, NO_REPLY_EXPECTED, RETURN, SIGNAL};
use crate::sys;
use crate::tables::MatchInput;

/// Charged with every message of a hosted peer, beyond its slice.
pub const OVERHEAD: u64 = 512;
/// What one sender may keep waiting at one reader.
const PAIR_MARK: u64 = 16 << 20;
/// What all senders together may keep at one reader, whether it makes progress or not.
const READER_MARK: u64 = 64 << 20;
/// What a waiting descriptor counts.
const FD_WEIGHT: u64 = 64 << 10;
/// So many descriptors of the process are kept free, or an eighth of them.
const FDS_KEPT: u64 = 64;
/// So many descriptors may be in queues that Python has not booked for their sender.
pub(super) const FDS_UNTOLD: usize = 256;
/// Bodies up to this size are copied behind their header.
const SMALL_BODY: usize = 4096;
const CAPABILITY: &str = "/org/bus1/cap/";

/// The planner in Python has to decide; nothing has happened.
pub struct NotEveryday;

/// What holds for everybody at the moment.
#[derive(Clone, Copy, Default)]
pub struct Climate {
    /// Nobody monitors.
    pub is_unwatched: bool,
    /// Somebody eavesdrops on what is addressed to others.
    pub has_eavesdroppers: bool,
    /// Others than D-Bus clients by their rules have to hear of names.
    pub is_followed: bool,
    /// Calls end by themselves after some time, which Python watches.
    pub limits_replies: bool,
    /// Descriptors of clients wait to be closed, so that not everybody may bring more.
    pub is_closing: bool,
}

/// One whole message.
pub enum Message<'m> {
    /// In a buffer that is used for others, too.
    Borrowed(&'m [u8]),
    /// In memory of its own.
    Shared(Bytes),
}

impl Message<'_> {
    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// As it is forwarded: the header with its sender, and the body.
    fn stamped(&self, header: &Header, sender: &[u8]) -> Result<(Parts, usize), NotEveryday> {
        let message = self.bytes();
        let body = &message[header.header_length..];
        let is_small = body.len() <= SMALL_BODY || matches!(self, Self::Borrowed(_));
        let room = header.header_length + MARGIN + sender.len() + if is_small { body.len() } else { 0 };
        let mut out = Vec::new();
        // Python finds the memory, or tells the client that there is none
        out.try_reserve(room).map_err(|_| NotEveryday)?;
        stamp(message, header, sender, &mut out).map_err(|_| NotEveryday)?;
        let n_bytes = out.len() + body.len();
        let mut parts = Parts::new();
        match self {
            Self::Shared(bytes) if !is_small => {
                parts.push(Bytes::from(out));
                parts.push(bytes.slice(header.header_length..));
            }
            _ => {
                out.extend_from_slice(body);
                parts.push(Bytes::from(out));
            }
        }
        Ok((parts, n_bytes))
    }
}

/// One message on its way; its body is valid.
pub struct Post<'p> {
    pub climate: Climate,
    /// Where its sender is, and where it goes.
    pub from: usize,
    pub route: Route,
    pub message: &'p Message<'p>,
    pub header: &'p Header,
    /// The descriptors that it brings.
    pub fds: &'p [RawFd],
    pub now: f64,
}

/// Where a message goes.
#[derive(Clone, Copy)]
pub enum Route {
    /// To those whose rules match.
    Everybody,
    /// To the bus, that answers.
    Bus(&'static Method),
    /// To the bus, that gives the sender a name.
    Hello,
    /// To the connection in a slot.
    To(usize),
}

/// Where the message goes if it may be everyday, as far as its header and its sender tell.
pub fn route(
    climate: Climate,
    parties: &Parties,
    from: usize,
    message: &[u8],
    header: &Header,
) -> Option<Route> {
    let sender = parties.get(from)?;
    if sender.unique.is_empty() {
        return is_hello(sender, header, message).then_some(Route::Hello);
    }
    if !climate.is_unwatched || !sender.standing.is_known() {
        return None;
    }
    if header.unix_fds != 0 && (climate.is_closing || !header.destination_span.is_some()) {
        return None;
    }
    if !header.destination_span.is_some() {
        return (header.kind == SIGNAL && !sender.has_followers).then_some(Route::Everybody);
    }
    let name = header.destination_span.bytes(message);
    if name == DRIVER_NAME.as_bytes() {
        let is_free = !sender.has_reserved && !climate.has_eavesdroppers;
        let method = is_free.then(|| method_of(header, message)).flatten();
        return method.filter(|_| verdict::may_ask(sender, header, message)).map(Route::Bus);
    }
    let is_known = matches!(header.kind, CALL | RETURN | ERROR | SIGNAL);
    let is_capability =
        header.kind == CALL && header.path_span.bytes(message).starts_with(CAPABILITY.as_bytes());
    if is_known && !is_capability && !climate.has_eavesdroppers {
        return parties.find(name).map(Route::To);
    }
    None
}

/// Carries the message out; how many receivers it has beside the first. Takes the descriptors.
pub fn carry_out(
    post: &Post<'_>,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
) -> Result<usize, NotEveryday> {
    match post.route {
        Route::Everybody => broadcast(post, parties, tables),
        Route::Bus(method) => ask(post, method, parties, tables).map(|()| 0),
        Route::Hello => hello(post, parties, tables),
        Route::To(to) => unicast(post, parties, tables, to).map(|()| 0),
    }
}

fn unicast(
    post: &Post<'_>,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
    to: usize,
) -> Result<(), NotEveryday> {
    let sender = parties.get(post.from).ok_or(NotEveryday)?;
    let reader = parties.get(to).ok_or(NotEveryday)?;
    let header = post.header;
    if !verdict::passes(sender, reader, header, post.message.bytes(), &tables.replies) {
        return Err(NotEveryday);
    }
    let awaits = header.kind == CALL && header.flags & NO_REPLY_EXPECTED == 0;
    let (caller, callee) = (sender.peer, reader.peer);
    if awaits {
        let waiting = tables.replies.outstanding(caller) + sender.native_calls as usize;
        if post.climate.limits_replies || waiting >= sender.standing.max_replies {
            return Err(NotEveryday);
        }
        tables.replies.add(caller, callee, header.serial, post.now).map_err(|_| NotEveryday)?;
    }
    let result = forward(post, parties, tables, to);
    if result.is_err() && awaits {
        // it never was
        tables.replies.take(caller, callee, header.serial);
    } else if result.is_ok() && matches!(header.kind, RETURN | ERROR) {
        tables.replies.take(callee, caller, header.reply_serial);
    }
    result
}

fn forward(
    post: &Post<'_>,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
    to: usize,
) -> Result<(), NotEveryday> {
    let sender = parties.get(post.from).ok_or(NotEveryday)?;
    let reader = parties.get(to).ok_or(NotEveryday)?;
    // what the planner weighs, with room for the sender's name
    let weighed = post.message.bytes().len() + sender.unique.len() + MARGIN;
    let marks = sender.marks(reader);
    if !post.fds.is_empty() {
        let takes_fds = reader.takes_fds;
        let ceiling = *parties.ceiling.get_or_insert_with(descriptors_below);
        if !takes_fds || parties.fds.len() > FDS_UNTOLD || !may_come(post.fds, ceiling) {
            return Err(NotEveryday);
        }
    }
    if pass(post, parties, tables, to, weighed, marks) {
        return Ok(());
    }
    parties.settle(&mut tables.core);
    let (sender, reader) = (parties.get(post.from).ok_or(NotEveryday)?, parties.get(to).ok_or(NotEveryday)?);
    let (parts, n_bytes) = post.message.stamped(post.header, sender.unique.as_bytes())?;
    let was_empty = has_room(tables, sender, reader, allocated(weighed.max(n_bytes)))?;
    if !(post.fds.is_empty() || was_empty) {
        return Err(NotEveryday);
    }
    tables
        .core
        .deliver(sender.peer, reader.peer, &parts, n_bytes, post.fds, &sender.credentials)
        .map_err(|_| NotEveryday)?;
    let sender = sender.peer;
    parties.fds.extend(post.fds.iter().map(|&fd| (fd, sender)));
    parties.delivered(to, was_empty, post.now);
    Ok(())
}

/// The process has enough others below this number.
pub(super) fn descriptors_below() -> u64 {
    let ceiling = sys::descriptors_max().unwrap_or(u64::MAX);
    ceiling - FDS_KEPT.min(ceiling / 8)
}

/// These close at once, and the process has enough others.
fn may_come(fds: &[RawFd], ceiling: u64) -> bool {
    fds.iter().all(|&fd| (fd as u64) < ceiling && sys::closes_at_once(fd))
}

fn broadcast(post: &Post<'_>, parties: &mut Parties, tables: &mut Tables<'_>) -> Result<usize, NotEveryday> {
    let mut peers = std::mem::take(&mut parties.peers);
    peers.clear();
    let sender = parties.get(post.from).ok_or(NotEveryday)?;
    let (header, bytes) = (post.header, post.message.bytes());
    let body = &bytes[header.header_length..];
    let mut input = MatchInput {
        kind: header.kind,
        sender: &sender.unique,
        sender_names: &sender.held().names,
        path: header.path(bytes),
        interface: header.interface(bytes),
        member: header.member(bytes),
        destination: None,
        destination_names: &[],
        arguments: &mut |out| arguments(header.signature(bytes), body, header.endian, out),
    };
    locked(tables.matches).receivers(&mut input, &mut peers);
    let result = verdict::leave_out(sender, parties, header, bytes, &mut peers)
        .and_then(|()| tell(post, parties, tables, &peers));
    parties.peers = peers;
    result
}

fn tell(
    post: &Post<'_>,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
    peers: &[u64],
) -> Result<usize, NotEveryday> {
    if peers.is_empty() {
        return Ok(0);
    }
    if pass_to_all(post, parties, tables, peers)? {
        return Ok(peers.len() - 1);
    }
    parties.settle(&mut tables.core);
    let sender = parties.get(post.from).ok_or(NotEveryday)?;
    let (parts, n_bytes) = post.message.stamped(post.header, sender.unique.as_bytes())?;
    let size = allocated(n_bytes);
    let mut readers = Vec::with_capacity(peers.len());
    for &peer in peers {
        let slot = parties.slot(peer).ok_or(NotEveryday)?;
        let reader = parties.get(slot).ok_or(NotEveryday)?;
        readers.push((slot, has_room(tables, sender, reader, size)?));
    }
    let mut slots = Vec::with_capacity(peers.len());
    tables
        .core
        .deliver_to_all(sender.peer, peers, &parts, n_bytes, &sender.credentials, &mut slots)
        .map_err(|_| NotEveryday)?;
    let sender = sender.peer;
    for (((slot, was_empty), peer), result) in readers.into_iter().zip(peers).zip(slots) {
        if result == 0 {
            parties.delivered(slot, was_empty, post.now);
        } else {
            parties.lost.push((sender, *peer, parts[0].clone()));
        }
    }
    Ok(peers.len() - 1)
}

/// Below all marks and limits a message is delivered, whatever else holds; whether nothing waits there.
fn has_room(
    tables: &Tables<'_>,
    sender: &Connection,
    reader: &Connection,
    size: u64,
) -> Result<bool, NotEveryday> {
    let waiting = tables.core.waiting(reader.peer).ok_or(NotEveryday)?;
    if waiting.messages == 0 {
        return Ok(true);
    }
    let mine = tables.core.queued(sender.peer, reader.peer).ok_or(NotEveryday)?;
    let fits = mine.bytes + mine.fds * FD_WEIGHT + size <= PAIR_MARK
        && mine.bytes + size <= sender.standing.max_incoming_bytes
        && waiting.bytes + waiting.fds * FD_WEIGHT + size <= READER_MARK
        && waiting.bytes + size <= reader.standing.max_outgoing_bytes;
    if fits { Ok(false) } else { Err(NotEveryday) }
}

impl Connection {
    /// What may wait at a reader if this sender is to send more.
    pub(super) fn marks(&self, reader: &Self) -> Marks {
        let (mine, its) = (&self.standing, &reader.standing);
        Marks {
            bytes: PAIR_MARK.min(mine.max_incoming_bytes).min(its.max_outgoing_bytes),
            fds: mine.max_incoming_unix_fds.min(its.max_outgoing_unix_fds),
        }
    }
}

/// What a message of so many bytes weighs at a hosted reader.
fn allocated(n_bytes: usize) -> u64 {
    (n_bytes as u64).next_multiple_of(8) + OVERHEAD
}
