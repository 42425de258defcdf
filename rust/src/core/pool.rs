//! Where the slices of one peer lie.
//!
//! Theory. The twin of `bus1/core/pool.py`, where placement, holds, serials and the retiring of segments are
//! told. Slices are in one table of Core, named by keys; a slice of a heap pool keeps its payload.
//!
//! Invariants. 1. Gaps and slices tile the shared segments. 2. `cancel`, in the reverse order of `allocate`,
//! restores the very state from before. 3. Generations of segments that anybody could have seen are never reused.
//!
//! Not here: bytes (`backing`), what a slice contains (`delivery`).

use std::collections::HashMap;

use slab::Slab;
use smallvec::SmallVec;

use super::account::{BYTES, Purse, SLICES};
use super::api::Payload;
use super::backing::{Memory, Mishap};
use super::error::{Error, Kind, Result};
use super::gaps::Gaps;
use super::hashing::ByKey;
use super::sequencer::Sequencer;

pub const ADDRESS_SPACE: u32 = 0xFFFF_FFFF;
pub const OWN_SEGMENT: u64 = 2 << 20;
pub const SHARED_SEGMENT: u32 = 4 << 20;
const PAGE: u64 = 4096;

/// A contiguous piece of a pool.
#[derive(Clone, Copy)]
pub struct Segment {
    pub generation: u64,
    pub base: u32,
    pub size: u32,
    pub slices: u32,
    pub shared: bool,
    /// No command that uses it has been committed yet.
    fresh: bool,
    /// The peer has been told of a slice in it, so it may be mapped.
    pub exposed: bool,
}

/// A range of a pool for one message; `charged` bytes are booked for it.
pub struct Slice {
    pub offset: u32,
    pub size: u32,
    pub charged: u64,
    pub generation: u64,
    pub pinned: bool,
    pub published: bool,
    /// Of its latest publication.
    pub serial: u64,
    /// In a heap pool.
    pub payload: Payload,
}

/// What commands on a pool need of Core.
pub struct Surroundings<'a> {
    pub slices: &'a mut Slab<Slice>,
    pub purse: Purse<'a>,
    pub sequencer: &'a mut Sequencer,
    pub mishap: &'a mut Mishap,
}

/// The slices of one peer.
pub struct Pool {
    pub memory: Memory,
    pub shares_buffers: bool,
    number: u64,
    space: Gaps,
    gaps: Gaps,
    /// (base, generation) of the shared segments.
    bases: SmallVec<[(u32, u64); 1]>,
    /// By generation.
    pub segments: SmallVec<[Segment; 1]>,
    /// By offset; their order is that of their serials.
    pub published: HashMap<u32, usize, ByKey>,
    /// Segments with what is still charged for them, as they were retired.
    pub retired: Vec<(Segment, u64)>,
    pub generation: u64,
    pub serial: u64,
    pub n_slices: u64,
}

impl Pool {
    /// An empty one, of peer `number`.
    pub fn new(number: u64, memory: Memory) -> Self {
        let mut space = Gaps::default();
        space.give(0, ADDRESS_SPACE, |_| false);
        Pool {
            shares_buffers: memory.shares_buffers(),
            memory,
            number,
            space,
            gaps: Gaps::default(),
            bases: SmallVec::new(),
            segments: SmallVec::new(),
            published: HashMap::default(),
            retired: Vec::new(),
            generation: 0,
            serial: 0,
            n_slices: 0,
        }
    }

    fn at(&self, generation: u64) -> Option<usize> {
        match self.segments.last() {
            Some(last) if last.generation == generation => Some(self.segments.len() - 1),
            _ => self.segments.binary_search_by_key(&generation, |segment| segment.generation).ok(),
        }
    }

    fn segment(&mut self, generation: u64) -> Option<&mut Segment> {
        self.at(generation).map(|at| &mut self.segments[at])
    }

    /// Nothing lies in it, and it has its first segment, as it keeps it: what comes and goes leaves it as it is.
    pub fn is_at_rest(&self) -> bool {
        let keeps_first = self
            .segments
            .first()
            .is_some_and(|segment| segment.base == 0 && segment.shared && segment.exposed && !segment.fresh);
        self.n_slices == 0 && self.segments.len() == 1 && keeps_first && self.retired.is_empty()
    }

    /// A pinned slice, its memory reserved; TooLarge, PoolFull or OutOfMemory change nothing.
    pub fn allocate(
        &mut self,
        size: u64,
        charged: u64,
        slices: &mut Slab<Slice>,
        mishap: &mut Mishap,
    ) -> Result<usize> {
        if size > u64::from(ADDRESS_SPACE) {
            return Err(Error::new(Kind::TooLarge, format!("a slice of {size} bytes")));
        }
        let (offset, generation) = if size >= OWN_SEGMENT {
            let rounded = (size + PAGE - 1) & !(PAGE - 1);
            let base = self.space.take(rounded);
            let generation = self.open(base, rounded, false)?;
            (base.unwrap_or_default(), generation)
        } else {
            self.place(size)?
        };
        let at = self.at(generation).ok_or_else(|| lost("segment"))?;
        self.segments[at].slices += 1;
        self.n_slices += 1;
        let key = slices.insert(Slice {
            offset,
            size: size as u32,
            charged,
            generation,
            pinned: true,
            published: false,
            serial: 0,
            payload: Payload::default(),
        });
        if let Err(error) = self.memory.reserve(generation, offset, size as u32) {
            self.cancel(key, slices, mishap);
            return Err(error);
        }
        Ok(key)
    }

