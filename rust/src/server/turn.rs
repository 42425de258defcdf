//! Turns: what is read, for how long a channel may go on, and when its answers leave.
//!
//! Theory. As `bus1/channel.py` and `bus1/allowance.py`: in a turn each channel is read once; all channels of a user draw
//! on one allowance, and those for which nothing is left wait in a line. When the turn of a channel is over, first the
//! output of others leaves, then its own answers.
//!
//! Invariants. 1. A channel that is handed over takes everything along that has not been executed or sent.
//!
//! Not here: what requests do (`execute`).

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::execute::Step;
use super::frames::{HEADER, Header, MAX_FRAME};
use super::request::{REFERENCES_PER_REQUEST, Request};
use super::{Server, locked};
use crate::lane::{Lane, Report, Work};
use crate::sys::Epoll;

/// Bytes of one read, and of incomplete frames that are kept.
const RECEIVE_SIZE: usize = 1 << 16;
/// Descriptors of a frame.
const FD_MAX: u16 = 256;
/// An output buffer larger than this is not kept.
const KEPT_OUTPUT: usize = 1 << 14;
/// Nor more of them.
const KEPT_OUTPUTS: usize = 64;
const INPUT: u32 = libc::EPOLLIN as u32;
const UNUSUAL: u32 = (libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLRDHUP | libc::EPOLLOUT) as u32;

impl Lane for Server {
    fn prepare(&mut self, _epoll: &Epoll) -> io::Result<Work> {
        self.turn += 1;
        Ok(if self.is_busy() { Work::Something } else { Work::Nothing })
    }

    fn ready(&mut self, events: &[(RawFd, u32)], _now: f64, report: &mut Report) {
        for &(fd, events) in events {
            if report.stops {
                return;
            }
            self.serve_event(fd, events, report);
        }
    }

    fn finish(&mut self, events: &[(RawFd, u32)], now: f64, report: &mut Report) {
        self.ready(events, now, report);
        if !report.stops && self.is_busy() {
            self.go_on(report);
        }
        self.write_all(report);
    }
}

impl Server {
    /// There is work that needs no event.
    pub(super) fn is_busy(&self) -> bool {
        self.paused.is_some() || self.n_waiting > 0 || !self.untold.is_empty()
    }

    /// Write what there is.
    pub(super) fn write_all(&mut self, report: &mut Report) {
        while let Some(fd) = self.dirty.pop() {
            self.flush(fd, report);
        }
    }

    fn serve_event(&mut self, fd: RawFd, events: u32, report: &mut Report) {
        if self.paused.is_some() {
            return; // it is reported again; who has paused goes on behind the events of all lanes
        }
        let Some(channel) = self.channels.get_mut(&fd).filter(|channel| channel.is_here) else {
            report.events.push((fd, events));
            return;
        };
        if events & UNUSUAL != 0 || self.is_suspended {
            self.hand_over(fd, events, report);
            return;
        }
        if events & INPUT != 0 && !channel.waits {
            self.read(fd, report);
        }
    }

    fn go_on(&mut self, report: &mut Report) {
        report.events.append(&mut self.untold);
        self.resume(report);
        if self.n_waiting == 0 {
            return;
        }
        let waiting: Vec<i64> =
            self.users.iter().filter(|(_, user)| !user.line.is_empty()).map(|(uid, _)| *uid).collect();
        for uid in waiting {
            while self.paused.is_none() && self.left(uid) > 0 {
                let Some(fd) = self.users.get_mut(&uid).and_then(|user| user.line.pop_front()) else {
                    break;
                };
                self.n_waiting -= 1;
                if let Some(channel) = self.channels.get_mut(&fd) {
                    channel.waits = false;
                    self.go_on_one(fd, report);
                }
            }
        }
    }

    /// Goes on where the server has paused.
    fn resume(&mut self, report: &mut Report) {
        let Some(fd) = self.paused.as_ref().map(|paused| paused.fd) else {
            return;
        };
        self.pay(report);
        if self.paused.is_none() && self.channels.get(&fd).is_some_and(|channel| channel.is_here) {
            self.go_on_one(fd, report);
        } else {
            self.end_turn(fd, report);
        }
    }

    /// What is left of a user's allowance in this turn.
    fn left(&mut self, uid: i64) -> i64 {
        let user = self.users.entry(uid).or_default();
        if user.turn != self.turn {
            user.turn = self.turn;
            user.left = self.limits.requests_per_turn;
        }
        user.left
    }

    /// What a user has had of its allowance in this turn.
    pub fn spent(&self, uid: i64) -> i64 {
        match self.users.get(&uid) {
            Some(user) if user.turn == self.turn => self.limits.requests_per_turn - user.left,
            _ => 0,
        }
    }

    fn wait(&mut self, fd: RawFd) {
        if let Some(channel) = self.channels.get_mut(&fd)
            && !std::mem::replace(&mut channel.waits, true)
        {
            self.n_waiting += 1;
            self.users.entry(channel.uid).or_default().line.push_back(fd);
        }
    }

