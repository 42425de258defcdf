//! What a connection of the lane has said, and what of it is not carried out yet.
//!
//! Theory. Bytes lie in a buffer, which is lent. What a client seldom has in hand (descriptors, a message that is handed over,
//! one that has come in part, or is large) has a place of its own, which is there while something is in it.
//!
//! Invariants. 1. Every descriptor that came is in `rare`, in what is handed over, or has been closed.
//!
//! Not here: reading (`reading`), what becomes of it (`serving`).

use std::collections::VecDeque;
use std::os::fd::RawFd;

use crate::dbus::body::BodyCheck;
use crate::sys;

/// How a stream of bytes ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// It goes on.
    #[default]
    Open,
    /// The client sends nothing more.
    Ended,
    /// Reading failed.
    Failed,
    /// Descriptors were lost on the way.
    Truncated,
    /// There is no memory for what it sends.
    Exhausted,
    /// The kernel lacks something for reading: Python tries again after a pause.
    Short,
    /// Epoll cannot watch the socket, so that nobody would learn of what comes.
    Unwatched,
}

/// What Python carries out instead of the lane.
#[derive(Debug, Default)]
pub struct Handed {
    pub data: Vec<u8>,
    pub fds: Vec<RawFd>,
    pub end: End,
}

impl Drop for Handed {
    fn drop(&mut self) {
        self.fds.drain(..).for_each(sys::close);
    }
}

/// What is seldom in hand.
#[derive(Default)]
struct Rare {
    fds: VecDeque<RawFd>,
    /// The check of the body of the first message, as far as it has come.
    check: Option<Box<BodyCheck>>,
    /// The length of the first message, if that is known and it is not there yet; else 0.
    expected: usize,
    /// The length of the last message, if that was large: the next one is likely to be so, too.
    usual: usize,
    handed: Option<Handed>,
}

impl Drop for Rare {
    fn drop(&mut self) {
        self.fds.drain(..).for_each(sys::close);
    }
}

/// What has come, and is not carried out yet.
#[derive(Default)]
pub struct Input {
    pub buffer: Vec<u8>,
    start: u32,
    rare: Option<Box<Rare>>,
    peak_bytes: u32,
    peak_fds: u32,
    /// How many messages in a row have been handed over, one by one, in its turn.
    pub n_handed: u16,
    /// The lane reads the socket, and carries out what is everyday.
    pub is_ours: bool,
    /// It stands in the line of those that can go on.
    pub is_busy: bool,
}

impl Input {
    /// Where in `buffer` the first message begins.
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// It begins there from now on.
    pub fn set_start(&mut self, start: usize) {
        // a message has 128 MiB at most, and a buffer little more than one
        self.start = start as u32;
    }