    /// Room in a shared segment: (offset, generation).
    fn place(&mut self, size: u64) -> Result<(u32, u64)> {
        let offset = match self.gaps.take(size) {
            Some(offset) => offset,
            None => {
                let base = self.space.take_lowest(SHARED_SEGMENT);
                self.open(base, u64::from(SHARED_SEGMENT), true)?;
                self.gaps.take(size).ok_or_else(|| lost("gap"))?
            }
        };
        let after = self.bases.partition_point(|(base, _)| *base <= offset);
        let (_, generation) = after.checked_sub(1).map(|at| self.bases[at]).ok_or_else(|| lost("base"))?;
        Ok((offset, generation))
    }

    /// Undo the latest `allocate` that is not undone yet.
    pub fn cancel(&mut self, key: usize, slices: &mut Slab<Slice>, mishap: &mut Mishap) {
        let slice = slices.remove(key);
        self.vacate(&slice, mishap);
        if let Some(segment) = self.segment(slice.generation).copied()
            && segment.fresh
            && segment.slices == 0
        {
            self.close_segment(&segment, mishap);
            self.space.give(segment.base, segment.size, |_| false);
            self.generation -= 1;
        }
    }

    /// Write the payload, padded with zeros where the peer could see what lay there.
    pub fn fill(&mut self, slice: &mut Slice, payload: Payload, n_bytes: u64, mishap: &mut Mishap) {
        if let Some(segment) = self.segment(slice.generation) {
            segment.fresh = false;
        }
        let padding = match (self.shares_buffers, n_bytes) {
            (true, _) => 0,
            (false, 0) => 8,
            (false, n) => (n.wrapping_neg() % 8) as usize,
        };
        match self.memory.write(slice.generation, slice.offset, payload, padding) {
            Ok(kept) => slice.payload = kept,
            Err(error) => mishap.note(Err(error)),
        }
    }

    /// The peer learns of the slice; idempotent.
    pub fn publish(&mut self, key: usize, slice: &mut Slice) {
        if !slice.published {
            slice.published = true;
            self.serial += 1;
            slice.serial = self.serial;
            self.expose(slice.generation);
            self.published.insert(slice.offset, key);
        }
    }

    /// The peer may have mapped this segment.
    pub fn expose(&mut self, generation: u64) {
        if let Some(segment) = self.segment(generation) {
            segment.exposed = true;
        }
    }

    /// The slice's message is gone.
    pub fn unpin(&mut self, key: usize, around: &mut Surroundings<'_>) {
        let slice = &mut around.slices[key];
        slice.pinned = false;
        if !slice.published {
            self.free(key, self.shares_buffers, around);
        }
    }

    /// The peer gives a published slice back (L-8); NoSuchHandle if none, or a later one, starts there.
    pub fn release(
        &mut self,
        offset: u64,
        serial: u64,
        unmapped: bool,
        around: &mut Surroundings<'_>,
    ) -> Result<()> {
        let published = u32::try_from(offset).ok().and_then(|at| self.published.get(&at));
        let Some(&key) = published else {
            return Err(Error::new(Kind::NoSuchHandle, format!("no published slice at {offset}")));
        };
        let slice = &mut around.slices[key];
        if serial != 0 && serial != slice.serial {
            return Err(Error::new(
                Kind::NoSuchHandle,
                format!("the slice at {offset} has serial {}, not {serial}", slice.serial),
            ));
        }
        self.published.remove(&slice.offset);
        if self.published.is_empty() {
            self.published = HashMap::default();
        }
        slice.published = false;
        if !slice.pinned {
            self.free(key, unmapped, around);
        }
        Ok(())
    }

    /// The peer loses all published slices (L-11).
    pub fn unpublish(&mut self, around: &mut Surroundings<'_>) {
        let keys = self.published_in_order(around.slices);
        self.published = HashMap::default();
        around.sequencer.effort += keys.len() as u64;
        for key in keys {
            let slice = &mut around.slices[key];
            slice.published = false;
            if !slice.pinned {
                self.free(key, self.shares_buffers, around);
            }
        }
    }

    /// Keys of the published slices, as they were published.
    pub fn published_in_order(&self, slices: &Slab<Slice>) -> Vec<usize> {
        let mut keys: Vec<usize> = self.published.values().copied().collect();
        keys.sort_unstable_by_key(|key| slices[*key].serial);
        keys
    }

