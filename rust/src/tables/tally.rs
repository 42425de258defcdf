//! Tally: how many of something each owner has, and the most that it ever had.
//!
//! Theory. What is counted one by one is counted here, so that no look at statistics has to walk through tables.
//!
//! Invariants. 1. `total` is the sum over all owners. 2. A peak is never below what it is the peak of. 3. Of an
//! owner that was forgotten nothing is left but its part in the peaks of all.
//!
//! Not here: what is counted (`matching`).

use ahash::RandomState;
use std::collections::HashMap;

#[derive(Default)]
struct Count {
    now: u64,
    peak: u64,
}

/// One kind of thing, by owner.
#[derive(Default)]
pub struct Tally {
    counts: HashMap<u64, Count, RandomState>,
    /// How many all owners have.
    pub total: u64,
    /// The highest `total`.
    pub peak: u64,
    /// The most that one owner ever had.
    pub owner_peak: u64,
}

impl Tally {
    /// One more.
    pub fn add(&mut self, owner: u64) {
        let count = self.counts.entry(owner).or_default();
        count.now += 1;
        count.peak = count.peak.max(count.now);
        self.owner_peak = self.owner_peak.max(count.now);
        self.total += 1;
        self.peak = self.peak.max(self.total);
    }

    /// So many less.
    pub fn remove(&mut self, owner: u64, n: u64) {
        if let Some(count) = self.counts.get_mut(&owner) {
            count.now -= n;
            self.total -= n;
        }
    }

    /// The owner has none any more, and never had.
    pub fn forget(&mut self, owner: u64) {
        if let Some(count) = self.counts.remove(&owner) {
            self.total -= count.now;
        }
    }

    /// How many the owner has.
    pub fn of(&self, owner: u64) -> u64 {
        self.counts.get(&owner).map_or(0, |count| count.now)
    }

    /// The most that the owner had.
    pub fn peak_of(&self, owner: u64) -> u64 {
        self.counts.get(&owner).map_or(0, |count| count.peak)
    }
}
