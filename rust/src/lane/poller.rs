//! The one place where a bus waits.
//!
//! Theory. A `Poller` is an epoll instance for Python, and the lanes: what concerns a socket of a lane is done at once and
//! the wait goes on, until there is something for Python, or the time is over. Events are level-triggered: what a turn
//! leaves undone is reported again. In a turn first goes who was in the middle of its own when Python had to decide, then come
//! the events of all lanes, and last what lanes have left from earlier turns.
//!
//! Invariants. 1. The lock is not held while the process sleeps. 2. A turn serves at most `EVENTS_MAX` sockets before
//! everybody else is asked about again, and Python gets its events after one turn at the latest. 3. Locks are taken in one
//! order: the poller's, a lane's, those of the tables (Core, replies, match rules). 4. Nobody waits for one of them with
//! the interpreter's lock, which a turn may need to let a buffer of Python's go.
//!
//! Not here: what lanes do with their sockets.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ahash::AHashMap;

use super::{Lane, Report, Work};
use crate::sys::{Epoll, monotonic};

/// The sockets of one turn.
const EVENTS_MAX: usize = 128;

type SharedLane = std::sync::Arc<Mutex<dyn Lane>>;

/// Sockets of Python, and lanes.
pub struct Poller {
    epoll: Epoll,
    lanes: Mutex<Lanes>,
}

#[derive(Default)]
struct Lanes {
    all: Vec<SharedLane>,
    /// Which lane a descriptor has joined.
    joined: AHashMap<RawFd, usize>,
    /// The lane that goes on first in the next turn, as another has stopped the last one before.
    passed_over: Option<usize>,
}

/// The value, whatever happened to the thread that had it: lanes keep their invariants at every step.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Poller {
    /// One that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, lanes: Mutex::default() })
    }

    /// Its epoll instance.
    pub fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// One more lane; its number.
    pub fn add_lane(&self, lane: SharedLane) -> usize {
        let mut lanes = locked(&self.lanes);
        lanes.all.push(lane);
        lanes.all.len() - 1
    }

    /// From now on events of this descriptor are the lane's, which watches it itself.
    pub fn join(&self, fd: RawFd, lane: usize) {
        locked(&self.lanes).joined.insert(fd, lane);
    }

    /// The descriptor is Python's again.
    pub fn leave(&self, fd: RawFd) {
        locked(&self.lanes).joined.remove(&fd);
    }

    /// Waits until there is something for Python or `timeout` seconds are over (None: for ever).
    ///
    /// Interrupted by a signal it raises so, and everything that was done counts.
    pub fn poll(&self, timeout: Option<f64>) -> io::Result<Vec<(RawFd, u32)>> {
        let mut now = monotonic();
        let deadline = timeout.map(|seconds| now + seconds.max(0.0));
        let mut events = Vec::with_capacity(16);
        let mut work = locked(&self.lanes).prepare(&self.epoll)?;
        loop {
            let left = match deadline {
                _ if work > Work::Nothing => 0,
                None => -1,
                Some(deadline) => milliseconds(deadline - now),
            };
            events.clear();
            self.epoll.wait(left, EVENTS_MAX, &mut events)?;
            now = monotonic();
            let mut lanes = locked(&self.lanes);
            let report = lanes.turn(&events, work, now);
            let is_over = deadline.is_some_and(|deadline| now >= deadline);
            if !report.is_empty() || is_over {
                return Ok(report.events);
            }
            work = lanes.prepare(&self.epoll)?;
        }
    }
}

impl Lanes {
    fn prepare(&self, epoll: &Epoll) -> io::Result<Work> {
        let mut work = Work::Nothing;
        for lane in &self.all {
            work = work.max(locked(lane).prepare(epoll)?);
        }
        Ok(work)
    }

    fn turn(&mut self, events: &[(RawFd, u32)], work: Work, now: f64) -> Report {
        let mut report = Report::default();
        if work == Work::First {
            for lane in &self.all {
                if !report.stops {
                    locked(lane).resume(now, &mut report);
                }
            }
        }
        // events in a row that are for one lane are one step of it
        let (mut start, mut current) = (0, None);
        for (at, &(fd, mask)) in events.iter().enumerate() {
            let lane = self.joined.get(&fd).copied();
            if lane != current {
                self.serve(current, &events[start..at], now, &mut report);
                (start, current) = (at, lane);
            }
            if lane.is_none() {
                report.events.push((fd, mask));
            }
        }
        self.finish(current, &events[start..], now, &mut report);
        report
    }

    fn serve(&self, lane: Option<usize>, events: &[(RawFd, u32)], now: f64, report: &mut Report) {
        if let Some(lane) = lane.and_then(|lane| self.all.get(lane))
            && !report.stops
        {
            locked(lane).ready(events, now, report);
        }
    }

    /// The last events, and what is left of each lane: that of the last events first, which is locked once so, unless
    /// another was passed over.
    fn finish(&mut self, current: Option<usize>, rest: &[(RawFd, u32)], now: f64, report: &mut Report) {
        let (mut first, mut rest) = (current.unwrap_or(0), rest);
        if let Some(passed_over) = self.passed_over
            && Some(passed_over) != current
        {
            self.serve(current, rest, now, report);
            (first, rest) = (passed_over, &[]);
        }
        let n_lanes = self.all.len();
        for at in (0..n_lanes).map(|step| (first + step) % n_lanes) {
            let had_stopped = report.stops;
            if !had_stopped && self.passed_over == Some(at) {
                self.passed_over = None;
            }
            let events = if current == Some(at) { rest } else { &[] };
            locked(&self.all[at]).finish(events, now, report);
            if report.stops && !had_stopped {
                self.passed_over = Some((at + 1) % n_lanes);
            }
        }
    }
}

/// Rounded up, so that what is due at a time is never looked for before it.
fn milliseconds(seconds: f64) -> i32 {
    (seconds.max(0.0) * 1e3).ceil().min(f64::from(i32::MAX)) as i32
}
