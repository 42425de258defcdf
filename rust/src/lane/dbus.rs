//! The lane of D-Bus connections.
//!
//! Theory. A connection joins when it has its name, or comes in here (`door`). While its input is the lane's, what it sends is read, framed and
//! checked here, and what is everyday is carried out (`express`). The first message that is not is handed over, alone,
//! with nothing of it done, and the turn of everybody ends: Python decides it before the next message of any client.
//! When Python has nothing of the connection in hand it gives the input back, and a turn goes on (`order`). Whatever else
//! happens on a socket (its end, failures, malformed bytes, descriptors whose message is not complete) is handed over with all that has come, and Python reads the socket until it gives it back.
//!
//! Invariants. 1. A connection has a budget of bytes and of deliveries per turn. 2. Messages of one connection take effect
//! in their order. 3. A client's bytes make the lane do nothing but what `express` allows.
//!
//! Not here: the tables (`world`), what is everyday (`express`).

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use libc::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT};

use super::connection::{Connection, End, Handed};
use super::door::PATIENCE;
use super::express::Climate;
use super::order::{HANDED_IN_A_ROW, Order};
use super::output::{self, Flushed};
use super::parties::{Bus, Parties};
use super::world::{Tables, World};
use super::{Lane, Report, Work};
use crate::core::Usage;
use crate::sys::{self, Epoll};

pub(super) const IN: u32 = EPOLLIN as u32;
const OUT: u32 = EPOLLOUT as u32;
const GONE: u32 = (EPOLLHUP | EPOLLERR) as u32;

/// All D-Bus connections that have joined.
pub struct DbusLane {
    world: Arc<World>,
    pub parties: Parties,
    pub climate: Climate,
    /// Those that come last, and have something.
    late: Vec<usize>,
    /// Peers whose sockets epoll cannot watch: Python is to end them.
    unwatched: Vec<u64>,
    /// Others have had something in this turn.
    pub(super) has_served: bool,
    /// An empty buffer for whoever reads next.
    pub(super) spare: Vec<u8>,
    scratch: Vec<u8>,
    pub(super) order: Order,
}

impl DbusLane {
    /// Nobody has joined yet.
    pub fn new(world: World, bus: Bus) -> Self {
        let mut parties = Parties::default();
        parties.bus = bus;
        Self {
            world: Arc::new(world),
            parties,
            climate: Climate::default(),
            late: Vec::new(),
            unwatched: Vec::new(),
            has_served: false,
            spare: Vec::new(),
            scratch: Vec::new(),
            order: Order::default(),
        }
    }

    // ---- for Python ----------------------------------------------------------------------------------

    /// The connection is served here from now on.
    pub fn join(&mut self, connection: Box<Connection>) {
        let slot = self.parties.enter(connection);
        self.parties.mark_dirty(slot);
    }

    /// It is Python's again: with what has come, and how much of its first message is written.
    pub fn leave(&mut self, epoll: Option<&Epoll>, peer: u64) -> Option<(Handed, usize, u32)> {
        let mut c = self.parties.remove(peer)?;
        if let Some(epoll) = epoll
            && c.watched != 0
        {
            // a descriptor that is gone is not watched any more
            let _ = epoll.remove(c.fd);
        }
        c.input.hand_over_all(End::Open);
        Some((c.input.handed.take().unwrap_or_default(), c.output.offset, c.next_serial))
    }

    /// What Python is to carry out for the connection, if there is something.
    pub fn take(&mut self, peer: u64) -> Option<Handed> {
        let slot = self.parties.slot(peer)?;
        self.parties.get_mut(slot)?.input.handed.take()
    }

    /// Python has nothing of the connection in hand any more.
    pub fn give_back(&mut self, peer: u64, native_calls: usize, has_reserved: bool) {
        let Some(slot) = self.parties.slot(peer) else {
            return;
        };
        let Some(c) = self.parties.get_mut(slot) else {
            return;
        };
        if c.input.is_ours || c.input.handed.is_some() {
            return;
        }
        c.input.is_ours = true;
        c.native_calls = native_calls;
        c.has_reserved = has_reserved;
        let has_more = c.input.pending() > 0;
        let goes_on = c.input.n_handed < HANDED_IN_A_ROW;
        self.parties.mark_stale(slot);
        if has_more && goes_on {
            self.parties.resuming.push(slot);
        } else if has_more {
            self.parties.mark_busy(slot);
        }
    }

