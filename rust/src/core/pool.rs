//! Where the slices of one peer lie.
//!
//! Theory. The twin of `bus1/core/pool.py`, where placement, holds, serials and the retiring of segments are
//! told. Slices are in one table of Core, named by keys; a slice of a heap pool keeps its payload. While nothing lies
//! in a pool it mostly has no layout.
//!
//! Invariants. 1. `cancel`, in the reverse order of `allocate`, restores the very state from before. 2. Generations
//! of segments that anybody could have seen are never reused. 3. A pool without a layout has no slices, and nothing
//! that is retired.
//!
//! Not here: bytes (`backing`), what a slice contains (`delivery`), where there is room (`layout`).

use std::collections::HashMap;

use smallvec::{SmallVec, smallvec};

use super::account::{BYTES, Purse, SLICES};
use super::api::Payload;
use super::backing::{Memory, Mishap};
use super::error::{Error, Kind, Result};
use super::layout::{Layout, Slices};
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

impl Segment {
    /// The one of a pool at rest.
    pub fn at_rest(generation: u64) -> Self {
        let (base, size) = (0, SHARED_SEGMENT);
        Segment { generation, base, size, slices: 0, shared: true, fresh: false, exposed: true }
    }

    /// Nothing lies in it, the peer may have mapped it, and it stays.
    pub fn rests(&self) -> bool {
        self.base == 0 && self.shared && self.exposed && !self.fresh && self.slices == 0
    }
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
    pub slices: &'a mut Slices,
    pub purse: Purse<'a>,
    pub sequencer: &'a mut Sequencer,
    pub mishap: &'a mut Mishap,
}

/// The slices of one peer.
pub struct Pool {
    pub memory: Memory,
    pub shares_buffers: bool,
    /// Without a layout: it is at rest; or else nothing ever was in it.
    rests: bool,
    pub number: u64,
    layout: Option<Box<Layout>>,
    pub generation: u64,
    pub serial: u64,
}

impl Pool {
    /// An empty one, of peer `number`.
    pub fn new(number: u64, memory: Memory) -> Self {
        let shares_buffers = memory.shares_buffers();
        Pool { memory, shares_buffers, rests: false, number, layout: None, generation: 0, serial: 0 }
    }

    fn segment(&mut self, generation: u64) -> Option<&mut Segment> {
        self.layout.as_mut()?.segment(generation)
    }

    /// Its segments, by generation.
    pub fn segments(&self) -> SmallVec<[Segment; 1]> {
        match &self.layout {
            Some(layout) => layout.segments.clone(),
            None if self.rests => smallvec![Segment::at_rest(self.generation)],
            None => SmallVec::new(),
        }
    }

    /// Segments with what is still charged for them, as they were retired.
    pub fn retired(&self) -> &[(Segment, u64)] {
        self.layout.as_ref().map_or(&[], |layout| &layout.retired)
    }

    /// How many slices there are.
    pub fn n_slices(&self) -> u64 {
        self.layout.as_ref().map_or(0, |layout| layout.n_slices)
    }

    /// The key of the published slice at an offset.
    pub fn published(&self, offset: u64) -> Option<usize> {
        let offset = u32::try_from(offset).ok()?;
        self.layout.as_ref()?.published.get(&offset).copied()
    }

    /// Nothing lies in it, and it has its first segment, as it keeps it: what comes and goes leaves it as it is.
    pub fn is_at_rest(&self) -> bool {
        self.layout.as_ref().map_or(self.rests, |layout| layout.is_at_rest())
    }

    /// It is described, whatever is in it.
    fn spread(&mut self, slices: &mut Slices) -> &mut Layout {
        let (rests, generation) = (self.rests, self.generation);
        self.layout.get_or_insert_with(|| match rests {
            true => slices.lend(generation),
            false => Box::new(Layout::untouched()),
        })
    }

