//! Whose turn is first while Python decides messages, one by one.
//!
//! Theory. A message that is handed over keeps everybody waiting until Python has decided it. So these are shared out among
//! programs by start-time fair queueing, as the Switch in Python shares its time: a program's tag is what was decided for its
//! connections, counted from the tag of whoever was served when it came, and the smallest tag is next. Who wants something of
//! Python now and then is before those that want much, and waits for a few messages of each of them at most: so many that a client
//! says at once stay together. What is carried out here takes hardly any time, and counts nothing.
//!
//! Invariants. 1. Tags of those who wait only grow by being served: nobody waits for ever. 2. When nobody else waits everything
//! is forgotten; so it is where there are too many programs to remember.
//!
//! Not here: what each does in its turn (`dbus`, `serving`).

use std::os::fd::RawFd;

use ahash::AHashMap;

use super::Report;
use super::connection::Connection;
use super::dbus::DbusLane;
use super::world::Tables;

/// So many messages of one client are handed over in a row, before who has had less goes first.
pub const HANDED_IN_A_ROW: u16 = 8;
/// So many programs are remembered.
const PROGRAMS_MAX: usize = 1024;
/// A message of so many bytes more counts as one more.
const LARGE: usize = 16 << 10;

/// A user's process; a connection of its own where that is not known.
type Program = (i64, i64);

/// The tags of programs for which Python has decided something while others waited.
#[derive(Default)]
pub struct Order {
    /// The tag of the program that was served last, as it was before.
    now: u64,
    tags: AHashMap<Program, u64>,
}

impl Order {
    /// Nobody has had more than others.
    pub fn is_level(&self) -> bool {
        self.tags.is_empty()
    }

    /// Nobody waits: all are alike again.
    pub fn forget(&mut self) {
        self.now = 0;
        self.tags.clear();
    }

    /// The smaller, the sooner; of equal ones, who has had less.
    pub fn tag(&self, c: &Connection) -> (u64, u64) {
        let tag = self.tags.get(&program(c)).copied().unwrap_or(0);
        (tag.max(self.now), tag)
    }

    /// Python decides something of this connection, so many bytes.
    pub fn charge(&mut self, c: &Connection, n_bytes: usize) {
        let (tag, _) = self.tag(c);
        if self.tags.len() >= PROGRAMS_MAX {
            self.tags.clear();
        }
        if c.input.n_handed <= 1 {
            self.now = tag;
        }
        let weight = 1 + (n_bytes / LARGE) as u64;
        self.tags.insert(program(c), tag.saturating_add(weight));
    }
}

fn program(c: &Connection) -> Program {
    let who = &c.credentials;
    if who.pid > 0 { (who.uid, who.pid) } else { (who.uid, -1 - c.peer as i64) }
}

/// Who is next in a turn.
enum Next {
    Event((RawFd, u32)),
    /// This peer has something left.
    GoesOn(u64),
}

impl DbusLane {
    /// Who was in the middle of its turn goes on.
    pub(super) fn resume_all(&mut self, tables: &mut Tables<'_>, now: f64, report: &mut Report) {
        for slot in std::mem::take(&mut self.parties.resuming) {
            let Some(c) = self.parties.get(slot) else { continue };
            if report.stops || !c.input.is_ours {
                self.parties.mark_busy(slot);
                continue;
            }
            self.serve(slot, tables, now, report);
            self.tidy(slot);
        }
    }

    /// Everybody who wants something, and then what is left from earlier turns, until something stops the turn.
    pub(super) fn serve_all(
        &mut self,
        events: &[(RawFd, u32)],
        tables: &mut Tables<'_>,
        now: f64,
        report: &mut Report,
    ) {
        if self.order.is_level() {
            self.serve_events(events, tables, now, report);
            self.go_on(tables, now, report);
        } else if !report.stops {
            let busy = std::mem::take(&mut self.parties.busy);
            let busy: Vec<u64> = busy.into_iter().map(|slot| self.peer(slot)).collect();
            if events.len() + busy.len() == 1 {
                self.order.forget();
            }
            self.serve_in_order(events, &busy, tables, now, report);
        }
        if !report.stops && self.parties.busy.is_empty() {
            self.order.forget();
        }
    }

