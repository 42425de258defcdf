//! The one place where a bus waits.
//!
//! Theory. A `Poller` is an epoll instance for Python, and the lanes: what concerns a socket of a lane is done at once and
//! the wait goes on, until there is something for Python, or the time is over. Events are level-triggered: what a turn
//! leaves undone is reported again. In a turn first goes who was in the middle of its own when Python had to decide, then come
//! the events of all lanes, and last what lanes have left from earlier turns. A wait that has gone on often enough leaves its
//! deadline to an alarm, which is a descriptor like others: a timer for each wait costs more than a read.
//!
//! Invariants. 1. The lock is not held while the process sleeps. 2. A turn serves at most `EVENTS_MAX` sockets before
//! everybody else is asked about again, and Python gets its events after one turn at the latest. 3. Locks are taken in one
//! order: the poller's, a lane's, those of the tables (Core, replies, match rules). 4. Nobody waits for one of them with
//! the interpreter's lock, which a turn may need to let a buffer of Python's go. 5. What epoll found of a descriptor reaches
//! nobody once that is given up (`leave`, `depart`), which comes before it is closed.
//!
//! Not here: what lanes do with their sockets.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::slots::ByFd;
use super::{Lane, Report, Work};
use crate::sys::{Alarm, Epoll, monotonic};

/// The sockets of one turn.
const EVENTS_MAX: usize = 128;
/// A wait that goes on so often is likely to go on.
const WAITS_TIMED: u32 = 16;

type SharedLane = std::sync::Arc<Mutex<dyn Lane>>;

/// Sockets of Python, and lanes.
pub struct Poller {
    epoll: Epoll,
    alarm: Alarm,
    /// Somebody has set the alarm.
    is_set: AtomicBool,
    lanes: Mutex<Lanes>,
}

/// The alarm is set, until this is dropped.
struct Ringing<'p>(&'p Poller);

impl Drop for Ringing<'_> {
    fn drop(&mut self) {
        // what is not stopped rings for who sets it next, and is looked at by the clock
        let _ = self.0.alarm.stop();
        self.0.is_set.store(false, Ordering::Release);
    }
}

#[derive(Default)]
struct Lanes {
    /// Its events are for nobody.
    alarm: RawFd,
    all: Vec<SharedLane>,
    /// Which lane a descriptor has joined.
    joined: ByFd,
    /// The lane that goes on first in the next turn, as another has stopped the last one before.
    passed_over: Option<usize>,
    /// How often descriptors were given up, whose numbers may be used again.
    n_departed: u64,
}

/// What was known before the wait.
#[derive(Clone, Copy)]
struct Prepared {
    work: Work,
    /// When a lane has something to do.
    due: Option<f64>,
    n_departed: u64,
}

