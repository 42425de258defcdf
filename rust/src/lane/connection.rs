//! One D-Bus connection that has joined the lane.
//!
//! Theory. What it sends lies in `Input` until it is carried out or handed over, in the order in which it came; what
//! waits for it lies in Core's queue, and `Output` knows how much of the first message is written. Buffers grow with what
//! really arrived, never with what a header announces.
//!
//! Invariants. 1. While `Input::is_ours` is false, Python reads the socket. 2. Every descriptor that came is in `fds`, in
//! what is handed over, or has been closed.
//!
//! Not here: what messages do (`express`), writing (`output`).

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::RawFd;
use std::sync::Arc;

use super::door::Entry;
use super::transit::Passage;
use crate::core::{Credentials, Usage};
use crate::dbus::body::BodyCheck;
use crate::sys;
use crate::tables::ClientPolicy;

/// What a client may do, and what it has, as far as the lane asks.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// It may send everything to everybody.
    pub sends_all: bool,
    /// It may receive everything from everybody.
    pub receives_all: bool,
    /// What it may do otherwise; one for all clients with the same rules. None: Python alone knows.
    pub policy: Option<Arc<ClientPolicy>>,
    /// Descriptors may be passed to it, and by it.
    pub takes_fds: bool,
    pub max_message_size: usize,
    pub max_message_unix_fds: usize,
    pub max_incoming_unix_fds: usize,
    pub max_outgoing_unix_fds: usize,
    pub max_incoming_bytes: u64,
    pub max_outgoing_bytes: u64,
    pub max_replies: usize,
    pub max_match_rules: u32,
}

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

/// What has come, and is not carried out yet.
#[derive(Default)]
pub struct Input {
    /// The lane reads the socket, and carries out what is everyday.
    pub is_ours: bool,
    pub buffer: Vec<u8>,
    /// Where in `buffer` the first message begins.
    pub start: usize,
    pub fds: VecDeque<RawFd>,
    /// The check of the body of the first message, as far as it has come.
    pub check: Option<BodyCheck>,
    /// The length of the first message, if that is known and it is not there yet; else 0.
    pub expected: usize,
    /// The length of the last message, if that was large: the next one is likely to be so, too.
    pub usual: usize,
    pub handed: Option<Handed>,
    /// How many messages in a row have been handed over, one by one, in its turn.
    pub n_handed: usize,
    /// It stands in the line of those that can go on.
    pub is_busy: bool,
    pub peak_bytes: u64,
    pub peak_fds: u64,
}

impl Input {
    /// How many bytes are not carried out.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// How much of the first message is to come, as far as is known.
    pub fn lacks(&self) -> usize {
        self.expected.saturating_sub(self.pending())
    }

    /// Nothing is here.
    pub fn is_empty(&self) -> bool {
        self.pending() == 0 && self.fds.is_empty()
    }

    /// There is no memory for more: what has come is dropped, and Python ends the connection.
    pub fn give_up(&mut self) {
        self.buffer = Vec::new();
        self.start = 0;
        self.hand_over_all(End::Exhausted);
    }

    /// Nobody can wait for it any more: Python ends the connection, whoever has its input.
    pub fn end_unwatched(&mut self) {
        match &mut self.handed {
            Some(handed) => handed.end = End::Unwatched,
            None => self.hand_over_all(End::Unwatched),
        }
    }

    /// From now on Python carries out everything that has come.
    pub fn hand_over_all(&mut self, end: End) {
        let mut data = std::mem::take(&mut self.buffer);
        data.drain(..self.start);
        self.start = 0;
        self.expected = 0;
        self.check = None;
        let mut handed = self.handed.take().unwrap_or_default();
        if handed.data.is_empty() {
            handed.data = data;
        } else {
            // behind what Python has not taken yet
            handed.data.extend_from_slice(&data);
        }
        handed.fds.extend(self.fds.drain(..));
        if end != End::Open {
            handed.end = end;
        }
        self.handed = Some(handed);
        self.is_ours = false;
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.fds.drain(..).for_each(sys::close);
    }
}

/// What is known of the writing.
#[derive(Default)]
pub struct Output {
    /// Bytes of the first queued message that are written.
    pub offset: usize,
    /// The socket takes nothing until epoll says so.
    pub is_blocked: bool,
    /// Python writes something that goes before the queue.
    pub is_held: bool,
    /// It stands in the line of those that may have something to write.
    pub is_dirty: bool,
    /// What is about to be written to it, within a step of the lane.
    pub passage: Option<Box<Passage>>,
    /// The most that ever waited when something was written.
    pub peak: Usage,
}

impl Output {
    /// What comes next may be written at once, as far as this knows.
    pub fn is_free(&self) -> bool {
        !(self.is_blocked || self.is_held || self.offset != 0)
    }
}

/// Whether its queue moves.
#[derive(Default)]
pub struct Pace {
    /// When bytes last entered its socket, or its queue became non-empty.
    pub moved: f64,
    /// Python has not been told of that.
    pub is_noted: bool,
    /// Somebody waits for it to move: Python is told at once.
    pub is_awaited: bool,
}

/// One client.
pub struct Connection {
    pub fd: RawFd,
    pub peer: u64,
    pub unique: Box<str>,
    pub credentials: Arc<Credentials>,
    pub standing: Standing,
    /// Answers that it awaits of native services, at most.
    pub native_calls: usize,
    /// The bus's number for its next message to the client.
    pub next_serial: u32,
    /// Some of these numbers are those of calls that native peers have made of it.
    pub has_reserved: bool,
    /// Native peers follow its signals.
    pub has_followers: bool,
    /// What it says is being dropped: it is read when nobody else has anything.
    pub comes_last: bool,
    /// Well-known names that it is primary owner of, in order of acquisition.
    pub names: Vec<Box<str>>,
    /// These, and those that it waits for.
    pub claims: BTreeSet<Box<str>>,
    pub input: Input,
    pub output: Output,
    pub pace: Pace,
    /// What Python waits for while the input is its own, and for its own output.
    pub wanted: u32,
    /// What epoll has been asked for.
    pub watched: u32,
    /// It stands in the line of those whose wants may have changed.
    pub is_stale: bool,
    /// Python has not been told of it.
    pub is_guest: bool,
    /// How far it has come, while it has no name.
    pub entry: Option<Box<Entry>>,
    /// Answers of the authentication that are not written, and go before everything else: Python writes them.
    pub unsent: Box<[u8]>,
}

impl Connection {
    /// The bus's number for a message to the client; never 0.
    pub fn draw_serial(&mut self) -> u32 {
        let serial = self.next_serial;
        self.next_serial = serial.checked_add(1).unwrap_or(1);
        serial
    }

    /// One whose input is the lane's, and of which nothing is written yet.
    pub fn new(
        fd: RawFd,
        peer: u64,
        unique: &str,
        credentials: Arc<Credentials>,
        standing: Standing,
    ) -> Self {
        let mut input = Input::default();
        input.is_ours = true;
        Self {
            fd,
            peer,
            unique: unique.into(),
            credentials,
            standing,
            native_calls: 0,
            next_serial: 1,
            has_reserved: false,
            has_followers: false,
            comes_last: false,
            names: Vec::new(),
            claims: BTreeSet::new(),
            input,
            output: Output::default(),
            pace: Pace::default(),
            wanted: 0,
            watched: 0,
            is_stale: false,
            is_guest: false,
            entry: None,
            unsent: Box::default(),
        }
    }
}
