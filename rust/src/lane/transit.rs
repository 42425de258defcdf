//! Messages on their way through the lane, from one socket into another, without a queue between.
//!
//! Theory. A message to a reader for whom nothing waits, and whose socket takes bytes, is appended to what is about to be
//! written to it. At the end of the step each such reader is written once, several of them with one call of the kernel. What was written whole is counted in Core, and
//! that is all; what was not is put into Core's queues, where it would have been anyhow. `core::transit` tells why that
//! is the same. Buffers are borrowed from a store for a step, so that an idle connection has none.
//!
//! Invariants. 1. While something is in transit nothing else happens in Core: who needs Core for something else settles
//! first. A reader at `FULL` (`FDS_FULL`) is written before the others. What it does not take is queued then, which had room as all that is
//! in transit; nothing more may pass to it, so who has asked that settles all before anything else.
//! 2. Nothing is in transit when the lock of the tables is free. 3. What is in transit is bounded: `FULL` at a reader, `ALL`
//! together; likewise descriptors. 4. A descriptor in transit is closed once it is written, or is in Core's queue and in
//! `Parties::fds`.
//!
//! Not here: which messages are everyday (`express`), writing queues (`output`).

use std::io;
use std::os::fd::RawFd;

use bytes::Bytes;
use smallvec::SmallVec;

use super::output;
use super::parties::Parties;
use crate::core::{Core, Parts, Room, Usage};
use crate::sys::{self, Together, WRITES_MAX};

/// The slot of the bus itself, as a sender.
pub const BUS: usize = usize::MAX;
/// Larger messages go through Core, which does not copy them.
const LARGEST: usize = 17 << 10;
/// So much for one reader is written at once.
const FULL: usize = 128 << 10;
/// So many descriptors for one reader are written at once.
const FDS_FULL: usize = 64;
/// So many descriptors may be in transit, so that they leave room for those of others.
const FDS_ALL: u64 = 256;
/// So much may be charged for all that is in transit.
pub const ALL: u64 = 8 << 20;
/// So many bytes in buffers are kept for the next step, and so many buffers.
const STORED_BYTES: usize = 4 << 20;
const STORED: usize = 1024;

/// One message in transit.
struct Record {
    stamp: u64,
    n_bytes: usize,
    n_fds: usize,
    /// Slot of its sender.
    from: usize,
}

/// What is about to be written to one reader.
#[derive(Default)]
pub struct Passage {
    /// The messages, one behind the other.
    pub bytes: Vec<u8>,
    records: Vec<Record>,
    /// Their descriptors, in the same order, which are the passage's.
    fds: Vec<RawFd>,
    /// What they are charged.
    weight: u64,
    /// Whose messages have this room here.
    from: usize,
    room: Room,
}

/// What is in transit of the whole lane.
#[derive(Default)]
pub struct Transit {
    /// Slots of the readers, in the order of their first messages.
    readers: Vec<usize>,
    /// What all of it is charged, and whatever has been put into Core meanwhile.
    charged: Ahead,
    // they move in and out as they are
    #[allow(clippy::vec_box)]
    store: Vec<Box<Passage>>,
    stored_bytes: usize,
    /// Descriptors that have been written: closed at the end of the step.
    written_fds: Vec<RawFd>,
    /// How several readers are written.
    pub together: Together,
    /// Room for the receivers of a signal, and for the signal.
    pub receivers: Vec<usize>,
    pub copy: Vec<u8>,
}

/// Messages, the bytes that they are charged, and their descriptors.
#[derive(Clone, Copy, Default)]
pub struct Ahead {
    pub messages: u64,
    pub bytes: u64,
    pub fds: u64,
}

/// How large a message is at most, and how many descriptors it has.
#[derive(Clone, Copy)]
pub struct Size {
    pub most: usize,
    pub n_fds: usize,
}

/// What may wait at a reader, in bytes and in descriptors.
#[derive(Clone, Copy)]
pub struct Marks {
    pub bytes: u64,
    pub fds: usize,
}

impl Marks {
    /// The bus's own messages, without descriptors, may wait in any number.
    pub const NONE: Self = Self { bytes: u64::MAX, fds: 0 };
}

