//! What becomes of one message of a D-Bus client, if it is everyday.
//!
//! Theory. Everyday is a valid message between D-Bus clients of the lane that policies let pass in silence, which finds its
//! receivers, fits below the marks of back-pressure and within all limits, and which nobody else may want to see. Descriptors make it
//! less so: they go to one client, for whom nothing waits, and are such that nobody can make their closing wait. Whether
//! it is everyday is found out without any effect; then it is carried out, which is one transaction of Core and at most
//! one reply slot. Everything else is `NotEveryday`: the planner in Python decides, and nothing has happened.
//!
//! Invariants. 1. What is carried out here is what the planner would have done.
//!
//! Not here: reading, framing, writing (`dbus`).

use std::os::fd::RawFd;
use std::sync::Arc;

use bytes::Bytes;

use super::connection::Connection;
use super::parties::Parties;
use super::verdict;
use super::world::Tables;
use crate::core::Parts;
use crate::dbus::arguments::arguments;
use crate::dbus::build::{Outgoing, build, text_body};
use crate::dbus::header::Header;
use crate::dbus::stamp::stamp;
use crate::dbus::{CALL, DRIVER_NAME, ERROR, NO_REPLY_EXPECTED, RETURN, SIGNAL};
use crate::sys;
use crate::tables::MatchInput;

/// Charged with every message of a hosted peer, beyond its slice.
const OVERHEAD: u64 = 512;
/// What one sender may keep waiting at one reader.
const PAIR_MARK: u64 = 16 << 20;
/// What all senders together may keep at one reader, whether it makes progress or not.
const READER_MARK: u64 = 64 << 20;
/// What a waiting descriptor counts.
const FD_WEIGHT: u64 = 64 << 10;
/// So many descriptors of the process are kept free, or an eighth of them.
const FDS_KEPT: u64 = 64;
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
    fn stamped(&self, header: &Header, sender: &str) -> Result<(Parts, usize), NotEveryday> {
        let message = self.bytes();
        let body = &message[header.header_length..];
        let is_small = body.len() <= SMALL_BODY || matches!(self, Self::Borrowed(_));
        let room = header.header_length + 32 + sender.len() + if is_small { body.len() } else { 0 };
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
    /// Where its sender is.
    pub from: usize,
    pub message: &'p Message<'p>,
    pub header: &'p Header,
    /// The descriptors that it brings.
    pub fds: &'p [RawFd],
    pub now: f64,
}

/// Whether the message may be everyday, as far as its header and its sender tell.
pub fn may_be_everyday(
    climate: Climate,
    parties: &Parties,
    from: usize,
    message: &[u8],
    header: &Header,
) -> bool {
    let Some(sender) = parties.get(from) else {
        return false;
    };
    if !climate.is_unwatched || !sender.standing.is_known() {
        return false;
    }
    if header.unix_fds != 0 && (climate.is_closing || !header.destination_span.is_some()) {
        return false;
    }
    match header.destination(message) {
        None => header.kind == SIGNAL && !sender.has_followers,
        Some(DRIVER_NAME) => {
            let is_free = !sender.has_reserved && !climate.has_eavesdroppers;
            is_free && asks_for_id(header, message) && verdict::may_ask(sender, header, message)
        }
        Some(name) => {
            let is_known = matches!(header.kind, CALL | RETURN | ERROR | SIGNAL);
            let is_capability =
                header.kind == CALL && header.path(message).is_some_and(|path| path.starts_with(CAPABILITY));
            is_known && !is_capability && !climate.has_eavesdroppers && parties.find(name).is_some()
        }
    }
}

/// Carries the message out; how much work that was. Takes the descriptors.
pub fn carry_out(
    post: &Post<'_>,
    parties: &mut Parties,
    tables: &mut Tables<'_>,
) -> Result<usize, NotEveryday> {
    match post.header.destination(post.message.bytes()) {
        None => broadcast(post, parties, tables),
        Some(DRIVER_NAME) => tell_id(post, parties, tables),
        Some(name) => {
            let to = parties.find(name).ok_or(NotEveryday)?;
            unicast(post, parties, tables, to).map(|()| 1)
        }
    }
}

