//! What lies where in one pool.
//!
//! Theory. Most pools are empty most of the time: nothing was ever in them, or they are *at rest*, with one shared segment that
//! their peer may have mapped. Neither needs a description. A layout is one while a pool is neither; it is lent
//! by a stock, as what comes and goes one at a time is no work for the allocator.
//!
//! Invariants. 1. Gaps and slices tile the shared segments. 2. In the stock all layouts are at rest, but for
//! the generation.
//!
//! Not here: what is done with it (`pool`).

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

use slab::Slab;
use smallvec::{SmallVec, smallvec};

use super::gaps::Gaps;
use super::hashing::ByKey;
use super::pool::{ADDRESS_SPACE, SHARED_SEGMENT, Segment, Slice};

/// So many layouts are kept for whoever needs one.
const STOCK: usize = 64;

/// What lies where.
pub struct Layout {
    /// Where a segment may begin.
    pub space: Gaps,
    /// Where a slice may lie in the shared segments.
    pub gaps: Gaps,
    /// (base, generation) of the shared segments.
    pub bases: SmallVec<[(u32, u64); 1]>,
    /// By generation.
    pub segments: SmallVec<[Segment; 1]>,
    /// By offset; their order is that of their serials.
    pub published: HashMap<u32, usize, ByKey>,
    /// Segments with what is still charged for them, as they were retired.
    pub retired: Vec<(Segment, u64)>,
    pub n_slices: u64,
}

impl Layout {
    /// Of a pool in which nothing ever was.
    pub fn untouched() -> Self {
        let mut space = Gaps::default();
        space.give(0, ADDRESS_SPACE, |_| false);
        Layout {
            space,
            gaps: Gaps::default(),
            bases: SmallVec::new(),
            segments: SmallVec::new(),
            published: HashMap::default(),
            retired: Vec::new(),
            n_slices: 0,
        }
    }

    fn at_rest(generation: u64) -> Self {
        let mut layout = Self::untouched();
        let base = layout.space.take_lowest(SHARED_SEGMENT).unwrap_or_default();
        layout.gaps.give(base, SHARED_SEGMENT, |_| false);
        layout.bases = smallvec![(base, generation)];
        layout.segments = smallvec![Segment::at_rest(generation)];
        layout
    }

    fn at(&self, generation: u64) -> Option<usize> {
        match self.segments.last() {
            Some(last) if last.generation == generation => Some(self.segments.len() - 1),
            _ => self.segments.binary_search_by_key(&generation, |segment| segment.generation).ok(),
        }
    }

    /// The segment of this generation.
    pub fn segment(&mut self, generation: u64) -> Option<&mut Segment> {
        self.at(generation).map(|at| &mut self.segments[at])
    }

    /// The generation of the shared segment in which an offset is.
    pub fn shared_at(&self, offset: u32) -> Option<u64> {
        let after = self.bases.partition_point(|(base, _)| *base <= offset);
        after.checked_sub(1).map(|at| self.bases[at].1)
    }

    /// A segment is opened, of a later generation than all others.
    pub fn add(&mut self, segment: Segment) {
        self.segments.push(segment);
        if segment.shared {
            let at = self.bases.partition_point(|(other, _)| *other < segment.base);
            self.bases.insert(at, (segment.base, segment.generation));
            self.give(segment.base, segment.size);
        }
    }

    /// A segment is closed.
    pub fn remove(&mut self, segment: &Segment) {
        if let Some(at) = self.at(segment.generation) {
            self.segments.remove(at);
        }
        if segment.shared {
            self.gaps.take_at(segment.base, segment.size);
            self.bases.retain(|(base, _)| *base != segment.base);
        }
    }

    fn give(&mut self, start: u32, size: u32) {
        let bases = &self.bases;
        self.gaps.give(start, size, |at| bases.binary_search_by_key(&at, |base| base.0).is_ok());
    }

    /// A slice is gone.
    pub fn vacate(&mut self, slice: &Slice) {
        self.n_slices -= 1;
        if let Some(segment) = self.segment(slice.generation) {
            segment.slices -= 1;
            if segment.shared {
                self.give(slice.offset, slice.size);
            }
        }
    }

    /// The peer has given the slice at an offset back.
    pub fn unpublish(&mut self, offset: u32) {
        self.published.remove(&offset);
        if self.published.is_empty() {
            self.published = HashMap::default();
        }
    }

    /// A segment without slices is kept.
    pub fn stays(&self, segment: &Segment) -> bool {
        let is_other = |other: &Segment| other.shared && other.generation != segment.generation;
        let has_spare = || self.segments.iter().any(|other| is_other(other) && other.slices == 0);
        segment.shared && (segment.base == 0 || (self.n_slices > 0 && !has_spare()))
    }

    /// There are no slices, and perhaps segments that nobody needs.
    pub fn has_idle(&self) -> bool {
        self.n_slices == 0 && (self.bases.len() > 1 || self.bases.first().is_none_or(|base| base.0 != 0))
    }

    /// Nothing lies in it, and it is as if nothing ever had.
    pub fn is_untouched(&self) -> bool {
        self.segments.is_empty() && self.retired.is_empty()
    }

    /// Nothing lies in it, and it has its first segment, as it keeps it: what comes and goes leaves it as it is.
    pub fn is_at_rest(&self) -> bool {
        self.n_slices == 0
            && self.segments.len() == 1
            && self.segments.first().is_some_and(Segment::rests)
            && self.retired.is_empty()
    }

    /// It is no larger than a new one.
    fn is_small(&self) -> bool {
        let has_little = self.space.is_small() && self.gaps.is_small() && self.retired.capacity() == 0;
        has_little && !self.bases.spilled() && !self.segments.spilled()
    }

    /// It can be made anew at any time, if this is the latest generation.
    pub fn can_be_made(&self, generation: u64) -> bool {
        let is_latest = || self.segments.first().is_some_and(|segment| segment.generation == generation);
        self.n_slices == 0 && (self.is_untouched() || (self.is_at_rest() && is_latest()))
    }
}

/// All slices, and layouts that nobody needs.
#[derive(Default)]
pub struct Slices {
    all: Slab<Slice>,
    // they move in and out as they are
    #[allow(clippy::vec_box)]
    stock: Vec<Box<Layout>>,
}

impl Slices {
    /// A layout for a pool at rest.
    pub fn lend(&mut self, generation: u64) -> Box<Layout> {
        let Some(mut layout) = self.stock.pop() else {
            return Box::new(Layout::at_rest(generation));
        };
        if let (Some(segment), Some(base)) = (layout.segments.first_mut(), layout.bases.first_mut()) {
            (segment.generation, base.1) = (generation, generation);
        }
        layout
    }

    /// A layout at rest comes back.
    pub fn take_back(&mut self, layout: Box<Layout>) {
        if self.stock.len() < STOCK && layout.is_small() {
            self.stock.push(layout);
        }
    }
}

impl Deref for Slices {
    type Target = Slab<Slice>;

    fn deref(&self) -> &Slab<Slice> {
        &self.all
    }
}

impl DerefMut for Slices {
    fn deref_mut(&mut self) -> &mut Slab<Slice> {
        &mut self.all
    }
}