/// The value, whatever happened to the thread that had it: lanes keep their invariants at every step.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Poller {
    /// One that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        let (epoll, alarm) = (Epoll::new()?, Alarm::new()?);
        epoll.add(alarm.fileno(), libc::EPOLLIN as u32)?;
        let lanes = Lanes { alarm: alarm.fileno(), ..Lanes::default() };
        Ok(Self { epoll, alarm, is_set: AtomicBool::new(false), lanes: Mutex::new(lanes) })
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

    /// Nobody is going to wait any more.
    pub fn close(&self) {
        locked(&self.lanes).all.iter().for_each(|lane| locked(lane).close());
    }

    /// From now on events of this descriptor are the lane's, which watches it itself.
    pub fn join(&self, fd: RawFd, lane: usize) {
        locked(&self.lanes).joined.insert(fd, lane);
    }

    /// The descriptor is Python's again.
    pub fn leave(&self, fd: RawFd) {
        let mut lanes = locked(&self.lanes);
        lanes.joined.remove(fd);
        lanes.n_departed += 1;
    }

    /// A descriptor is not watched any more and is going to be closed: of what was found before, nothing is its next owner's.
    /// How many departures there have been.
    pub fn depart(&self) -> u64 {
        let mut lanes = locked(&self.lanes);
        lanes.n_departed += 1;
        lanes.n_departed
    }

    /// Waits until there is something for Python or `timeout` seconds are over (None: for ever); that, and how many departures
    /// there had been by then.
    ///
    /// Interrupted by a signal it raises so, and everything that was done counts.
    pub fn poll(&self, timeout: Option<f64>) -> io::Result<(Vec<(RawFd, u32)>, u64)> {
        let mut now = monotonic();
        let deadline = timeout.map(|seconds| now + seconds.max(0.0));
        let mut events = Vec::with_capacity(16);
        let mut prepared = locked(&self.lanes).prepare(&self.epoll)?;
        let mut n_waits = 0_u32;
        let mut ringing = None;
        loop {
            n_waits = n_waits.saturating_add(1);
            if n_waits == WAITS_TIMED {
                ringing = deadline.and_then(|deadline| self.set_alarm(deadline));
            }
            let until = match (deadline.filter(|_| ringing.is_none()), prepared.due) {
                (Some(deadline), Some(due)) => Some(deadline.min(due)),
                (deadline, due) => deadline.or(due),
            };
            let left = match until {
                _ if prepared.work > Work::Nothing => 0,
                None => -1,
                Some(until) => milliseconds(until - now),
            };
            events.clear();
            self.epoll.wait(left, EVENTS_MAX, &mut events)?;
            now = monotonic();
            let mut lanes = locked(&self.lanes);
            let report = lanes.turn(&events, prepared, now);
            let is_over = deadline.is_some_and(|deadline| now >= deadline);
            if !report.is_empty() || is_over {
                return Ok((report.events, lanes.n_departed));
            }
            prepared = lanes.prepare(&self.epoll)?;
        }
    }

    /// Waits need no time until this is dropped; None if another thread has set the alarm, or it can't be set.
    fn set_alarm(&self, deadline: f64) -> Option<Ringing<'_>> {
        if self.is_set.swap(true, Ordering::Acquire) {
            return None;
        }
        let ringing = Ringing(self);
        self.alarm.set(deadline).is_ok().then_some(ringing)
    }
}

impl Lanes {
    fn prepare(&self, epoll: &Epoll) -> io::Result<Prepared> {
        let (mut work, mut due) = (Work::Nothing, None::<f64>);
        for lane in &self.all {
            let mut lane = locked(lane);
            work = work.max(lane.prepare(epoll)?);
            due = lane.due().map(|when| due.map_or(when, |due| due.min(when))).or(due);
        }
        Ok(Prepared { work, due, n_departed: self.n_departed })
    }

    fn turn(&mut self, events: &[(RawFd, u32)], prepared: Prepared, now: f64) -> Report {
        let mut report = Report::default();
        // another thread has given up a descriptor meanwhile: what was found may be of a former one, and is reported again
        let events = if prepared.n_departed == self.n_departed { events } else { &[] };
        if prepared.work == Work::First {
            for lane in &self.all {
                if !report.stops {
                    locked(lane).resume(now, &mut report);
                }
            }
        }
        // events in a row that are for one lane are one step of it
        let (mut start, mut current) = (0, None);
        for (at, &(fd, mask)) in events.iter().enumerate() {
            let lane = self.joined.get(fd);
            if lane != current {
                self.serve(current, &events[start..at], now, &mut report);
                (start, current) = (at, lane);
            }
            if lane.is_none() && fd != self.alarm {
                report.events.push((fd, mask));
            }
        }
        self.finish(current, &events[start..], now, &mut report);
        report
    }

    fn serve(&mut self, lane: Option<usize>, events: &[(RawFd, u32)], now: f64, report: &mut Report) {
        if let Some(at) = lane
            && let Some(lane) = self.all.get(at)
            && !report.stops
        {
            locked(lane).ready(events, now, report);
            self.follow(at, report);
        }
    }