/// The one question to the bus that clients ask again and again: GetId, at any path.
fn asks_for_id(header: &Header, message: &[u8]) -> bool {
    header.kind == CALL
        && header.unix_fds == 0
        && header.member(message) == Some("GetId")
        && matches!(header.interface(message), None | Some(DRIVER_NAME))
        && header.signature(message).is_empty()
}

fn tell_id(post: &Post<'_>, parties: &mut Parties, tables: &mut Tables<'_>) -> Result<usize, NotEveryday> {
    let (bus, body) = (parties.bus.peer, text_body(&parties.bus.id));
    let credentials = Arc::clone(&parties.bus.credentials);
    let to = parties.get_mut(post.from).ok_or(NotEveryday)?;
    let was_empty = tables.core.waiting(to.peer).ok_or(NotEveryday)?.messages == 0;
    let mut answer = build(&Outgoing {
        kind: RETURN,
        flags: NO_REPLY_EXPECTED,
        serial: to.next_serial,
        body_length: body.len() as u32,
        reply_serial: post.header.serial,
        destination: Some(&to.unique),
        sender: Some(DRIVER_NAME),
        signature: "s",
        ..Outgoing::default()
    });
    answer.extend_from_slice(&body);
    let n_bytes = answer.len();
    let mut parts = Parts::new();
    parts.push(Bytes::from(answer));
    tables.core.deliver(bus, to.peer, &parts, n_bytes, &[], &credentials).map_err(|_| NotEveryday)?;
    to.draw_serial();
    parties.delivered(post.from, was_empty, post.now);
    Ok(1)
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
        let waiting = tables.replies.outstanding(caller) + sender.native_calls;
        let is_free =
            waiting < sender.standing.max_replies && !tables.replies.awaits(caller, callee, header.serial);
        if post.climate.limits_replies || !is_free {
            return Err(NotEveryday);
        }
    }
    let (parts, n_bytes) = post.message.stamped(header, &sender.unique)?;
    // what the planner weighs, with room for the sender's name
    let weighed = post.message.bytes().len() + sender.unique.len() + 16;
    let was_empty = has_room(tables, sender, reader, allocated(weighed.max(n_bytes)))?;
    if !(post.fds.is_empty() || was_empty && may_pass(post.fds, reader)) {
        return Err(NotEveryday);
    }
    tables
        .core
        .deliver(caller, callee, &parts, n_bytes, post.fds, &sender.credentials)
        .map_err(|_| NotEveryday)?;
    if awaits {
        // it is free, as was asked above
        let _ = tables.replies.add(caller, callee, header.serial, post.now);
    } else if matches!(header.kind, RETURN | ERROR) {
        tables.replies.take(callee, caller, header.reply_serial);
    }
    parties.fds.extend(post.fds.iter().map(|&fd| (fd, caller)));
    parties.delivered(to, was_empty, post.now);
    Ok(())
}

/// The reader takes descriptors, these close at once, and the process has enough others.
fn may_pass(fds: &[RawFd], reader: &Connection) -> bool {
    let ceiling = sys::descriptors_max().unwrap_or(u64::MAX);
    let ceiling = ceiling - FDS_KEPT.min(ceiling / 8);
    reader.standing.takes_fds && fds.iter().all(|&fd| (fd as u64) < ceiling && sys::closes_at_once(fd))
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
        sender_names: &sender.names,
        path: header.path(bytes),
        interface: header.interface(bytes),
        member: header.member(bytes),
        destination: None,
        destination_names: &[],
        arguments: &mut |out| arguments(header.signature(bytes), body, header.endian, out),
    };
    tables.matches.receivers(&mut input, &mut peers);
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
    let sender = parties.get(post.from).ok_or(NotEveryday)?;
    let (parts, n_bytes) = post.message.stamped(post.header, &sender.unique)?;
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
    Ok(1 + peers.len())
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

/// What a message of so many bytes weighs at a hosted reader.
fn allocated(n_bytes: usize) -> u64 {
    (n_bytes as u64).next_multiple_of(8) + OVERHEAD
}
