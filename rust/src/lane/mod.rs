//! Lanes: what is carried out inside the wait for events, without Python.
//!
//! Theory. A bus waits for its sockets in one place (`poller`). A *lane* is a table of sockets that have joined it: it
//! reads them, carries out what is everyday, and writes, all within the wait. What is not everyday it leaves to Python,
//! which sees the socket in what the wait returns. At every moment the input of a socket belongs to the lane or to
//! Python, never to both.
//!
//! Not here: what is everyday for a kind of client (the lanes themselves).

mod announcement;
mod arrival;
pub mod connection;
pub mod dbus;
mod departure;
pub mod door;
pub mod express;
mod order;
pub mod output;
pub mod parties;
mod passing;
pub mod poller;
mod reading;
mod serving;
pub mod transit;
mod verdict;
pub mod world;

use std::io;
use std::os::fd::RawFd;

use crate::sys::Epoll;

pub use poller::Poller;

/// What Python is told when the wait is over.
#[derive(Debug, Default)]
pub struct Report {
    /// (descriptor, epoll's events): for Python to handle.
    pub events: Vec<(RawFd, u32)>,
    /// Something else is to be looked at: the wait ends, even without an event.
    pub is_due: bool,
    /// Nothing more may be carried out before Python has decided.
    pub stops: bool,
    /// Sockets that the lane has from now on, or no longer, in the order in which that happened.
    pub moves: Vec<(RawFd, bool)>,
}

impl Report {
    /// Python has to see this socket before anything else is carried out.
    pub fn hand_over(&mut self, fd: RawFd, events: u32) {
        self.events.push((fd, events));
        self.stops = true;
    }

    /// The wait goes on.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.is_due
    }
}

/// What a lane can do without an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    #[default]
    Nothing,
    /// The wait is short.
    Something,
    /// And somebody goes on before anybody else has a turn.
    First,
}

/// A table of sockets that are served within the wait.
pub trait Lane: Send {
    /// Before the wait: watch sockets for what is wanted now; what there is to do without an event.
    fn prepare(&mut self, epoll: &Epoll) -> io::Result<Work>;
    /// When the lane has something to do at the latest.
    fn due(&self) -> Option<f64> {
        None
    }
    /// First of all in a turn, if a lane has found `Work::First`: who was in the middle of its turn when Python had to
    /// decide goes on.
    fn resume(&mut self, _now: f64, _report: &mut Report) {}
    /// Epoll reported these events for sockets of this lane; they are looked at until one stops the turn.
    fn ready(&mut self, events: &[(RawFd, u32)], now: f64, report: &mut Report);
    /// The end of a turn, when no other lane has events left: its last ones, as `ready`; then, if nothing stops it, what is
    /// left from earlier turns; and writing what there is.
    fn finish(&mut self, events: &[(RawFd, u32)], now: f64, report: &mut Report);
}