    /// Write what there is; true if Python has to go on.
    pub fn flush(&mut self, peer: u64, now: f64) -> bool {
        let Some(slot) = self.parties.slot(peer) else {
            return true;
        };
        let world = Arc::clone(&self.world);
        let mut tables = world.tables();
        matches!(self.write(slot, &mut tables, now), Flushed::Python)
    }

    /// Write everything that there is; the peers for which Python has to go on.
    pub fn flush_all(&mut self, now: f64) -> Vec<u64> {
        let mut report = Report::default();
        let world = Arc::clone(&self.world);
        self.write_all(&mut world.tables(), now, &mut report);
        let slots = report.events.iter().filter_map(|&(fd, _)| self.parties.slot_of_fd(fd));
        slots.map(|slot| self.peer(slot)).collect()
    }

    // ---- output --------------------------------------------------------------------------------------

    fn write(&mut self, slot: usize, tables: &mut Tables<'_>, now: f64) -> Flushed {
        let Some(c) = self.parties.get_mut(slot) else {
            return Flushed::Done;
        };
        if c.output.is_blocked {
            return Flushed::Blocked;
        }
        if !(c.output.is_held || tables.core.is_readable(c.peer)) {
            return Flushed::Done;
        }
        let before = c.pace.moved;
        let flushed = output::flush(c, &mut tables.core, now, &mut self.scratch);
        c.output.is_blocked = flushed == Flushed::Blocked;
        let has_moved = c.pace.moved != before;
        self.parties.close_freed(&mut tables.core);
        if has_moved {
            self.parties.moved(slot, now);
        }
        match flushed {
            Flushed::Blocked => self.parties.mark_stale(slot),
            Flushed::More => self.parties.mark_dirty(slot),
            _ => {}
        }
        flushed
    }

    fn write_all(&mut self, tables: &mut Tables<'_>, now: f64, report: &mut Report) {
        self.parties.ceiling = None;
        self.parties.settle(&mut tables.core);
        let mut dirty = std::mem::take(&mut self.parties.dirty);
        for slot in dirty.drain(..) {
            let Some(c) = self.parties.get_mut(slot) else {
                continue;
            };
            c.output.is_dirty = false;
            let (fd, is_awaited) = (c.fd, c.pace.is_awaited);
            if self.write(slot, tables, now) == Flushed::Python {
                report.events.push((fd, OUT));
            }
            report.is_due |= is_awaited && self.parties.get(slot).is_some_and(|c| c.pace.moved == now);
        }
        if self.parties.dirty.is_empty() {
            self.parties.dirty = dirty;
        }
    }

    // ---- a turn --------------------------------------------------------------------------------------

    fn is_busy(&self) -> bool {
        !(self.parties.busy.is_empty()
            && self.parties.resuming.is_empty()
            && self.parties.dirty.is_empty()
            && self.unwatched.is_empty())
    }

    pub(super) fn serve_events(
        &mut self,
        events: &[(RawFd, u32)],
        tables: &mut Tables<'_>,
        now: f64,
        report: &mut Report,
    ) {
        if !(report.stops || self.parties.resuming.is_empty()) {
            // given back after the turn had begun, by another thread
            self.resume_all(tables, now, report);
        }
        if !self.order.is_level() {
            self.serve_in_order(events, &[], tables, now, report);
            return;
        }
        for &(fd, events) in events {
            if report.stops {
                return;
            }
            self.serve_event(fd, events, tables, now, report);
        }
    }

    pub(super) fn serve_event(
        &mut self,
        fd: RawFd,
        events: u32,
        tables: &mut Tables<'_>,
        now: f64,
        report: &mut Report,
    ) {
        let Some(slot) = self.parties.slot_of_fd(fd) else {
            if events & IN != 0 && self.parties.doors.is_one(fd) {
                self.has_served = true;
                self.accept(fd, tables, now, report);
            } else {
                report.events.push((fd, events));
            }
            return;
        };
        let Some(c) = self.parties.get_mut(slot) else {
            return;
        };
        if events & (OUT | GONE) != 0 {
            c.output.is_blocked = false;
            self.parties.mark_dirty(slot);
            self.parties.mark_stale(slot);
        }
        let Some(c) = self.parties.get_mut(slot) else {
            return;
        };
        if !c.input.is_ours {
            if events & (c.wanted | GONE) != 0 {
                report.events.push((fd, events));
            }
            return;
        }
        if c.wanted & OUT & events != 0 {
            report.events.push((fd, OUT));
        }
        if events & (IN | GONE) != 0 && !c.input.is_busy {
            if c.comes_last {
                self.late.push(slot);
                return;
            }
            self.has_served = true;
            self.read(slot, tables, now, report);
        }
    }