    /// It needs no description if nothing is in it.
    fn fold(&mut self, slices: &mut Slices) {
        let generation = self.generation;
        if let Some(layout) = self.layout.take_if(|layout| layout.can_be_made(generation)) {
            self.rests = !layout.is_untouched();
            if self.rests {
                slices.take_back(layout);
            }
        }
    }

    /// A pinned slice, its memory reserved; TooLarge, PoolFull or OutOfMemory change nothing.
    pub fn allocate(
        &mut self,
        size: u64,
        charged: u64,
        slices: &mut Slices,
        mishap: &mut Mishap,
    ) -> Result<usize> {
        if size > u64::from(ADDRESS_SPACE) {
            return Err(Error::new(Kind::TooLarge, format!("a slice of {size} bytes")));
        }
        self.spread(slices);
        let (offset, generation) = match self.find_room(size) {
            Ok(found) => found,
            Err(error) => {
                self.fold(slices);
                return Err(error);
            }
        };
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

    /// Where a slice goes, which is counted: (offset, generation).
    fn find_room(&mut self, size: u64) -> Result<(u32, u64)> {
        let layout = self.layout.as_deref_mut().ok_or_else(|| lost("layout"))?;
        let (offset, generation) = if size >= OWN_SEGMENT {
            let rounded = (size + PAGE - 1) & !(PAGE - 1);
            let base = layout.space.take(rounded);
            (base.unwrap_or_default(), self.open(base, rounded, false)?)
        } else {
            let offset = match layout.gaps.take(size) {
                Some(offset) => offset,
                None => {
                    let base = layout.space.take_lowest(SHARED_SEGMENT);
                    self.open(base, u64::from(SHARED_SEGMENT), true)?;
                    let gaps = self.layout.as_mut().map(|layout| &mut layout.gaps);
                    gaps.and_then(|gaps| gaps.take(size)).ok_or_else(|| lost("gap"))?
                }
            };
            let layout = self.layout.as_deref_mut().ok_or_else(|| lost("layout"))?;
            (offset, layout.shared_at(offset).ok_or_else(|| lost("base"))?)
        };
        let layout = self.layout.as_deref_mut().ok_or_else(|| lost("layout"))?;
        layout.segment(generation).ok_or_else(|| lost("segment"))?.slices += 1;
        layout.n_slices += 1;
        Ok((offset, generation))
    }

    /// Undo the latest `allocate` that is not undone yet.
    pub fn cancel(&mut self, key: usize, slices: &mut Slices, mishap: &mut Mishap) {
        let slice = slices.remove(key);
        self.vacate(&slice, mishap);
        if let Some(segment) = self.segment(slice.generation).copied()
            && segment.fresh
            && segment.slices == 0
        {
            self.close_segment(&segment, mishap);
            self.give_space(&segment);
            self.generation -= 1;
        }
        self.fold(slices);
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
            if let Some(layout) = &mut self.layout {
                layout.published.insert(slice.offset, key);
            }
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
        let Some(key) = self.published(offset) else {
            return Err(Error::new(Kind::NoSuchHandle, format!("no published slice at {offset}")));
        };
        let slice = &mut around.slices[key];
        if serial != 0 && serial != slice.serial {
            return Err(Error::new(
                Kind::NoSuchHandle,
                format!("the slice at {offset} has serial {}, not {serial}", slice.serial),
            ));
        }
        if let Some(layout) = &mut self.layout {
            layout.unpublish(slice.offset);
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
        if let Some(layout) = &mut self.layout {
            layout.published = HashMap::default();
        }
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
    pub fn published_in_order(&self, slices: &Slices) -> Vec<usize> {
        let published = self.layout.iter().flat_map(|layout| layout.published.values());
        let mut keys: Vec<usize> = published.copied().collect();
        keys.sort_unstable_by_key(|key| slices[*key].serial);
        keys
    }

    /// The peer has unmapped a retired segment; NoSuchHandle if it is none.
    pub fn unmapped(&mut self, generation: u64, around: &mut Surroundings<'_>) -> Result<()> {
        let found = self.retired().iter().position(|(segment, _)| segment.generation == generation);
        let (Some(at), Some(layout)) = (found, &mut self.layout) else {
            return Err(Error::new(Kind::NoSuchHandle, format!("no retired segment {generation}")));
        };
        let (segment, charged) = layout.retired.remove(at);
        layout.space.give(segment.base, segment.size, |_| false);
        self.fold(around.slices);
        around.purse.give(BYTES, charged, around.sequencer);
        Ok(())
    }

    /// The peer is gone, and so are its slices: close what is left.
    pub fn close(&mut self, around: &mut Surroundings<'_>) {
        for segment in self.segments() {
            self.close_segment(&segment, around.mishap);
        }
        for (_, charged) in self.layout.take().map_or_else(Vec::new, |layout| layout.retired) {
            around.purse.give(BYTES, charged, around.sequencer);
        }
    }

    fn open(&mut self, base: Option<u32>, size: u64, shared: bool) -> Result<u64> {
        let Some(base) = base else {
            return Err(Error::new(Kind::PoolFull, format!("no gap of {size} bytes")));
        };
        let size = size as u32;
        let generation = self.generation + 1;
        let segment = Segment { generation, base, size, slices: 0, shared, fresh: true, exposed: false };
        if let Err(error) = self.memory.open_segment(generation, base, size) {
            self.give_space(&segment);
            return Err(error);
        }
        self.generation = generation;
        if let Some(layout) = &mut self.layout {
            layout.add(segment);
        }
        Ok(generation)
    }

    fn close_segment(&mut self, segment: &Segment, mishap: &mut Mishap) {
        mishap.note(self.memory.close_segment(segment.generation));
        if let Some(layout) = &mut self.layout {
            layout.remove(segment);
        }
    }

    fn give_space(&mut self, segment: &Segment) {
        if let Some(layout) = &mut self.layout {
            layout.space.give(segment.base, segment.size, |_| false);
        }
    }

    fn vacate(&mut self, slice: &Slice, mishap: &mut Mishap) {
        mishap.note(self.memory.release(slice.generation, slice.offset, slice.size));
        if let Some(layout) = &mut self.layout {
            layout.vacate(slice);
        }
    }

    /// Nobody holds the slice any more.
    pub fn free(&mut self, key: usize, unmapped: bool, around: &mut Surroundings<'_>) {
        let slice = around.slices.remove(key);
        self.vacate(&slice, around.mishap);
        around.purse.give(SLICES, 1, around.sequencer);
        let found = self.segment(slice.generation).copied();
        match found.filter(|segment| segment.slices == 0 && !self.stays(segment)) {
            Some(segment) => self.retire(&segment, slice.charged, unmapped, around),
            None => around.purse.give(BYTES, slice.charged, around.sequencer),
        }
        if self.layout.as_ref().is_some_and(|layout| layout.has_idle()) {
            self.retire_idle(around);
        }
        self.fold(around.slices);
    }

    fn stays(&self, segment: &Segment) -> bool {
        self.layout.as_ref().is_some_and(|layout| layout.stays(segment))
    }

    fn retire_idle(&mut self, around: &mut Surroundings<'_>) {
        let segments = self.segments();
        for segment in segments.iter().filter(|segment| segment.shared) {
            if !self.stays(segment) {
                self.retire(segment, 0, self.shares_buffers, around);
            }
        }
    }

    fn retire(&mut self, segment: &Segment, charged: u64, unmapped: bool, around: &mut Surroundings<'_>) {
        self.close_segment(segment, around.mishap);
        if unmapped || !segment.exposed {
            self.give_space(segment);
            around.purse.give(BYTES, charged, around.sequencer);
        } else {
            if let Some(layout) = &mut self.layout {
                layout.retired.push((*segment, charged));
            }
            around.sequencer.retired.push((self.number, segment.generation));
        }
    }
}

fn lost(what: &str) -> Error {
    Error::new(Kind::Internal, format!("a {what} of a pool is lost"))
}
