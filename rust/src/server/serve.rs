//! Receiving: a station's line is served, and its readiness byte is kept.
//!
//! Theory. As `bus1/station.py`: RECVs are answered in the order in which they came, as long as there are messages; a
//! parked one waits, one that may be answered again stays in front. What needs Python (descriptors, a segment that the
//! channel has not been sent, a channel or a line that is not here) is left as it is, and the station is reported.
//!
//! Invariants. 1. If serving ends well, no RECV waits that could be answered, and a byte is in flight if the peer is
//! readable. 2. What is left to Python has not been taken out of the queue.
//!
//! Not here: which requests there are (`execute`).

use std::os::fd::RawFd;

use super::channel::Channel;
use super::frames::{MAX_INLINE_SLICE, Writer, error_answer, note};
use super::request::{INSTALL_FDS, INVALID, MAX_REFERENCES};
use super::station::{MAX_WAITING, Waiting};
use super::{Server, locked};
use crate::core::Core;
use crate::core::api::{Message, MessageType};
use crate::core::error::{Error, Kind};
use crate::lane::Report;

const DETACHED: u32 = 2;

/// What became of the RECV in front.
enum Front {
    /// It has been answered, and may be again.
    Again,
    Answered,
    /// There is nothing for it.
    Waits,
}

impl Server {
    /// A RECV has come: answers it now, or when its turn comes. False: it is Python's.
    pub(super) fn receive(&mut self, core: &mut Core, waiting: Waiting, report: &mut Report) -> bool {
        let Some(peer) = self.channels.get(&waiting.fd).map(|channel| channel.peer) else {
            return true;
        };
        let Some(station) = self.stations.get_mut(&peer) else {
            return true;
        };
        if station.is_here && station.line.len() >= MAX_WAITING {
            let error = (libc::EDQUOT as u32, "too many RECVs wait at this peer");
            self.fail(core, peer, &waiting, error);
            return true;
        }
        station.line.push_back(waiting);
        self.serve(core, peer, report)
    }

    /// Answers whoever can be answered. False: Python has to see the station.
    pub(super) fn serve(&mut self, core: &mut Core, peer: u64, report: &mut Report) -> bool {
        let is_served = self.serve_line(core, peer, report) && self.signal(core, peer);
        if !is_served && let Some(station) = self.stations.get(&peer) {
            report.events.push((station.end, 0));
        }
        is_served
    }

    fn serve_line(&mut self, core: &mut Core, peer: u64, report: &mut Report) -> bool {
        let most = core.effort().saturating_add(MAX_REFERENCES as u64);
        let mut at = 0;
        loop {
            let Some(station) = self.stations.get(&peer) else {
                return true;
            };
            if !station.is_here {
                return false;
            }
            let Some(&waiting) = station.line.get(at) else {
                return true;
            };
            if waiting.receiving.is_parked && !core.is_readable(peer) {
                at += 1;
                continue;
            }
            if core.effort() > most || !self.is_everyday(core, peer, &waiting) {
                return false;
            }
            match self.answer_front(core, peer, at, waiting, report) {
                Front::Again | Front::Answered => {}
                Front::Waits => at += 1,
            }
        }
    }

    /// Nothing about the next message, or who would get it, needs Python.
    fn is_everyday(&self, core: &Core, peer: u64, waiting: &Waiting) -> bool {
        if !self.channels.get(&waiting.fd).is_some_and(|channel| channel.is_here) {
            return false;
        }
        let (Some(station), Some(front)) = (self.stations.get(&peer), core.look_ahead(peer).next()) else {
            return true;
        };
        if waiting.receiving.installs_fds && !front.fds.is_empty() {
            return false;
        }
        let is_whole = front.size <= MAX_INLINE_SLICE && waiting.receiving.is_detached;
        if front.kind != MessageType::Data || is_whole {
            return true;
        }
        locked(&station.memory)
            .segment_at(front.offset)
            .is_some_and(|segment| station.holds(segment.generation, waiting.fd))
    }

    fn answer_front(
        &mut self,
        core: &mut Core,
        peer: u64,
        at: usize,
        mut waiting: Waiting,
        report: &mut Report,
    ) -> Front {
        let flags = if waiting.receiving.installs_fds { INSTALL_FDS } else { 0 };
        let message = match core.recv(peer, flags, waiting.receiving.max_offset) {
            Ok(message) => message,
            Err(error) if error.kind == Kind::WouldBlock && waiting.receiving.is_parked => {
                return Front::Waits;
            }
            Err(error) => {
                self.leave_line(peer, at);
                let words = self.words(&error);
                self.fail(core, peer, &waiting, words);
                return Front::Answered;
            }
        };
        let mut notes = 0;
        if waiting.receiving.more > 0 && take_release(core, peer, &message) {
            notes |= note::RELEASED;
        }
        notes |= self.drained(core, peer);
        let is_again = waiting.receiving.more > 0 && !self.is_clogged(waiting.fd, report);
        if is_again {
            notes |= note::MORE;
            waiting.receiving.more -= 1;
            if let Some(place) = self.stations.get_mut(&peer).and_then(|station| station.line.get_mut(at)) {
                *place = waiting;
            }
        } else {
            self.leave_line(peer, at);
        }
        self.push_message(core, peer, &waiting, &message, notes);
        if is_again { Front::Again } else { Front::Answered }
    }