impl Parties {
    /// Whether a message of this size may pass from one slot to another; there is room for it in the buffer then.
    ///
    /// `marks` is what may wait there; `ahead` is what passes before it, and grows.
    pub fn may_pass(
        &mut self,
        core: &mut Core,
        (from, to): (usize, usize),
        Size { most, n_fds }: Size,
        marks: Marks,
        ahead: &mut Ahead,
    ) -> bool {
        if most > LARGEST || n_fds > FDS_FULL {
            return false;
        }
        let is_full =
            |passage: &Passage| passage.bytes.len() + most > FULL || passage.fds.len() + n_fds > FDS_FULL;
        if self.passage(to).is_some_and(is_full) {
            self.settle_one(core, to);
        }
        if !self.get(to).is_some_and(|c| c.output.is_free()) {
            return false;
        }
        if self.passage(to).is_none_or(|passage| passage.from != from) {
            let Some(room) = self.room(core, from, to) else {
                return false;
            };
            let passage = self.attach(to);
            let Some(passage) = passage else { return false };
            (passage.from, passage.room) = (from, room);
        }
        let charged = self.transit.charged;
        let Some(passage) = self.passage_mut(to) else {
            return false;
        };
        let charge = passage.room.charge(most, n_fds);
        ahead.messages += 1;
        ahead.bytes = ahead.bytes.saturating_add(charge);
        ahead.fds += n_fds as u64;
        let bytes = charged.bytes.saturating_add(ahead.bytes);
        (passage.records.is_empty() || passage.weight.saturating_add(charge) <= marks.bytes)
            && (n_fds == 0 || passage.fds.is_empty() || passage.fds.len() + n_fds <= marks.fds)
            && charged.messages + ahead.messages <= passage.room.messages
            && bytes <= passage.room.bytes.min(ALL)
            && (n_fds == 0 || charged.fds + ahead.fds <= passage.room.fds.min(FDS_ALL))
            && passage.bytes.try_reserve(most).is_ok()
            && passage.records.try_reserve(1).is_ok()
            && passage.fds.try_reserve(n_fds).is_ok()
    }

    /// The same, if need be when what is in transit has been written; `ask` finds out, and may be asked twice.
    pub fn may_pass_at_last(
        &mut self,
        core: &mut Core,
        mut ask: impl FnMut(&mut Self, &mut Core) -> bool,
    ) -> bool {
        if ask(self, core) {
            return true;
        }
        let has_something = self.transit.charged.messages > 0;
        self.settle(core);
        has_something && ask(self, core)
    }

    /// A message that may pass is in transit from now on, as `write` appends it, and `fds` with it; false, and nothing has
    /// happened, if that says so. Its stamp is drawn then, unless it is one that has been.
    pub fn append(
        &mut self,
        core: &mut Core,
        (from, to): (usize, usize),
        stamp: Option<u64>,
        now: f64,
        fds: &[RawFd],
        write: impl FnOnce(&Self, &mut Vec<u8>) -> bool,
    ) -> bool {
        let Some(mut passage) = self.take_passage(to) else {
            return false;
        };
        let before = passage.bytes.len();
        if !write(self, &mut passage.bytes) {
            passage.bytes.truncate(before);
            self.put_passage(to, Some(passage));
            return false;
        }
        let n_bytes = passage.bytes.len() - before;
        let stamp = stamp.unwrap_or_else(|| core.draw_stamp());
        let was_empty = passage.records.is_empty();
        let charge = passage.room.charge(n_bytes, fds.len());
        passage.weight += charge;
        passage.records.push(Record { stamp, n_bytes, n_fds: fds.len(), from });
        passage.fds.extend_from_slice(fds);
        self.transit.charged.messages += 1;
        self.transit.charged.bytes += charge;
        self.transit.charged.fds += fds.len() as u64;
        self.put_passage(to, Some(passage));
        self.delivered(to, was_empty, now);
        true
    }

    /// What is about to be written to a reader, for a moment.
    fn take_passage(&mut self, to: usize) -> Option<Box<Passage>> {
        self.get_mut(to)?.output.passage.take()
    }