    /// Events, and those that can go on, which stand in the line again if they can't: who has had least of Python is first.
    pub(super) fn serve_in_order(
        &mut self,
        events: &[(RawFd, u32)],
        busy: &[u64],
        tables: &mut Tables<'_>,
        now: f64,
        report: &mut Report,
    ) {
        let tag = |lane: &Self, slot: Option<usize>| {
            slot.and_then(|slot| lane.parties.get(slot)).map(|c| lane.order.tag(c))
        };
        let comes =
            events.iter().map(|&event| (tag(self, self.parties.slot_of_fd(event.0)), Next::Event(event)));
        let goes_on = busy.iter().map(|&peer| (tag(self, self.parties.slot(peer)), Next::GoesOn(peer)));
        let mut line: Vec<(Option<(u64, u64)>, Next)> = comes.chain(goes_on).collect();
        line.sort_by_key(|(tag, _)| *tag);
        for (_, next) in line {
            match next {
                Next::Event((fd, events)) if !report.stops => {
                    self.serve_event(fd, events, tables, now, report);
                }
                Next::Event(_) => {}
                Next::GoesOn(peer) => {
                    if let Some(slot) = self.parties.slot(peer) {
                        if report.stops {
                            self.parties.busy.push_back(slot);
                        } else {
                            self.go_on_one(slot, tables, now, report);
                        }
                    }
                }
            }
        }
    }

    fn go_on(&mut self, tables: &mut Tables<'_>, now: f64, report: &mut Report) {
        for _ in 0..self.parties.busy.len() {
            if report.stops {
                return;
            }
            let Some(slot) = self.parties.busy.pop_front() else {
                return;
            };
            self.go_on_one(slot, tables, now, report);
        }
    }

    fn go_on_one(&mut self, slot: usize, tables: &mut Tables<'_>, now: f64, report: &mut Report) {
        let Some(c) = self.parties.get_mut(slot) else {
            return;
        };
        if c.comes_last && self.has_served {
            self.parties.busy.push_back(slot);
            return;
        }
        c.input.is_busy = false;
        c.input.n_handed = 0;
        self.has_served |= !c.comes_last;
        if c.input.is_ours {
            self.serve(slot, tables, now, report);
            self.tidy(slot);
        }
    }

    /// What this step hands over counts for whose it is.
    pub(super) fn settle_order(&mut self, had_stopped: bool, report: &Report) {
        if had_stopped || !report.stops {
            return;
        }
        if let Some(&(fd, _)) = report.events.last()
            && let Some(c) = self.parties.slot_of_fd(fd).and_then(|slot| self.parties.get(slot))
            && let Some(n_bytes) = c.input.n_handed_bytes()
        {
            self.order.charge(c, n_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::Standing;
    use super::*;
    use crate::core::Credentials;

    fn connection(peer: u64, pid: i64) -> Connection {
        let who = Credentials { uid: 1, pid, ..Credentials::default() };
        Connection::new(-1, peer, "", who.into(), Standing::default())
    }

    #[test]
    fn who_comes_now_and_then_is_before_those_who_want_much() {
        let (flooder, caller) = (connection(1, 10), connection(2, 11));
        let mut order = Order::default();
        assert!(order.is_level());
        for _ in 0..100 {
            order.charge(&flooder, 100);
        }
        assert!(order.tag(&caller) < order.tag(&flooder));
        // what it did not use is not saved up
        order.charge(&caller, 100);
        order.charge(&caller, 100);
        assert!(order.tag(&caller) > order.tag(&flooder));
        order.forget();
        assert!(order.is_level());
    }

    #[test]
    fn connections_of_one_process_count_together_and_others_by_themselves() {
        let mut order = Order::default();
        order.charge(&connection(1, 10), 5 * LARGE);
        assert_eq!(order.tag(&connection(2, 10)), (6, 6));
        for peer in 3..5 {
            assert_eq!(order.tag(&connection(peer, 0)), (0, 0));
            order.charge(&connection(peer, 0), 0);
        }
        assert_eq!(order.tag(&connection(3, 0)), (1, 1));
    }

    #[test]
    fn so_many_programs_are_remembered_and_no_more() {
        let mut order = Order::default();
        for peer in 0..3 * PROGRAMS_MAX as u64 {
            order.charge(&connection(peer, 0), 0);
            assert!(order.tags.len() <= PROGRAMS_MAX);
        }
    }
}
