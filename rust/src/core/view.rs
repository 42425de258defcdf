//! How one peer sees the ids of others (P-51).
//!
//! Theory. The twin of `bus1/core/view.py`: ids of users and groups go through the maps of the peer's user
//! namespace, the process id is the one in its pid namespace.
//!
//! Invariants. 1. An id that does not exist there is never another id that does.
//!
//! Not here: where views come from.

use super::api::Credentials;

/// Who has no id there.
pub const OVERFLOW: i64 = 65534;
/// First id there, first id of the bus, how many.
pub type Extent = (i64, i64, i64);

/// The namespaces of a peer's opener.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct View {
    pub uids: Vec<Extent>,
    pub gids: Vec<Extent>,
    /// Its number; 0 if it is not known.
    pub pid_namespace: i64,
}

impl View {
    /// (uid, gid, pid, tid) of the same task as this peer sees it.
    pub fn of(&self, who: &Credentials) -> (i64, i64, i64, i64) {
        let pid = match self.pid_namespace {
            0 => 0,
            // the last of equals counts, as in a dict
            wanted => who.pids.iter().rev().find(|(space, _)| *space == wanted).map_or(0, |(_, pid)| *pid),
        };
        (mapped(&self.uids, who.uid), mapped(&self.gids, who.gid), pid, 0)
    }
}

fn mapped(extents: &[Extent], number: i64) -> i64 {
    for &(there, here, count) in extents {
        if here <= number && number < here.saturating_add(count) && number != OVERFLOW {
            return there.saturating_add(number - here);
        }
    }
    OVERFLOW
}
