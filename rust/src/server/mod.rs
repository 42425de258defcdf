//! The native protocol's server side, as far as it is everyday.
//!
//! Theory. Python's Broker, Channels and PeerStations are whole, and everything unusual runs through them. A `Server` is
//! a lane beside them: channels that have joined are read here, and requests that are everyday are carried out on the
//! same Core. What is not everyday (other operations, descriptors, malformed bytes, the end of a connection) is
//! left to Python: the channel goes over with exactly the bytes that have not been executed, and comes back when Python
//! has nothing in hand.
//!
//! Each piece of state has one owner at a time. A channel's input, and a station's line with its readiness byte, are
//! either here or at Python. What has not been sent is here within a turn, and Python's after it. Core is shared;
//! what a command has caused (wake-ups, segments, descriptors) is carried out here as far as it concerns lines that are
//! here. If anything is left of it, the server *pauses*: nothing more is executed, what is owed to the client is kept,
//! and goes on when Python has settled.
//!
//! Invariants. 1. Effects of a request are settled before its answer is written: others' output leaves before the
//! answers of the channel whose turn it is. 2. Requests are executed in order. 3. What a user's channels may have done
//! in a turn is bounded by one allowance. 4. What is not everyday has had no effect here.
//!
//! Not here: what is everyday (`request`), receiving (`serve`), the other operations (`execute`), turns (`turn`).

pub mod channel;
pub mod execute;
pub mod frames;
pub mod request;
pub mod serve;
pub mod station;
pub mod turn;
pub mod wire;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use ahash::AHashMap;

use crate::core::Core;
use crate::core::api::Credentials;
use crate::lane::Report;
use crate::lane::poller::locked;
use crate::memory::Sealed;
use channel::{Channel, Left};
use execute::Sequence;
use station::{Station, Waiting};
use wire::Wire;

/// Bounds, as `BrokerLimits` has them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of all channels of a user in a turn.
    pub requests_per_turn: i64,
    /// What a channel's answers may weigh until they are sent.
    pub unsent_bytes: usize,
}

/// The allowance of one user, and its line.
#[derive(Debug, Default)]
struct User {
    n_channels: usize,
    turn: u64,
    left: i64,
    line: VecDeque<RawFd>,
}

/// What a client gets when Python has settled.
enum Owed {
    Nothing,
    Answer(Vec<u8>),
    Sequence(Box<Sequence>),
}

/// Where the server has stopped.
struct Paused {
    fd: RawFd,
    owed: Owed,
}

/// The lane of native channels.
pub struct Server {
    core: Arc<Mutex<Core>>,
    wire: Box<dyn Wire>,
    limits: Limits,
    channels: AHashMap<RawFd, Channel>,
    stations: AHashMap<u64, Station>,
    users: AHashMap<i64, User>,
    /// Channels that wait in the lines of their users.
    n_waiting: usize,
    turn: u64,
    paused: Option<Paused>,
    /// The channel whose turn it is.
    working: Option<RawFd>,
    /// Channels with output.
    dirty: Vec<RawFd>,
    /// Events for Python that came up outside of a turn.
    untold: Vec<(RawFd, u32)>,
    scratch: Vec<u8>,
    /// Output buffers that nobody uses.
    spare: Vec<Vec<u8>>,
    answer: Vec<u8>,
    /// Core has broken a rule: words for whoever ends the bus.
    broken: Option<String>,
    /// Everything goes to Python for now.
    pub is_suspended: bool,
}

impl Server {
    /// A lane of nobody yet.
    pub fn new(core: Arc<Mutex<Core>>, wire: Box<dyn Wire>, limits: Limits) -> Self {
        Self {
            core,
            wire,
            limits,
            channels: AHashMap::new(),
            stations: AHashMap::new(),
            users: AHashMap::new(),
            n_waiting: 0,
            turn: 0,
            paused: None,
            working: None,
            dirty: Vec::new(),
            untold: Vec::new(),
            scratch: Vec::new(),
            spare: Vec::new(),
            answer: Vec::new(),
            broken: None,
            is_suspended: false,
        }
    }

    // ---- channels, from Python ---------------------------------------------------------------------

    /// A channel of `peer`, whose input is Python's.
    pub fn join(&mut self, fd: RawFd, peer: u64, uid: i64, credentials: Arc<Credentials>) {
        self.leave(fd);
        self.channels.insert(fd, Channel::new(peer, uid, credentials));
        self.users.entry(uid).or_default().n_channels += 1;
    }

    /// Who writes there from now on.
    pub fn introduce(&mut self, fd: RawFd, credentials: Arc<Credentials>) {
        if let Some(channel) = self.channels.get_mut(&fd) {
            channel.credentials = credentials;
        }
    }

    /// Where large payloads come from: it stays open until there is another, or the channel leaves.
    pub fn set_arena(&mut self, fd: RawFd, arena: (RawFd, u64)) {
        if let Some(channel) = self.channels.get_mut(&fd) {
            channel.arena = Some(arena);
        }
    }

