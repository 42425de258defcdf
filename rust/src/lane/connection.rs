//! One D-Bus connection that has joined the lane.
//!
//! Theory. What it sends lies in `Input` until it is carried out or handed over, in the order in which it came; what
//! waits for it lies in Core's queue, and `Output` knows how much of the first message is written. Buffers grow with what
//! really arrived, never with what a header announces. Most connections are idle, so what is the same for many is shared,
//! and what few have is there when they have it.
//!
//! Invariants. 1. While `Input::is_ours` is false, Python reads the socket.
//!
//! Not here: what messages do (`express`), writing (`output`).

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::door::Entry;
pub use super::input::{End, Handed, Input};
use super::short::Short;
use super::transit::Passage;
use crate::core::{Credentials, Usage};
use crate::tables::ClientPolicy;

/// What clients may do, and have, as far as the lane asks; one for all that are alike.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// It may send everything to everybody.
    pub sends_all: bool,
    /// It may receive everything from everybody.
    pub receives_all: bool,
    /// What it may do otherwise; one for all clients with the same rules. None: Python alone knows.
    pub policy: Option<Arc<ClientPolicy>>,
    pub max_message_size: usize,
    pub max_message_unix_fds: usize,
    pub max_incoming_unix_fds: usize,
    pub max_outgoing_unix_fds: usize,
    pub max_incoming_bytes: u64,
    pub max_outgoing_bytes: u64,
    pub max_replies: usize,
    pub max_match_rules: u64,
}

impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        // each field is named, so that a new one cannot be forgotten; a policy is the same if it is one and the same
        let Self {
            sends_all,
            receives_all,
            policy,
            max_message_size,
            max_message_unix_fds,
            max_incoming_unix_fds,
            max_outgoing_unix_fds,
            max_incoming_bytes,
            max_outgoing_bytes,
            max_replies,
            max_match_rules,
        } = self;
        (*sends_all, *receives_all) == (other.sends_all, other.receives_all)
            && policy.as_ref().map(Arc::as_ptr) == other.policy.as_ref().map(Arc::as_ptr)
            && *max_message_size == other.max_message_size
            && *max_message_unix_fds == other.max_message_unix_fds
            && *max_incoming_unix_fds == other.max_incoming_unix_fds
            && *max_outgoing_unix_fds == other.max_outgoing_unix_fds
            && *max_incoming_bytes == other.max_incoming_bytes
            && *max_outgoing_bytes == other.max_outgoing_bytes
            && *max_replies == other.max_replies
            && *max_match_rules == other.max_match_rules
    }
}

/// Well-known names of one client.
#[derive(Debug, Default)]
pub struct Held {
    /// Those that it is primary owner of, in order of acquisition.
    pub names: Vec<Box<str>>,
    /// These, and those that it waits for.
    pub claims: BTreeSet<Box<str>>,
}

static NOTHING: Held = Held { names: Vec::new(), claims: BTreeSet::new() };

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
    peak_bytes: u64,
    peak_messages: u32,
    peak_fds: u32,
}

impl Output {
    /// What comes next may be written at once, as far as this knows.
    pub fn is_free(&self) -> bool {
        !(self.is_blocked || self.is_held || self.offset != 0)
    }

    /// So much waits, and something of it is about to be written.
    pub fn note_peak(&mut self, waiting: Usage) {
        let limited = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        if waiting.bytes > self.peak_bytes {
            (self.peak_bytes, self.peak_messages) = (waiting.bytes, limited(waiting.messages));
        }
        self.peak_fds = self.peak_fds.max(limited(waiting.fds));
    }

    /// The most that ever waited when something was written.
    pub fn peak(&self) -> Usage {
        let (messages, fds) = (self.peak_messages.into(), self.peak_fds.into());
        Usage { bytes: self.peak_bytes, messages, fds }
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
    pub unique: Short,
    pub credentials: Arc<Credentials>,
    pub standing: Arc<Standing>,
    /// Descriptors may be passed to it, and by it.
    pub takes_fds: bool,
    /// Answers that it awaits of native services, at most.
    pub native_calls: u32,
    /// The bus's number for its next message to the client.
    pub next_serial: u32,
    /// Some of these numbers are those of calls that native peers have made of it.
    pub has_reserved: bool,
    /// Native peers follow its signals.
    pub has_followers: bool,
    /// What it says is being dropped: it is read when nobody else has anything.
    pub comes_last: bool,
    held: Option<Box<Held>>,
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

    /// Its well-known names.
    pub fn held(&self) -> &Held {
        self.held.as_deref().unwrap_or(&NOTHING)
    }

    /// They change.
    pub fn change_held(&mut self, change: impl FnOnce(&mut Held)) {
        let held = self.held.get_or_insert_default();
        change(held);
        if held.names.is_empty() && held.claims.is_empty() {
            self.held = None;
        }
    }

    /// One whose input is the lane's, and of which nothing is written yet.
    pub fn new(
        fd: RawFd,
        peer: u64,
        unique: &str,
        credentials: Arc<Credentials>,
        standing: impl Into<Arc<Standing>>,
    ) -> Self {
        let mut input = Input::default();
        input.is_ours = true;
        Self {
            fd,
            peer,
            unique: unique.into(),
            credentials,
            standing: standing.into(),
            takes_fds: false,
            native_calls: 0,
            next_serial: 1,
            has_reserved: false,
            has_followers: false,
            comes_last: false,
            held: None,
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