    /// Python is to end those that nobody can watch.
    fn give_up_unwatched(&mut self, report: &mut Report) {
        for peer in std::mem::take(&mut self.unwatched) {
            if let Some(c) = self.parties.slot(peer).and_then(|slot| self.parties.get(slot)) {
                report.hand_over(c.fd, GONE);
            }
        }
    }
}

impl Lane for DbusLane {
    fn prepare(&mut self, epoll: &Epoll) -> io::Result<Work> {
        for (fd, is_watched) in self.parties.doors.closing.drain(..) {
            if is_watched {
                // a program that is being started may have it, too
                let _ = epoll.remove(fd);
            }
            sys::close(fd);
        }
        while let Some(slot) = self.parties.stale.pop() {
            let Some(c) = self.parties.get_mut(slot) else {
                continue;
            };
            c.is_stale = false;
            let mut wants = c.wanted & OUT;
            wants |= if c.input.is_ours { IN } else { c.wanted & IN };
            if c.output.is_blocked {
                wants |= OUT;
            }
            if wants == c.watched {
                continue;
            }
            let result = match (c.watched, wants) {
                (_, 0) => epoll.remove(c.fd),
                (0, _) => epoll.add(c.fd, wants),
                _ => epoll.modify(c.fd, wants),
            };
            if result.is_ok() {
                c.watched = wants;
            } else {
                // ENOSPC or ENOMEM: it is this client's end, and nobody else's
                c.input.end_unwatched();
                self.unwatched.push(c.peer);
            }
        }
        Ok(match self.is_busy() {
            false => Work::Nothing,
            true if self.parties.resuming.is_empty() => Work::Something,
            true => Work::First,
        })
    }

    fn due(&self) -> Option<f64> {
        let is_nameless = |&&(peer, _): &&(u64, f64)| {
            let guest = self.parties.slot(peer).and_then(|slot| self.parties.get(slot));
            guest.is_some_and(|guest| guest.entry.is_some())
        };
        let doors = &self.parties.doors;
        if doors.n_named == doors.guests.len() {
            return None;
        }
        doors.guests.iter().find(is_nameless).map(|(_, since)| since + PATIENCE)
    }

    fn resume(&mut self, now: f64, report: &mut Report) {
        if self.parties.resuming.is_empty() {
            return;
        }
        let world = Arc::clone(&self.world);
        let mut tables = world.tables();
        self.resume_all(&mut tables, now, report);
        self.settle_order(false, report);
        self.parties.settle(&mut tables.core);
    }

    fn ready(&mut self, events: &[(RawFd, u32)], now: f64, report: &mut Report) {
        let world = Arc::clone(&self.world);
        let mut tables = world.tables();
        let had_stopped = report.stops;
        self.serve_events(events, &mut tables, now, report);
        self.settle_order(had_stopped, report);
        self.parties.settle(&mut tables.core);
    }

    fn finish(&mut self, events: &[(RawFd, u32)], now: f64, report: &mut Report) {
        let is_idle = events.is_empty() && self.late.is_empty() && !self.is_busy();
        if !is_idle {
            let world = Arc::clone(&self.world);
            let mut tables = world.tables();
            let had_stopped = report.stops;
            if !had_stopped && !self.unwatched.is_empty() {
                self.give_up_unwatched(report);
            }
            self.serve_all(events, &mut tables, now, report);
            let late = std::mem::take(&mut self.late);
            if !self.has_served && report.events.is_empty() {
                for slot in late {
                    if !report.stops {
                        self.read(slot, &mut tables, now, report);
                    }
                }
            }
            self.settle_order(had_stopped, report);
            self.write_all(&mut tables, now, report);
        }
        self.has_served = false;
        report.is_due |= !self.parties.lost.is_empty() || !self.parties.fds.is_empty();
        report.is_due |= std::mem::take(&mut self.parties.has_freed);
        report.is_due |= self.due().is_some_and(|due| now >= due);
    }
}

/// What waits to be carried out of one connection, for statistics: bytes, descriptors, and the most that ever waited.
pub fn usage(c: &Connection) -> (Usage, Usage) {
    let now = Usage { bytes: c.input.pending() as u64, messages: 0, fds: c.input.fds.len() as u64 };
    let peak = Usage { bytes: c.input.peak_bytes, messages: 0, fds: c.input.peak_fds };
    (now, peak)
}