    /// Python has nothing in hand: the input of this channel belongs to the lane. False: not now.
    pub fn give(&mut self, fd: RawFd) -> bool {
        let is_paused_here = self.paused.as_ref().is_some_and(|paused| paused.fd == fd);
        match self.channels.get_mut(&fd) {
            Some(channel) if !self.is_suspended && !is_paused_here && channel.left.is_none() => {
                channel.is_here = true;
                channel.is_away = false;
                true
            }
            _ => false,
        }
    }

    /// The input of this channel belongs to Python from now on; with what has arrived.
    pub fn take(&mut self, fd: RawFd) -> Left {
        if self.paused.as_ref().is_some_and(|paused| paused.fd == fd) {
            let mut report = Report::default();
            self.pay(&mut report);
            self.flush_but(fd, &mut report);
            self.untold.append(&mut report.events);
        }
        let Some(channel) = self.channels.get_mut(&fd) else {
            return Left::default();
        };
        channel.is_here = false;
        channel.is_away = true;
        let input = std::mem::take(&mut channel.input);
        let output = std::mem::take(&mut channel.output);
        channel.n_frames = 0;
        channel.strand(&output, 0);
        let mut left = channel.left.take().map(|left| *left).unwrap_or_default();
        left.input = input;
        self.dirty.retain(|&other| other != fd);
        self.quit_line(fd);
        left
    }

    /// The channel is closed; `take` it first.
    pub fn leave(&mut self, fd: RawFd) {
        for fd in self.take(fd).fds {
            self.wire.close(fd);
        }
        self.untold.retain(|(other, _)| *other != fd);
        let Some(channel) = self.channels.remove(&fd) else {
            return;
        };
        if self.paused.as_ref().is_some_and(|paused| paused.fd == fd)
            && let Some(Paused { owed, .. }) = self.paused.take()
            && let Owed::Sequence(sequence) = owed
        {
            self.end_sequence(channel.peer, *sequence);
        }
        if let Some(user) = self.users.get_mut(&channel.uid) {
            user.n_channels -= 1;
            if user.n_channels == 0 {
                self.users.remove(&channel.uid);
            }
        }
    }

    fn quit_line(&mut self, fd: RawFd) {
        if let Some(channel) = self.channels.get_mut(&fd)
            && std::mem::take(&mut channel.waits)
            && let Some(user) = self.users.get_mut(&channel.uid)
        {
            user.line.retain(|&other| other != fd);
            self.n_waiting -= 1;
        }
    }

    // ---- stations, from Python ---------------------------------------------------------------------

    /// A native peer; its line is Python's.
    pub fn open(&mut self, peer: u64, end: RawFd, memory: Arc<Mutex<Sealed>>) {
        self.stations.insert(peer, Station::new(end, memory));
    }

    /// The peer is over; take its line first.
    pub fn close(&mut self, peer: u64) {
        if let Some(station) = self.stations.remove(&peer) {
            self.untold.retain(|(other, _)| *other != station.end);
        }
    }

    /// The line belongs to Python from now on: whether a byte is in flight, if the line was here, and who waits.
    pub fn take_line(&mut self, peer: u64) -> (Option<bool>, Vec<Waiting>) {
        let Some(station) = self.stations.get_mut(&peer) else {
            return (None, Vec::new());
        };
        let was_here = std::mem::take(&mut station.is_here);
        let waiting = std::mem::take(&mut station.line).into();
        (was_here.then_some(station.is_signalled), waiting)
    }

    /// The line belongs to the lane from now on.
    pub fn give_line(&mut self, peer: u64, is_signalled: bool, waiting: Vec<Waiting>) {
        if let Some(station) = self.stations.get_mut(&peer) {
            // what came meanwhile is behind those that Python had
            let later = std::mem::replace(&mut station.line, waiting.into());
            station.line.extend(later);
            station.is_here = true;
            station.is_signalled = is_signalled;
        }
    }

    /// The peer turned readable, and Python has heard of it: answers who waits. False: Python has to do that.
    pub fn woken(&mut self, peer: u64) -> bool {
        if !self.stations.get(&peer).is_some_and(|station| station.is_here) {
            return false;
        }
        let core = Arc::clone(&self.core);
        let mut report = Report::default();
        let is_served = self.serve(&mut locked(&core), peer, &mut report);
        if !is_served {
            report.events.pop(); // Python is here
        }
        self.write_all(&mut report);
        self.untold.append(&mut report.events);
        is_served
    }

    /// Which channels have been sent a segment.
    pub fn set_holders(&mut self, peer: u64, generation: u64, holders: &[RawFd]) {
        if let Some(station) = self.stations.get_mut(&peer) {
            if holders.is_empty() {
                station.holders.remove(&generation);
            } else {
                station.holders.insert(generation, holders.into());
            }
        }
    }

    /// What Core said when it broke a rule.
    pub fn broken(&mut self) -> Option<String> {
        self.broken.take()
    }
}
