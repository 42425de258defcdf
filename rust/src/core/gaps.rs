//! Free ranges of an address space of 2**32 - 1 bytes, best fit.
//!
//! Theory. The twin of `Gaps` in `bus1/core/pool.py`. Two sorted lists: by size, for the best fit, and by
//! address, for the neighbours. Most pools have one gap or two.
//!
//! Invariants. 1. Both lists tell the same; ranges neither overlap nor touch, but at a fence.
//!
//! Not here: segments (`pool`).

use smallvec::SmallVec;

/// Free ranges.
#[derive(Default)]
pub struct Gaps {
    /// (size, start)
    by_size: SmallVec<[(u32, u32); 2]>,
    /// (start, size)
    by_start: SmallVec<[(u32, u32); 2]>,
}

impl Gaps {
    /// The start of `size` bytes at the best fit.
    pub fn take(&mut self, size: u64) -> Option<u32> {
        let size = u32::try_from(size).ok()?;
        let at = self.by_size.partition_point(|gap| *gap < (size, 0));
        let (room, start) = *self.by_size.get(at)?;
        self.cut(at, start, room, size);
        Some(start)
    }

    /// As `take`, but at the lowest address.
    pub fn take_lowest(&mut self, size: u32) -> Option<u32> {
        let (start, _) = *self.by_start.iter().find(|(_, room)| *room >= size)?;
        self.take_at(start, size);
        Some(start)
    }

    /// Take `size` bytes from the gap that begins at `start`; nothing if there is none.
    pub fn take_at(&mut self, start: u32, size: u32) {
        if let Ok(at) = self.by_start.binary_search_by_key(&start, |gap| gap.0) {
            let room = self.by_start[at].1;
            if let Ok(at) = self.by_size.binary_search(&(room, start)) {
                self.cut(at, start, room, size);
            }
        }
    }

    /// Free a range; it merges with its neighbours where no fence is between them.
    pub fn give(&mut self, start: u32, size: u32, is_fence: impl Fn(u32) -> bool) {
        let end = start + size;
        let at = self.by_start.partition_point(|gap| gap.0 < start);
        let right = self.by_start.get(at).copied().filter(|gap| gap.0 == end && !is_fence(end));
        let left = at
            .checked_sub(1)
            .map(|at| self.by_start[at])
            .filter(|gap| gap.0 + gap.1 == start && !is_fence(start));
        if let Some((start, room)) = right {
            self.forget_size(room, start);
        }
        if let Some((start, room)) = left {
            self.forget_size(room, start);
        }
        let merged = match (left, right) {
            (Some(left), Some(right)) => {
                self.by_start.remove(at);
                self.by_start[at - 1].1 = left.1 + size + right.1;
                self.by_start[at - 1]
            }
            (Some(left), None) => {
                self.by_start[at - 1].1 = left.1 + size;
                self.by_start[at - 1]
            }
            (None, Some(right)) => {
                self.by_start[at] = (start, size + right.1);
                self.by_start[at]
            }
            (None, None) => {
                self.by_start.insert(at, (start, size));
                (start, size)
            }
        };
        self.note_size(merged.1, merged.0);
    }

    /// It has no memory beside its own.
    pub fn is_small(&self) -> bool {
        !(self.by_size.spilled() || self.by_start.spilled())
    }

    /// (start, size) of each, by address.
    #[cfg(test)]
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.by_start
    }

    fn cut(&mut self, at: usize, start: u32, room: u32, size: u32) {
        self.by_size.remove(at);
        if let Ok(at) = self.by_start.binary_search_by_key(&start, |gap| gap.0) {
            if room == size {
                self.by_start.remove(at);
            } else {
                self.by_start[at] = (start + size, room - size);
            }
        }
        if room != size {
            self.note_size(room - size, start + size);
        }
    }

    fn note_size(&mut self, room: u32, start: u32) {
        let at = self.by_size.partition_point(|gap| *gap < (room, start));
        self.by_size.insert(at, (room, start));
    }

    fn forget_size(&mut self, room: u32, start: u32) {
        if let Ok(at) = self.by_size.binary_search(&(room, start)) {
            self.by_size.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_gap_that_fits_is_taken_and_neighbours_merge() {
        let mut gaps = Gaps::default();
        gaps.give(0, 100, |_| false);
        assert_eq!(gaps.take(10), Some(0));
        assert_eq!(gaps.take(20), Some(10));
        gaps.give(0, 10, |_| false);
        assert_eq!(gaps.take(8), Some(0));
        assert_eq!(gaps.ranges(), [(8, 2), (30, 70)]);
        gaps.give(10, 20, |_| false);
        assert_eq!(gaps.ranges(), [(8, 92)]);
        assert_eq!(gaps.take(93), None);
        assert_eq!(gaps.take(1 << 40), None);
    }

    #[test]
    fn gaps_do_not_merge_across_a_fence() {
        let mut gaps = Gaps::default();
        gaps.give(0, 8, |at| at == 8);
        gaps.give(8, 8, |at| at == 8);
        assert_eq!(gaps.ranges(), [(0, 8), (8, 8)]);
        assert_eq!(gaps.take_lowest(8), Some(0));
    }
}