    /// How many bytes are not carried out.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start()
    }

    /// The length of the first message, if that is known and it is not there yet; else 0.
    fn expected(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.expected)
    }

    /// How much of the first message is to come, as far as is known.
    pub fn lacks(&self) -> usize {
        self.expected().saturating_sub(self.pending())
    }

    /// The first message has this length, and is not there yet; 0: who knows.
    pub fn set_expected(&mut self, length: usize) {
        match &mut self.rare {
            Some(rare) => rare.expected = length,
            None if length == 0 => {}
            none => none.get_or_insert_default().expected = length,
        }
    }

    /// The length of the last message, if that was large, else 0: the next one is likely to be so, too.
    pub fn usual(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.usual)
    }

    /// A message of this length, 0 if it was not large, has been carried out.
    pub fn done(&mut self, large: usize) {
        match &mut self.rare {
            Some(rare) => (rare.expected, rare.usual) = (0, large),
            None if large == 0 => {}
            none => none.get_or_insert_default().usual = large,
        }
    }

    /// How many descriptors have come whose message has not been carried out.
    pub fn n_fds(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.fds.len())
    }

    /// The first of them.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.rare.iter().flat_map(|rare| rare.fds.iter().copied())
    }

    /// These have come.
    pub fn bring(&mut self, fds: Vec<RawFd>) {
        if fds.is_empty() {
            return;
        }
        let rare = self.rare.get_or_insert_default();
        if rare.fds.is_empty() {
            rare.fds = fds.into();
        } else {
            rare.fds.extend(fds);
        }
    }

    /// The first descriptors are somebody else's from now on.
    pub fn give_fds(&mut self, n_fds: usize) {
        if let Some(rare) = &mut self.rare {
            rare.fds.drain(..n_fds.min(rare.fds.len()));
        }
    }

    /// The check of the first message's body, as far as it has come.
    pub fn take_check(&mut self) -> Option<Box<BodyCheck>> {
        self.rare.as_mut()?.check.take()
    }

    /// It goes on another time.
    pub fn keep_check(&mut self, check: Box<BodyCheck>) {
        self.rare.get_or_insert_default().check = Some(check);
    }

    /// Nothing is here.
    pub fn is_empty(&self) -> bool {
        self.pending() == 0 && self.n_fds() == 0
    }

    /// The most that ever was in hand: bytes, descriptors.
    pub fn peak(&self) -> (u64, u64) {
        (self.peak_bytes.into(), self.peak_fds.into())
    }

    /// So much is in hand.
    pub fn note_peaks(&mut self) {
        let limited = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.peak_bytes = self.peak_bytes.max(limited(self.pending()));
        self.peak_fds = self.peak_fds.max(limited(self.n_fds()));
    }

    /// Python has something to carry out.
    pub fn has_handed(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.handed.is_some())
    }

    /// What Python has to carry out.
    pub fn take_handed(&mut self) -> Option<Handed> {
        let handed = self.rare.as_mut()?.handed.take();
        self.tidy();
        handed
    }

    /// The place for what is seldom in hand goes if nothing is in it.
    pub fn tidy(&mut self) {
        let is_idle = |rare: &Rare| {
            rare.fds.is_empty()
                && rare.check.is_none()
                && rare.handed.is_none()
                && (rare.expected, rare.usual) == (0, 0)
        };
        self.rare.take_if(|rare| is_idle(rare));
    }

    /// There is no memory for more: what has come is dropped, and Python ends the connection.
    pub fn give_up(&mut self) {
        self.buffer = Vec::new();
        self.start = 0;
        self.hand_over_all(End::Exhausted);
    }

    /// Nobody can wait for it any more: Python ends the connection, whoever has its input.
    pub fn end_unwatched(&mut self) {
        match self.rare.as_mut().and_then(|rare| rare.handed.as_mut()) {
            Some(handed) => handed.end = End::Unwatched,
            None => self.hand_over_all(End::Unwatched),
        }
    }

    /// From now on Python carries out the first message, which has this length, with its descriptors.
    pub fn hand_over_first(&mut self, length: usize, n_fds: usize) {
        let data = if self.start == 0 && length == self.buffer.len() {
            std::mem::take(&mut self.buffer)
        } else {
            let data = self.buffer[self.start()..self.start() + length].to_vec();
            self.set_start(self.start() + length);
            data
        };
        let rare = self.rare.get_or_insert_default();
        let fds = rare.fds.drain(..n_fds.min(rare.fds.len())).collect();
        (rare.expected, rare.check) = (0, None);
        rare.handed = Some(Handed { data, fds, end: End::Open });
        self.n_handed = self.n_handed.saturating_add(1);
        self.is_ours = false;
    }

    /// From now on Python carries out everything that has come.
    pub fn hand_over_all(&mut self, end: End) {
        let mut data = std::mem::take(&mut self.buffer);
        data.drain(..self.start());
        self.start = 0;
        let rare = self.rare.get_or_insert_default();
        (rare.expected, rare.check) = (0, None);
        let handed = rare.handed.get_or_insert_default();
        if handed.data.is_empty() {
            handed.data = data;
        } else {
            // behind what Python has not taken yet
            handed.data.extend_from_slice(&data);
        }
        handed.fds.extend(rare.fds.drain(..));
        if end != End::Open {
            handed.end = end;
        }
        self.is_ours = false;
    }
}