    /// The opposite.
    fn put_passage(&mut self, to: usize, passage: Option<Box<Passage>>) {
        if let Some(c) = self.get_mut(to) {
            c.output.passage = passage;
        }
    }

    /// Write what is in transit; whatever is not taken is in Core's queues then.
    pub fn settle(&mut self, core: &mut Core) {
        let mut at = 0;
        while let Some(&first) = self.transit.readers.get(at) {
            let group = self.transit.readers.get(at..).unwrap_or_default();
            let is_plain = |&to: &usize| self.passage(to).is_some_and(Passage::is_plain);
            let n_plain = group.iter().take(WRITES_MAX).take_while(|to| is_plain(to)).count();
            if n_plain > 1 {
                self.settle_several(core, at, n_plain);
                at += n_plain;
            } else {
                self.settle_one(core, first);
                at += 1;
            }
        }
        for at in 0..self.transit.readers.len() {
            if let Some(passage) = self.take_passage(self.transit.readers[at]) {
                self.transit.give(passage);
            }
        }
        self.transit.readers.clear();
        self.transit.charged = Ahead::default();
        sys::close_all(&mut self.transit.written_fds);
    }

    fn passage(&self, to: usize) -> Option<&Passage> {
        self.get(to)?.output.passage.as_deref()
    }

    fn passage_mut(&mut self, to: usize) -> Option<&mut Passage> {
        self.get_mut(to)?.output.passage.as_deref_mut()
    }

    fn room(&self, core: &Core, from: usize, to: usize) -> Option<Room> {
        let reader = self.get(to)?.peer;
        let Some(sender) = self.get(from) else {
            return core.room(self.bus.peer, reader, &self.bus.credentials);
        };
        core.room(sender.peer, reader, &sender.credentials)
    }

    fn attach(&mut self, to: usize) -> Option<&mut Passage> {
        if self.passage(to).is_none() {
            self.transit.readers.push(to);
            let passage = self.transit.take();
            self.put_passage(to, Some(passage));
        }
        self.passage_mut(to)
    }

