//! One native peer: its end of the pair, its line of RECVs, who maps what.
//!
//! Theory. The line belongs to the lane (`is_here`) or to Python, which takes it when something is to be done that is not
//! everyday, and gives it back afterwards. Requests may be added while it is Python's; Python collects them. Which
//! channel has been sent which segment is always decided in Python, and told here.
//!
//! Invariants. 1. A line that is here has RECVs alone that may be answered here, and no offer is open. 2. If it is here,
//! and the peer is readable, no RECV waits that could be answered, and a byte is in flight.
//!
//! Not here: answering (`serve`).

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use ahash::AHashMap;
use smallvec::SmallVec;

use super::request::Receiving;
use crate::memory::Sealed;

/// RECVs that may wait at one peer, all channels together.
pub const MAX_WAITING: usize = 64;

/// A RECV that has not been answered, or may be answered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// The channel that it came through.
    pub fd: RawFd,
    /// RECV, CALL or REPLY.
    pub operation: u16,
    /// The client's number for it.
    pub tag: u64,
    /// How it receives.
    pub receiving: Receiving,
    /// Operations of its sequence that have taken effect.
    pub done: u16,
}

/// A native peer.
pub struct Station {
    /// Where its pool lies.
    pub memory: Arc<Mutex<Sealed>>,
    /// The bus's end of the pair.
    pub end: RawFd,
    /// The line belongs to the lane.
    pub is_here: bool,
    /// A byte is in flight.
    pub is_signalled: bool,
    /// In the order in which they came.
    pub line: VecDeque<Waiting>,
    /// Segments by generation: the channels that have been sent them.
    pub holders: AHashMap<u64, SmallVec<[RawFd; 2]>>,
}

impl Station {
    /// A peer without RECVs, whose line is Python's.
    pub fn new(end: RawFd, memory: Arc<Mutex<Sealed>>) -> Self {
        Self {
            memory,
            end,
            is_here: false,
            is_signalled: false,
            line: VecDeque::new(),
            holders: AHashMap::new(),
        }
    }

    /// Whether a channel has been sent a segment.
    pub fn holds(&self, generation: u64, fd: RawFd) -> bool {
        self.holders.get(&generation).is_some_and(|holders| holders.contains(&fd))
    }

    /// Whether nobody maps a segment.
    pub fn is_unmapped(&self, generation: u64) -> bool {
        self.holders.get(&generation).is_none_or(SmallVec::is_empty)
    }
}