    fn read(&mut self, fd: RawFd, report: &mut Report) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.reserve(RECEIVE_SIZE);
        let mut fds = Vec::new();
        let received = self.wire.receive(fd, &mut scratch, RECEIVE_SIZE, &mut fds);
        if let Some(channel) = self.channels.get_mut(&fd) {
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Python reads the end, or the error, itself
                Err(_) => self.hand_over(fd, INPUT, report),
                Ok(received) if received.n_bytes == 0 => self.hand_over(fd, INPUT, report),
                Ok(received) => {
                    let sender = received.credentials.unwrap_or((0, u32::MAX, u32::MAX));
                    let sender = Some(sender).filter(|sender| !channel.is_from(*sender));
                    if received.is_truncated || sender.is_some() || !fds.is_empty() {
                        channel.input.extend_from_slice(&scratch);
                        let left = channel.left();
                        left.is_truncated = received.is_truncated;
                        left.sender = sender;
                        left.fds = std::mem::take(&mut fds);
                        self.hand_over(fd, 0, report);
                    } else {
                        self.arrived(fd, &scratch, report);
                    }
                }
            }
        }
        for fd in fds {
            self.wire.close(fd);
        }
        self.scratch = scratch;
    }

    fn arrived(&mut self, fd: RawFd, data: &[u8], report: &mut Report) {
        let Some(channel) = self.channels.get_mut(&fd) else {
            return;
        };
        let uid = channel.uid;
        if !channel.input.is_empty() || self.users.get(&uid).is_some_and(|user| !user.line.is_empty()) {
            channel.input.extend_from_slice(data);
            if self.users.get(&uid).is_some_and(|user| !user.line.is_empty()) {
                self.wait(fd);
            } else {
                self.go_on_one(fd, report);
            }
            return;
        }
        let consumed = self.work(fd, data, report);
        if let Some(channel) = self.channels.get_mut(&fd) {
            channel.input.extend_from_slice(data.get(consumed..).unwrap_or_default());
        }
        self.end_turn(fd, report);
    }

    fn go_on_one(&mut self, fd: RawFd, report: &mut Report) {
        if self.is_suspended {
            self.hand_over(fd, 0, report);
        }
        let Some(channel) = self.channels.get_mut(&fd).filter(|channel| channel.is_here) else {
            return;
        };
        let mut input = std::mem::take(&mut channel.input);
        let consumed = self.work(fd, &input, report);
        if let Some(channel) = self.channels.get_mut(&fd)
            && consumed < input.len()
        {
            input.drain(..consumed);
            channel.input = input;
        }
        self.end_turn(fd, report);
    }

    /// Executes what is there, within the allowance; how many bytes have been executed.
    fn work(&mut self, fd: RawFd, data: &[u8], report: &mut Report) -> usize {
        let Some(uid) = self.channels.get(&fd).map(|channel| channel.uid) else {
            return 0;
        };
        let budget = self.left(uid);
        self.working = Some(fd);
        let core = Arc::clone(&self.core);
        let core = &mut *locked(&core);
        let (mut at, mut spent) = (0, 0i64);
        while let Some(rest) = data.get(at..)
            && let Some(header) = Header::read(rest)
        {
            if !(HEADER..=MAX_FRAME).contains(&header.length) || header.n_fds > FD_MAX {
                self.hand_over(fd, 0, report);
                break;
            }
            let Some(frame) = rest.get(..header.length) else {
                break;
            };
            if spent >= budget || self.is_full(fd) {
                self.wait(fd);
                break;
            }
            let Some(request) = Request::read(header, frame) else {
                self.hand_over(fd, 0, report);
                break;
            };
            let effort = core.effort();
            let step = self.execute(core, fd, header, request, report);
            if step == Step::Unusual {
                self.hand_over(fd, 0, report);
                break;
            }
            at += header.length;
            let touched = core.effort().saturating_sub(effort) / REFERENCES_PER_REQUEST;
            spent += 1 + i64::try_from(request.extra().saturating_add(touched)).unwrap_or(budget);
            if step == Step::Paused {
                break;
            }
        }
        self.working = None;
        if let Some(user) = self.users.get_mut(&uid) {
            user.left -= spent;
        }
        at
    }

    pub(super) fn is_full(&self, fd: RawFd) -> bool {
        self.channels.get(&fd).is_some_and(|channel| channel.weight() > self.limits.unsent_bytes)
    }

    fn end_turn(&mut self, fd: RawFd, report: &mut Report) {
        self.flush_but(fd, report);
        self.flush(fd, report);
        if let Some(channel) = self.channels.get_mut(&fd) {
            if channel.input.is_empty() {
                channel.input = Vec::new();
            } else if channel.is_here && channel.input.len() > RECEIVE_SIZE {
                self.hand_over(fd, 0, report);
            }
        }
    }

    /// What others are to be told leaves now.
    pub(super) fn flush_but(&mut self, fd: RawFd, report: &mut Report) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let is_own = dirty.contains(&fd);
        for other in dirty.drain(..).filter(|other| *other != fd) {
            self.flush(other, report);
        }
        if is_own {
            dirty.push(fd);
        }
        self.dirty = dirty;
    }

    /// Writes what a channel is to be told; what does not fit goes to Python, with the channel.
    pub(super) fn flush(&mut self, fd: RawFd, report: &mut Report) {
        self.dirty.retain(|&other| other != fd);
        let Some(channel) = self.channels.get_mut(&fd) else {
            return;
        };
        let mut output = std::mem::take(&mut channel.output);
        channel.n_frames = 0;
        let is_stranded =
            channel.is_away || channel.left.as_ref().is_some_and(|left| !left.frames.is_empty());
        if !output.is_empty() {
            let sent = if is_stranded { Ok(0) } else { self.wire.send(fd, &output) };
            let sent = sent.unwrap_or(0);
            if sent < output.len() {
                channel.strand(&output, sent);
                self.hand_over(fd, 0, report);
            }
        }
        if (1..=KEPT_OUTPUT).contains(&output.capacity()) && self.spare.len() < KEPT_OUTPUTS {
            output.clear();
            self.spare.push(output);
        }
    }

    /// Python serves this channel until it gives it back.
    pub(super) fn hand_over(&mut self, fd: RawFd, events: u32, report: &mut Report) {
        if let Some(channel) = self.channels.get_mut(&fd) {
            channel.is_here = false;
            report.events.push((fd, events));
        }
        self.quit_line(fd);
    }
}
