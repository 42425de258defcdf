//! The tables that the lane shares with Python.
//!
//! Theory. Core's queues, the match rules and the outstanding replies exist once, natively, and Python works on the very
//! same ones through its bindings. The lane locks them for a turn.
//!
//! Not here: what the lane knows alone (names, `dbus`).

use std::sync::{Arc, Mutex, MutexGuard};

use crate::core::Core;
use crate::lane::poller::locked;
use crate::tables::{MatchIndex, ReplyTable};

/// The shared tables.
#[derive(Clone)]
pub struct World {
    pub core: Arc<Mutex<Core>>,
    pub matches: Arc<Mutex<MatchIndex>>,
    pub replies: Arc<Mutex<ReplyTable>>,
}

/// All of them, locked.
pub struct Tables<'w> {
    pub core: MutexGuard<'w, Core>,
    /// Locked by whoever asks them.
    pub matches: &'w Mutex<MatchIndex>,
    pub replies: MutexGuard<'w, ReplyTable>,
}

impl World {
    /// For one step.
    pub fn tables(&self) -> Tables<'_> {
        Tables { core: locked(&self.core), matches: &self.matches, replies: locked(&self.replies) }
    }
}