    /// Write what is in transit to one reader.
    fn settle_one(&mut self, core: &mut Core, to: usize) {
        let Some(passage) = self.take_passage(to) else {
            return;
        };
        let Some(fd) = self.get(to).map(|c| c.fd).filter(|_| !passage.records.is_empty()) else {
            self.put_passage(to, Some(passage));
            return;
        };
        let result = loop {
            match passage.write(fd) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.settled(core, to, passage, result);
    }

    /// Write what is in transit to several readers, which `is_plain`, with one call: so many from there on.
    fn settle_several(&mut self, core: &mut Core, start: usize, n: usize) {
        let mut going: SmallVec<[(usize, Box<Passage>); WRITES_MAX]> = SmallVec::new();
        for at in start..start + n {
            let to = self.transit.readers[at];
            going.extend(self.take_passage(to).map(|passage| (to, passage)));
        }
        let mut writes: SmallVec<[(RawFd, &[u8]); WRITES_MAX]> = SmallVec::new();
        for (to, passage) in &going {
            writes.push((self.get(*to).map_or(-1, |c| c.fd), &passage.bytes));
        }
        let results = self.transit.together.send_each(&writes);
        drop(writes);
        for ((to, passage), result) in going.into_iter().zip(results) {
            self.settled(core, to, passage, result);
        }
    }

    /// So much of what was in transit to a reader is written.
    fn settled(&mut self, core: &mut Core, to: usize, mut passage: Box<Passage>, result: io::Result<usize>) {
        let n_messages = passage.records.len() as u64;
        let Some(c) = self.get_mut(to) else { return };
        let n_fds = passage.fds.len() as u64;
        c.output.note_peak(Usage { bytes: passage.weight, messages: n_messages, fds: n_fds });
        let written = *result.as_ref().unwrap_or(&0);
        if written == passage.bytes.len() {
            core.passed(c.peer, n_messages);
            self.transit.charged.messages -= n_messages;
            self.transit.charged.bytes -= passage.weight;
            self.transit.charged.fds -= n_fds;
            self.transit.written_fds.append(&mut passage.fds);
            if self.transit.written_fds.len() >= FDS_FULL {
                sys::close_all(&mut self.transit.written_fds);
            }
            passage.clear();
            self.put_passage(to, Some(passage));
            return;
        }
        // what else it is, if not that, is met again by who writes the queue
        let is_blocked = result.map_or_else(|error| error.kind() == io::ErrorKind::WouldBlock, |_| true);
        self.queue(core, to, &mut passage, written);
        self.transit.give(passage);
        if let Some(c) = self.get_mut(to) {
            c.output.is_blocked = is_blocked;
            self.mark_stale(to);
        }
    }

    /// Put everything into Core, of which so much is written.
    fn queue(&mut self, core: &mut Core, to: usize, passage: &mut Passage, written: usize) {
        let Some(reader) = self.get(to).map(|c| c.peer) else {
            return;
        };
        let mut rest = &passage.bytes[..];
        let mut fds = std::mem::take(&mut passage.fds);
        for record in &passage.records {
            let (message, behind) = rest.split_at(record.n_bytes.min(rest.len()));
            rest = behind;
            let mut parts = Parts::new();
            parts.push(Bytes::copy_from_slice(message));
            let (sender, credentials) = match self.get(record.from) {
                Some(c) => (c.peer, &c.credentials),
                None => (self.bus.peer, &self.bus.credentials),
            };
            let own: SmallVec<[RawFd; 4]> = fds.drain(..record.n_fds.min(fds.len())).collect();
            let ways = (sender, reader);
            if core.deliver_late(ways, parts, message.len(), &own, credentials, record.stamp) {
                self.fds.extend(own.into_iter().map(|fd| (fd, sender)));
            } else {
                own.into_iter().for_each(sys::close);
            }
        }
        if let Some(c) = self.get_mut(to) {
            // what went wrong here goes wrong again where it is told
            let _ = output::dequeue(c, core, written);
            core.unwake(reader);
        }
        self.close_freed(core);
    }
}

impl Transit {
    fn give(&mut self, mut passage: Box<Passage>) {
        passage.clear();
        let size = self.stored_bytes + passage.size();
        if self.store.len() < STORED && size <= STORED_BYTES {
            self.stored_bytes = size;
            self.store.push(passage);
        }
    }

    fn take(&mut self) -> Box<Passage> {
        let passage = self.store.pop().unwrap_or_default();
        self.stored_bytes = self.stored_bytes.saturating_sub(passage.size());
        passage
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        sys::close_all(&mut self.fds);
    }
}

impl Passage {
    /// It is one piece of bytes.
    fn is_plain(&self) -> bool {
        self.fds.is_empty() && !self.bytes.is_empty()
    }

    fn size(&self) -> usize {
        self.bytes.capacity()
            + self.records.capacity() * size_of::<Record>()
            + self.fds.capacity() * size_of::<RawFd>()
    }

    /// Write all of it, as far as the socket takes it: one with descriptors by itself, so that they come with its first byte.
    fn write(&self, fd: RawFd) -> io::Result<usize> {
        if self.fds.is_empty() {
            return sys::send(fd, &[&self.bytes], &[]);
        }
        let mut pieces: SmallVec<[(&[u8], &[RawFd]); 32]> = SmallVec::new();
        let (mut bytes, mut fds) = (&self.bytes[..], &self.fds[..]);
        let mut n_plain = 0;
        for record in &self.records {
            if record.n_fds == 0 {
                n_plain += record.n_bytes;
                continue;
            }
            let (plain, behind) = bytes.split_at(n_plain.min(bytes.len()));
            let (message, behind) = behind.split_at(record.n_bytes.min(behind.len()));
            let (own, others) = fds.split_at(record.n_fds.min(fds.len()));
            if !plain.is_empty() {
                pieces.push((plain, &[]));
            }
            pieces.push((message, own));
            (bytes, fds, n_plain) = (behind, others, 0);
        }
        if !bytes.is_empty() {
            pieces.push((bytes, &[]));
        }
        sys::send_several(fd, &pieces)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.weight = 0;
    }
}
