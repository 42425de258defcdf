//! How a guest leaves.
//!
//! Theory. A guest that ends its stream, of which nothing is in hand and for whom nothing waits, is gone in one step: its unique
//! name with what that causes, its rules, and those of others that name it, calls that it has made, its peer in Core. It cannot
//! own a name: that would have made it known to Python. All others leave through Python.
//!
//! Invariants. 1. What is carried out here is what `switch/departure.py` would have done. 2. It is found out without an effect
//! whether a guest may leave here.
//!
//! Not here: who is told what (`announcement`), closing its socket (`dbus`).

use super::Report;
use super::announcement::{self, Change};
use super::connection::{Connection, End};
use super::dbus::DbusLane;
use super::express::NotEveryday;
use super::poller::locked;
use super::serving::hand_over_all;
use super::transit::Ahead;
use super::world::Tables;

impl DbusLane {
    /// The stream of a connection has come to an end: a guest leaves, of others Python is told.
    pub(super) fn end(
        &mut self,
        slot: usize,
        end: End,
        tables: &mut Tables<'_>,
        now: f64,
        report: &mut Report,
    ) {
        if matches!(end, End::Ended | End::Failed) && self.depart(slot, tables, now, report).is_ok() {
            return;
        }
        if let Some(c) = self.parties.get_mut(slot) {
            hand_over_all(c, end, report);
        }
    }

    fn depart(
        &mut self,
        slot: usize,
        tables: &mut Tables<'_>,
        now: f64,
        report: &mut Report,
    ) -> Result<(), NotEveryday> {
        if !self.parties.get(slot).ok_or(NotEveryday)?.is_guest {
            return Err(NotEveryday);
        }
        self.parties.settle(&mut tables.core);
        let parties = &mut self.parties;
        let guest = parties.get(slot).ok_or(NotEveryday)?;
        let peer = guest.peer;
        let is_simple = self.climate.is_private()
            && guest.has_nothing_in_hand()
            && parties.lost.is_empty()
            && parties.fds.is_empty()
            && !tables.core.is_readable(peer)
            && tables.replies.awaited_from(peer) == 0;
        if !is_simple {
            return Err(NotEveryday);
        }
        if guest.entry.is_none() {
            let unique: Box<str> = (*guest.unique).into();
            let change = Change { name: &unique, old: &unique, new: "", leaving: Some(peer) };
            let hearers = announcement::hearers(&change, parties, tables, &mut Ahead::default())?;
            // from here on it happens
            announcement::put(&change, &hearers, parties, tables, now);
            parties.settle(&mut tables.core);
            let mut matches = locked(tables.matches);
            matches.drop_owner(peer);
            matches.forget_name(&unique, |_| false);
        }
        tables.replies.drop_peer(peer);
        // a peer that exists can go
        let _ = tables.core.peer_disconnect(peer);
        if let Some(guest) = parties.remove(peer) {
            report.moves.push((guest.fd, false));
            parties.doors.left(&guest);
        }
        Ok(())
    }
}

impl Connection {
    /// It has said nothing that is not carried out, and everything that it was told is written.
    fn has_nothing_in_hand(&self) -> bool {
        let lines = match &self.entry {
            // the beginning of a line is nothing
            Some(entry) if !entry.auth.is_done() => entry.unsent.is_empty(),
            Some(entry) => entry.unsent.is_empty() && self.input.pending() == 0,
            None => self.unsent.is_empty() && self.input.pending() == 0,
        };
        lines && self.input.is_ours && self.input.n_fds() == 0 && self.output.is_free()
    }
}
