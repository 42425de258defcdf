//! The one order of events, and what commands leave for the edge.
//!
//! Theory. The twin of `bus1/core/sequencer.py`. A counter is the whole global order (G-34). `order` is a second
//! counter, of no meaning outside: where Python's dicts keep the order of insertion, entries here carry a
//! number of it. Peers that turned readable are a list in which a peer that is not any more leaves a stale
//! entry; the peer itself knows which is its own.
//!
//! Invariants. 1. Stamps are drawn only by commands that succeed. 2. Stale entries are fewer than the others,
//! but for a constant.
//!
//! Not here: queues.

/// The counters, and the effects that the edge drains after each command.
#[derive(Default)]
pub struct Sequencer {
    pub stamp: u64,
    /// A gauge, no part of the state.
    pub effort: u64,
    pub freed: Vec<i32>,
    pub retired: Vec<(u64, u64)>,
    /// (peer, order at which it woke).
    pub woken: Vec<(u64, u64)>,
    /// How many of `woken` are not stale.
    pub n_woken: usize,
    /// What went wrong that cannot go wrong.
    pub broken: Option<String>,
    order: u64,
}

impl Sequencer {
    /// The stamp of a new event.
    pub fn draw(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// A number above all earlier ones.
    pub fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// A broken invariant; the first one is remembered.
    pub fn fail(&mut self, text: impl Into<String>) {
        self.broken.get_or_insert_with(|| text.into());
    }
}

impl Sequencer {
    /// A peer turned readable.
    pub fn note_woken(&mut self, number: u64, order: u64) {
        self.woken.push((number, order));
        self.n_woken += 1;
    }

    /// It is not readable any more, or nobody need be told; `woken` is its own mark.
    pub fn forget_woken(&mut self, woken: &mut u64) {
        if *woken == 0 {
            return;
        }
        if self.woken.last().is_some_and(|(_, order)| order == woken) {
            self.woken.pop();
        }
        *woken = 0;
        self.n_woken -= 1;
        if self.n_woken == 0 {
            self.woken.clear();
        }
    }
}
