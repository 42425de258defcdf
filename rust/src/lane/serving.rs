//! What a connection of the lane has said: from bytes to messages that are carried out, or handed over.
//!
//! Theory. A turn looks at one message after the other, in the order in which they came. Each is checked before it is carried
//! out; a large one in steps, over many turns. What Python has to carry out ends the turn of everybody, and the input of this
//! connection is Python's until it is given back.
//!
//! Invariants. 1. A message has no effect before it is known that the whole of it is everyday. 2. What is done in a turn is
//! bounded.
//!
//! Not here: what is everyday (`express`), where the bytes come from (`reading`).

use std::os::fd::RawFd;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Report;
use super::connection::{Connection, End};
use super::dbus::{DbusLane, IN};
use super::express::{self, Message, NotEveryday, Post, Route};
use super::reading::CHUNK;
use super::world::Tables;
use crate::dbus::body::{BodyCheck, check_body};
use crate::dbus::header::{self, Header, frame_length};

/// Longer bodies are not copied if they have a buffer for themselves.
const LARGE_BODY: usize = 16 << 10;
/// Of the bodies of one client, as many are checked in one turn.
pub const BYTES_PER_TURN: usize = 256 << 10;
/// What one client may have done in one turn: a message, and each receiver beside the first.
const WORK_PER_TURN: usize = 256 * MESSAGE_WORK;
/// To read and check a message is more work than to tell one more receiver.
const MESSAGE_WORK: usize = 8;

/// What a look at the first message has found.
enum Found {
    /// It is carried out; so long was it, and so many receivers it had beside the first.
    Done(usize, usize),
    /// It is not there yet; its length, if that is known.
    Incomplete(usize),
    /// Its check goes on in the next turn.
    Unchecked,
    /// Python has to carry it out; its length.
    NotEveryday(usize),
    /// Python has to carry everything out: it is malformed, or too large a thing to wait for here.
    Strange,
}

impl DbusLane {
    /// Carry out what is there, within the budget.
    pub(super) fn serve(&mut self, slot: usize, tables: &mut Tables<'_>, now: f64, report: &mut Report) {
        let is_nameless = self.parties.get(slot).is_some_and(|c| c.entry.is_some());
        if !is_nameless || self.authenticate(slot, report) {
            self.serve_messages(slot, tables, now, report);
        }
        if is_nameless {
            self.answer(slot, report);
        }
    }

    fn serve_messages(&mut self, slot: usize, tables: &mut Tables<'_>, now: f64, report: &mut Report) {
        let mut work = 0;
        let mut checked = 0;
        loop {
            let Some(c) = self.parties.get_mut(slot) else {
                return;
            };
            c.input.note_peaks();
            if c.is_guest && c.output.is_held {
                // what it was answered could not be written
                hand_over_all(c, End::Open, report);
                return;
            }
            if c.input.pending() == 0 {
                break;
            }
            let most_fds = if c.takes_fds { c.standing.max_message_unix_fds } else { 0 };
            if c.input.n_fds() > most_fds {
                // before anything of what came with them is carried out: it ends the connection
                hand_over_all(c, End::Open, report);
                return;
            }
            if work >= WORK_PER_TURN || checked >= BYTES_PER_TURN {
                self.parties.mark_busy(slot);
                return;
            }
            match self.first(slot, tables, BYTES_PER_TURN - checked, now) {
                Found::Done(length, others) => {
                    work += MESSAGE_WORK + others;
                    checked += length;
                }
                Found::Unchecked => {
                    self.parties.mark_busy(slot);
                    return;
                }
                found => {
                    self.leave_rest(slot, &found, report);
                    return;
                }
            }
        }
        if let Some(c) = self.parties.get_mut(slot)
            && c.input.n_fds() > 0
        {
            // whose message is to come: Python watches how long that takes
            hand_over_all(c, End::Open, report);
        }
    }

    fn leave_rest(&mut self, slot: usize, found: &Found, report: &mut Report) {
        let Some(c) = self.parties.get_mut(slot) else {
            return;
        };
        match *found {
            Found::NotEveryday(length) => hand_over_first(c, length, report),
            Found::Incomplete(length) if c.input.n_fds() == 0 => c.input.set_expected(length),
            _ => hand_over_all(c, End::Open, report),
        }
    }

    /// The first message of a connection.
    fn first(&mut self, slot: usize, tables: &mut Tables<'_>, budget: usize, now: f64) -> Found {
        let Some(c) = self.parties.get_mut(slot) else {
            return Found::Strange;
        };
        let mut buffer = std::mem::take(&mut c.input.buffer);
        let start = c.input.start();
        let max_message_size = c.standing.max_message_size;
        let found = match frame_length(&buffer[start..]) {
            Err(_) => Found::Strange,
            Ok(None) => Found::Incomplete(0),
            Ok(Some(length)) if length > max_message_size => Found::Strange,
            Ok(Some(length)) if length > buffer.len() - start => {
                if length > CHUNK && !self.is_worth_waiting(slot, &buffer[start..]) {
                    Found::Strange
                } else {
                    Found::Incomplete(length)
                }
            }
            Ok(Some(length)) => self.whole(slot, &mut buffer, start, length, tables, budget, now),
        };
        if let Some(c) = self.parties.get_mut(slot) {
            c.input.buffer = buffer;
            if c.input.start() >= c.input.buffer.len() {
                c.input.buffer.clear();
                c.input.set_start(0);
            }
        }
        found
    }