    /// The peer has unmapped a retired segment; NoSuchHandle if it is none.
    pub fn unmapped(&mut self, generation: u64, around: &mut Surroundings<'_>) -> Result<()> {
        let found = self.retired.iter().position(|(segment, _)| segment.generation == generation);
        let Some(at) = found else {
            return Err(Error::new(Kind::NoSuchHandle, format!("no retired segment {generation}")));
        };
        let (segment, charged) = self.retired.remove(at);
        self.space.give(segment.base, segment.size, |_| false);
        around.purse.give(BYTES, charged, around.sequencer);
        Ok(())
    }

    /// The peer is gone, and so are its slices: close what is left.
    pub fn close(&mut self, around: &mut Surroundings<'_>) {
        for segment in self.segments.clone() {
            self.close_segment(&segment, around.mishap);
        }
        for (_, charged) in std::mem::take(&mut self.retired) {
            around.purse.give(BYTES, charged, around.sequencer);
        }
    }

    fn open(&mut self, base: Option<u32>, size: u64, shared: bool) -> Result<u64> {
        let Some(base) = base else {
            return Err(Error::new(Kind::PoolFull, format!("no gap of {size} bytes")));
        };
        let size = size as u32;
        let generation = self.generation + 1;
        if let Err(error) = self.memory.open_segment(generation, base, size) {
            self.space.give(base, size, |_| false);
            return Err(error);
        }
        self.generation = generation;
        self.segments.push(Segment {
            generation,
            base,
            size,
            slices: 0,
            shared,
            fresh: true,
            exposed: false,
        });
        if shared {
            let at = self.bases.partition_point(|(other, _)| *other < base);
            self.bases.insert(at, (base, generation));
            give_shared(&mut self.gaps, &self.bases, base, size);
        }
        Ok(generation)
    }

    fn close_segment(&mut self, segment: &Segment, mishap: &mut Mishap) {
        mishap.note(self.memory.close_segment(segment.generation));
        if let Some(at) = self.at(segment.generation) {
            self.segments.remove(at);
        }
        if segment.shared {
            self.gaps.take_at(segment.base, segment.size);
            self.bases.retain(|(base, _)| *base != segment.base);
        }
    }

    fn vacate(&mut self, slice: &Slice, mishap: &mut Mishap) {
        mishap.note(self.memory.release(slice.generation, slice.offset, slice.size));
        self.n_slices -= 1;
        if let Some(segment) = self.segment(slice.generation) {
            segment.slices -= 1;
            if segment.shared {
                give_shared(&mut self.gaps, &self.bases, slice.offset, slice.size);
            }
        }
    }

    /// Nobody holds the slice any more.
    pub fn free(&mut self, key: usize, unmapped: bool, around: &mut Surroundings<'_>) {
        let slice = around.slices.remove(key);
        self.vacate(&slice, around.mishap);
        around.purse.give(SLICES, 1, around.sequencer);
        match self.segment(slice.generation).copied() {
            Some(segment) if segment.slices == 0 && !self.stays(&segment) => {
                self.retire(&segment, slice.charged, unmapped, around);
            }
            _ => around.purse.give(BYTES, slice.charged, around.sequencer),
        }
        if self.n_slices == 0 && (self.bases.len() > 1 || self.bases.first().is_none_or(|b| b.0 != 0)) {
            self.retire_idle(around);
        }
    }

    fn retire_idle(&mut self, around: &mut Surroundings<'_>) {
        let shared = self.segments.iter().filter(|segment| segment.shared);
        let idle: Vec<Segment> = shared.filter(|segment| !self.stays(segment)).copied().collect();
        for segment in idle {
            self.retire(&segment, 0, self.shares_buffers, around);
        }
    }

    fn stays(&self, segment: &Segment) -> bool {
        let is_other = |other: &Segment| other.shared && other.generation != segment.generation;
        let has_spare = || self.segments.iter().any(|other| is_other(other) && other.slices == 0);
        segment.shared && (segment.base == 0 || (self.n_slices > 0 && !has_spare()))
    }

    fn retire(&mut self, segment: &Segment, charged: u64, unmapped: bool, around: &mut Surroundings<'_>) {
        self.close_segment(segment, around.mishap);
        if unmapped || !segment.exposed {
            self.space.give(segment.base, segment.size, |_| false);
            around.purse.give(BYTES, charged, around.sequencer);
        } else {
            self.retired.push((*segment, charged));
            around.sequencer.retired.push((self.number, segment.generation));
        }
    }
}

fn give_shared(gaps: &mut Gaps, bases: &[(u32, u64)], start: u32, size: u32) {
    gaps.give(start, size, |at| bases.binary_search_by_key(&at, |base| base.0).is_ok());
}

fn lost(what: &str) -> Error {
    Error::new(Kind::Internal, format!("a {what} of a pool is lost"))
}