    fn leave_line(&mut self, peer: u64, at: usize) {
        if let Some(station) = self.stations.get_mut(&peer) {
            station.line.remove(at);
        }
    }

    fn push_message(&mut self, core: &mut Core, peer: u64, waiting: &Waiting, message: &Message, notes: u16) {
        let (Some(station), Some(channel)) = (self.stations.get(&peer), self.channels.get_mut(&waiting.fd))
        else {
            return;
        };
        let mut place = (0, 0, 0);
        let (mut slice_note, mut n_inline) = (0, 0);
        let memory = locked(&station.memory);
        if message.offset != INVALID
            && let Some(segment) = memory.segment_at(message.offset)
        {
            place = (segment.generation, u64::from(segment.base), u64::from(segment.size));
            if message.size <= MAX_INLINE_SLICE {
                n_inline = message.size as u32;
                slice_note = if waiting.receiving.is_detached { DETACHED } else { 0 };
            }
        }
        let out = begin(channel, waiting.fd, &mut self.dirty, &mut self.spare);
        let writer = Writer::answer(out, waiting.operation, waiting.tag, 0, waiting.done, notes)
            .u64(message.kind as u64)
            .u64(u64::from(message.flags))
            .u64(message.destination)
            .u32(message.uid as u32)
            .u32(message.gid as u32)
            .u32(message.pid as u32)
            .u32(message.tid as u32)
            .u64(message.offset)
            .u64(message.n_bytes)
            .u64(message.handles.len() as u64)
            .u64(message.fds.len() as u64)
            .u64(message.secctx.as_ref().map_or(0, |label| label.len() as u64))
            .u64(message.size)
            .u32(slice_note)
            .u32(n_inline)
            .u64(place.0)
            .u64(place.1)
            .u64(place.2)
            .u64(message.serial);
        writer.append(|out| memory.read(message.offset, n_inline as usize, out)).end();
        drop(memory);
        if slice_note == DETACHED {
            let unmapped = station.is_unmapped(place.0);
            // what has just been received can be given back
            let _ = core.slice_release(peer, message.offset, message.serial, unmapped);
        }
    }

    /// An answer that says what went wrong; the channel is here.
    pub(super) fn fail(&mut self, core: &Core, peer: u64, waiting: &Waiting, words: (u32, &str)) {
        let notes = self.drained(core, peer);
        let (operation, tag, done) = (waiting.operation, waiting.tag, waiting.done);
        self.push(waiting.fd, |out| error_answer(out, operation, tag, words, done, notes));
    }

    /// One frame more for a channel.
    pub(super) fn push(&mut self, fd: RawFd, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(channel) = self.channels.get_mut(&fd) {
            write(begin(channel, fd, &mut self.dirty, &mut self.spare));
        }
    }

    /// Too much is unsent: while it is the turn of the channel, or else because the client does not read.
    fn is_clogged(&mut self, fd: RawFd, report: &mut Report) -> bool {
        if self.is_full(fd) {
            if self.working == Some(fd) {
                return true;
            }
            self.flush(fd, report);
        }
        self.channels.get(&fd).is_none_or(|channel| !channel.is_here)
    }

    fn drained(&mut self, core: &Core, peer: u64) -> u16 {
        match self.stations.get_mut(&peer) {
            Some(station) if station.is_signalled && !core.is_readable(peer) => {
                station.is_signalled = false;
                note::DRAINED
            }
            _ => 0,
        }
    }

    /// A byte is in flight if the peer is readable. False: there is no room for it.
    fn signal(&mut self, core: &Core, peer: u64) -> bool {
        let Some(station) = self.stations.get_mut(&peer) else {
            return true;
        };
        if station.is_signalled || !core.is_readable(peer) {
            return true;
        }
        match self.wire.send(station.end, b"\x01") {
            Ok(_) => station.is_signalled = true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            // the hang-up is on its way
            Err(_) => {}
        }
        true
    }

    /// Errno and words of an error of Core.
    pub(super) fn words<'a>(&mut self, error: &'a Error) -> (u32, &'a str) {
        if matches!(error.kind, Kind::Internal | Kind::Foreign) {
            self.broken.get_or_insert_with(|| error.text.to_string());
        }
        (error.errno() as u32, &error.text)
    }
}

/// Where a frame more of a channel is to be written.
fn begin<'a>(
    channel: &'a mut Channel,
    fd: RawFd,
    dirty: &mut Vec<RawFd>,
    spare: &mut Vec<Vec<u8>>,
) -> &'a mut Vec<u8> {
    if channel.output.is_empty() {
        dirty.push(fd);
        if channel.output.capacity() == 0 {
            channel.output = spare.pop().unwrap_or_default();
        }
    }
    channel.n_frames += 1;
    &mut channel.output
}

/// A reply is the last message to its node: what that leaves behind goes along.
fn take_release(core: &mut Core, peer: u64, message: &Message) -> bool {
    if message.kind != MessageType::Data {
        return false;
    }
    let is_next = core.look_ahead(peer).next().is_some_and(|front| {
        front.kind == MessageType::NodeRelease && front.destination == message.destination
    });
    is_next && core.recv(peer, 0, INVALID).is_ok()
}