    /// Sockets have joined a lane, or left it, by what that has met.
    fn follow(&mut self, lane: usize, report: &mut Report) {
        for (fd, is_joined) in report.moves.drain(..) {
            if is_joined {
                self.joined.insert(fd, lane);
            } else {
                self.joined.remove(fd);
                self.n_departed += 1;
            }
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
            self.follow(at, report);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    #[derive(Default)]
    struct Seen(Vec<(RawFd, u32)>);

    impl Lane for Seen {
        fn prepare(&mut self, _epoll: &Epoll) -> io::Result<Work> {
            Ok(Work::Nothing)
        }

        fn ready(&mut self, events: &[(RawFd, u32)], _now: f64, _report: &mut Report) {
            self.0.extend(events);
        }

        fn finish(&mut self, events: &[(RawFd, u32)], now: f64, report: &mut Report) {
            self.ready(events, now, report);
        }
    }

    #[test]
    fn what_was_found_before_a_descriptor_was_given_up_reaches_nobody() {
        let poller = Poller::new().expect("an epoll instance");
        let lane = Arc::new(Mutex::new(Seen::default()));
        poller.add_lane(lane.clone());
        poller.join(7007, 0);
        // no descriptor of this process has these numbers; the second is Python's
        let events = [(7007, 16), (8008, 16)];
        for is_joined in [true, false] {
            let prepared = locked(&poller.lanes).prepare(&poller.epoll).expect("the lane is ready");
            if is_joined {
                poller.leave(7007);
            } else {
                poller.depart();
            }
            poller.join(7007, 0);
            let report = locked(&poller.lanes).turn(&events, prepared, 0.0);
            assert!(report.is_empty() && locked(&lane).0.is_empty());
        }
        let prepared = locked(&poller.lanes).prepare(&poller.epoll).expect("the lane is ready");
        assert_eq!(locked(&poller.lanes).turn(&events, prepared, 0.0).events, [(8008, 16)]);
        assert_eq!(locked(&lane).0, [(7007, 16)]);
    }

    /// Something is ready so often, and then no more.
    struct Ready {
        end: UnixStream,
        n_left: usize,
    }

    impl Lane for Ready {
        fn prepare(&mut self, _epoll: &Epoll) -> io::Result<Work> {
            Ok(Work::Nothing)
        }

        fn ready(&mut self, events: &[(RawFd, u32)], _now: f64, _report: &mut Report) {
            self.n_left = self.n_left.saturating_sub(events.len());
            if self.n_left == 0 {
                let _ = self.end.read(&mut [0]);
            }
        }

        fn finish(&mut self, events: &[(RawFd, u32)], now: f64, report: &mut Report) {
            self.ready(events, now, report);
        }
    }

    #[test]
    fn a_wait_that_goes_on_often_ends_at_its_time_and_tells_nobody_of_the_alarm() {
        let poller = Poller::new().unwrap();
        let (mut one, end) = UnixStream::pair().unwrap();
        end.set_nonblocking(true).unwrap();
        let fd = end.as_raw_fd();
        let n_left = 3 * WAITS_TIMED as usize;
        let lane = Arc::new(Mutex::new(Ready { end, n_left }));
        let number = poller.add_lane(lane.clone());
        poller.join(fd, number);
        poller.epoll().add(fd, libc::EPOLLIN as u32).unwrap();
        for _ in 0..2 {
            locked(&lane).n_left = n_left;
            one.write_all(b"x").unwrap();
            // nothing else than the alarm ends this wait: nobody has a timer for it
            assert_eq!(poller.poll(Some(0.05)).unwrap(), (vec![], 0));
            assert_eq!(locked(&lane).n_left, 0);
            assert!(!poller.is_set.load(Ordering::Acquire));
            let mut left = Vec::new();
            poller.epoll().wait(0, 8, &mut left).unwrap();
            assert_eq!(left, [], "it rings no more");
        }
        let ringing = poller.set_alarm(0.0).unwrap();
        assert!(poller.set_alarm(1e9).is_none(), "another thread has it");
        assert_eq!(poller.poll(Some(0.0)).unwrap(), (vec![], 0));
        drop(ringing);
    }
}