    /// A large message that is not there yet: whether its header tells that it may be everyday.
    fn is_worth_waiting(&self, slot: usize, so_far: &[u8]) -> bool {
        match header::parse(so_far) {
            Ok(header) => express::route(self.climate, &self.parties, slot, so_far, &header).is_some(),
            Err(_) => so_far.len() < 16,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn whole(
        &mut self,
        slot: usize,
        buffer: &mut Vec<u8>,
        start: usize,
        length: usize,
        tables: &mut Tables<'_>,
        budget: usize,
        now: f64,
    ) -> Found {
        let bytes = &buffer[start..start + length];
        let Ok(header) = header::parse_frame(bytes, length) else {
            return Found::Strange;
        };
        let Some(route) = express::route(self.climate, &self.parties, slot, bytes, &header) else {
            return Found::NotEveryday(length);
        };
        match self.check(slot, bytes, &header, budget) {
            Ok(true) => {}
            Ok(false) => return Found::Unchecked,
            Err(()) => return Found::Strange,
        }
        // a message that has most of a large buffer for itself keeps that: its body is not copied
        if header.body_length as usize > LARGE_BODY && length * 2 >= buffer.capacity() {
            return self.large(slot, buffer, start, length, (&header, route), tables, now);
        }
        let carried = self.pass(slot, &Message::Borrowed(bytes), (&header, route), tables, now);
        self.found(slot, carried, start + length, length)
    }

    #[allow(clippy::too_many_arguments)]
    fn large(
        &mut self,
        slot: usize,
        buffer: &mut Vec<u8>,
        start: usize,
        length: usize,
        header: (&Header, Route),
        tables: &mut Tables<'_>,
        now: f64,
    ) -> Found {
        let whole = Bytes::from(std::mem::take(buffer));
        let message = Message::Shared(whole.slice(start..start + length));
        let carried = self.pass(slot, &message, header, tables, now);
        if carried.is_ok() {
            *buffer = whole[start + length..].to_vec();
            return self.found(slot, carried, 0, length);
        }
        drop(message);
        *buffer = Vec::from(whole);
        self.found(slot, carried, start + length, length)
    }

    /// Carry one message out, with the descriptors that have come for it.
    fn pass(
        &mut self,
        slot: usize,
        message: &Message<'_>,
        (header, route): (&Header, Route),
        tables: &mut Tables<'_>,
        now: f64,
    ) -> Result<usize, NotEveryday> {
        let n_fds = header.unix_fds as usize;
        let mut fds: SmallVec<[RawFd; 4]> = SmallVec::new();
        if n_fds > 0 {
            let c = self.parties.get(slot).ok_or(NotEveryday)?;
            let has_them =
                c.takes_fds && n_fds <= c.input.n_fds() && n_fds <= c.standing.max_message_unix_fds;
            if !has_them {
                return Err(NotEveryday);
            }
            fds.extend(c.input.fds().take(n_fds));
        }
        let post = Post { climate: self.climate, from: slot, route, message, header, fds: &fds, now };
        let others = express::carry_out(&post, &mut self.parties, tables)?;
        if n_fds > 0
            && let Some(c) = self.parties.get_mut(slot)
        {
            c.input.give_fds(n_fds);
        }
        Ok(others)
    }

    /// The message of this size ended at `end` of what is left in the buffer.
    fn found(&mut self, slot: usize, carried: Result<usize, NotEveryday>, end: usize, size: usize) -> Found {
        match (carried, self.parties.get_mut(slot)) {
            (Ok(others), Some(c)) => {
                c.input.set_start(end);
                c.input.done(if size > LARGE_BODY { size } else { 0 });
                Found::Done(size, others)
            }
            _ => Found::NotEveryday(size),
        }
    }

    /// Whether the body fits its signature, as far as the budget goes.
    fn check(&mut self, slot: usize, message: &[u8], header: &Header, budget: usize) -> Result<bool, ()> {
        let body = &message[header.header_length..];
        let signature = header.signature_span.bytes(message);
        if body.len() <= budget {
            return check_body(signature, body, header.endian).map(|()| true).map_err(|_| ());
        }
        let c = self.parties.get_mut(slot).ok_or(())?;
        let mut check = match c.input.take_check() {
            Some(check) => check,
            None => Box::new(BodyCheck::new(signature, header.endian, None).map_err(|_| ())?),
        };
        let is_done = check.step(body, budget).map_err(|_| ())?;
        if !is_done {
            c.input.keep_check(check);
        }
        Ok(is_done)
    }
}

/// The first message, which lies at the front of what has come, is Python's, with its descriptors.
fn hand_over_first(c: &mut Connection, length: usize, report: &mut Report) {
    let start = c.input.start();
    let message = &c.input.buffer[start..start + length];
    let n_fds = header::parse(message).map_or(0, |header| header.unix_fds as usize);
    if n_fds > c.input.n_fds() {
        hand_over_all(c, End::Open, report);
        return;
    }
    c.input.hand_over_first(length, n_fds);
    report.hand_over(c.fd, IN);
}

/// From now on Python carries out everything that has come, and what the end of the stream means.
pub fn hand_over_all(c: &mut Connection, end: End, report: &mut Report) {
    c.input.hand_over_all(end);
    report.hand_over(c.fd, IN);
}
