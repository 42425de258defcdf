//! Sealed memory: the pools of peers in other processes.
//!
//! Theory. The twin of `SealedMemory` in `bus1/memory.py`, where it is told why nobody but the bus can ever write
//! to a segment, and why pages are allocated before they are written.
//!
//! Invariants. 1. `write` after a successful `reserve`, and `close_segment`, do not fail. 2. Nobody but the bus can
//! write to, grow or shrink a segment.
//!
//! Not here: placement (`core::pool`).

use std::os::fd::RawFd;

use bytes::Bytes;

use crate::core::api::Stretch;
use crate::core::error::{Error, Kind, Result};
use crate::sys;

const PAGE: usize = 4096;
const ZEROS: [u8; 8] = [0; 8];

/// Which pages of a segment are known to exist.
struct Pages {
    words: Vec<u64>,
}

impl Pages {
    fn new(n: usize) -> Self {
        Pages { words: vec![0; n.div_ceil(64)] }
    }

    /// The first page of [start, end) that is not known to exist.
    fn first_missing(&self, start: usize, end: usize) -> Option<usize> {
        let mut page = start;
        while page < end {
            let word = self.words.get(page / 64).copied().unwrap_or(0) >> (page % 64);
            let known = word.trailing_ones() as usize;
            if known < 64 - page % 64 {
                return Some(page + known).filter(|found| *found < end);
            }
            page += 64 - page % 64;
        }
        None
    }

    fn note(&mut self, start: usize, end: usize) {
        for page in start..end {
            if let Some(word) = self.words.get_mut(page / 64) {
                *word |= 1 << (page % 64);
            }
        }
    }
}

/// One memfd of a sealed pool.
pub struct Segment {
    pub generation: u64,
    pub base: u32,
    pub size: u32,
    file: sys::SealedFile,
    resident: Pages,
}

impl Segment {
    /// The memfd, to be passed on; it belongs to the segment.
    pub fn fd(&self) -> RawFd {
        self.file.fd()
    }

    fn contains(&self, offset: u64) -> bool {
        let base = u64::from(self.base);
        base <= offset && offset < base + u64::from(self.size)
    }

    fn reserve(&mut self, start: usize, end: usize) -> std::io::Result<()> {
        let last = end.div_ceil(PAGE);
        let Some(first) = self.resident.first_missing(start / PAGE, last) else {
            return Ok(());
        };
        let until = (last * PAGE).min(self.size as usize);
        self.file.allocate(first * PAGE, until.saturating_sub(first * PAGE))?;
        self.resident.note(first, last);
        Ok(())
    }
}

/// The pool of a peer in another process.
#[derive(Default)]
pub struct Sealed {
    /// By generation.
    segments: Vec<Segment>,
    /// (base, generation)
    bases: Vec<(u32, u64)>,
}

impl Sealed {
    /// Make a sealed memfd of `size` bytes, without pages yet; OutOfMemory.
    pub fn open_segment(&mut self, generation: u64, base: u32, size: u32) -> Result<()> {
        let file = sys::SealedFile::new(size as usize)
            .map_err(|error| short(format!("no pool segment of {size} bytes"), &error))?;
        let segment =
            Segment { generation, base, size, file, resident: Pages::new((size as usize).div_ceil(PAGE)) };
        let at = self.segments.partition_point(|other| other.generation < generation);
        self.segments.insert(at, segment);
        let at = self.bases.partition_point(|other| *other < (base, generation));
        self.bases.insert(at, (base, generation));
        Ok(())
    }

    /// Unmap and close; the client's own mapping stays valid memory (L-12).
    pub fn close_segment(&mut self, generation: u64) -> Result<()> {
        let at = self.at(generation)?;
        let segment = self.segments.remove(at);
        self.bases.retain(|entry| *entry != (segment.base, generation));
        Ok(())
    }

    /// Allocate the pages of [offset, offset+size) that do not exist yet; OutOfMemory.
    pub fn reserve(&mut self, generation: u64, offset: u32, size: u32) -> Result<()> {
        let at = self.at(generation)?;
        let segment = &mut self.segments[at];
        let start = offset.saturating_sub(segment.base) as usize;
        segment
            .reserve(start, start + size as usize)
            .map_err(|error| short(format!("no pages for {size} bytes"), &error))
    }

    /// Copy the parts into the segment, one behind the other, then `padding` zeros (8 at most).
    pub fn write(&mut self, generation: u64, offset: u32, parts: &[Bytes], padding: usize) -> Result<()> {
        let at = self.at(generation)?;
        let segment = &mut self.segments[at];
        let mut start = offset.saturating_sub(segment.base) as usize;
        let padding = &ZEROS[..padding.min(ZEROS.len())];
        for part in parts.iter().map(|part| &part[..]).chain([padding]) {
            if !segment.file.write(start, part) {
                return Err(Error::new(Kind::Internal, "a slice does not fit its segment"));
            }
            start += part.len();
        }
        Ok(())
    }

    /// Copy what lies in a file to `offset`, where memory is reserved; OutOfMemory, and the rest is undefined.
    pub fn copy_in(&mut self, generation: u64, offset: u32, from: &Stretch) -> Result<()> {
        let at = self.at(generation)?;
        let segment = &mut self.segments[at];
        let start = offset.saturating_sub(segment.base) as usize;
        segment
            .file
            .copy_in(start, from.fd, from.start, from.size)
            .map_err(|error| short(format!("cannot copy {} bytes", from.size), &error))
    }

    /// The segment in which `offset` lies.
    pub fn segment_at(&self, offset: u64) -> Option<&Segment> {
        let after = self.bases.partition_point(|(base, _)| u64::from(*base) <= offset);
        let (_, generation) = *self.bases.get(after.checked_sub(1)?)?;
        self.segment(generation).filter(|segment| segment.contains(offset))
    }

    /// The segment with this generation number, while it exists.
    pub fn segment(&self, generation: u64) -> Option<&Segment> {
        self.at(generation).ok().map(|at| &self.segments[at])
    }

    /// A copy of the bytes [offset, offset+size), as far as one segment goes; None outside of all.
    pub fn contents(&self, offset: u64, size: usize) -> Option<Vec<u8>> {
        let segment = self.segment_at(offset)?;
        let mut copy = Vec::new();
        let start = (offset - u64::from(segment.base)) as usize;
        segment.file.read(start, size, &mut copy);
        Some(copy)
    }

    /// Appends the bytes [offset, offset+size), as far as one segment goes; false outside of all.
    pub fn read(&self, offset: u64, size: usize, into: &mut Vec<u8>) -> bool {
        let Some(segment) = self.segment_at(offset) else {
            return false;
        };
        segment.file.read((offset - u64::from(segment.base)) as usize, size, into);
        true
    }

    fn at(&self, generation: u64) -> Result<usize> {
        self.segments
            .binary_search_by_key(&generation, |segment| segment.generation)
            .map_err(|_| Error::new(Kind::Internal, format!("no segment {generation}")))
    }
}

fn short(what: String, error: &std::io::Error) -> Error {
    let why = sys::error_text(error.raw_os_error().unwrap_or(0));
    Error::new(Kind::OutOfMemory, format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_lies_there() {
        let mut sealed = Sealed::default();
        sealed.open_segment(1, 0, 1 << 20).unwrap();
        sealed.open_segment(2, 1 << 22, 1 << 20).unwrap();
        sealed.reserve(2, (1 << 22) + 4096, 100).unwrap();
        let parts = [Bytes::from_static(b"abc"), Bytes::from_static(b"de")];
        sealed.write(2, (1 << 22) + 4096, &parts, 3).unwrap();
        assert_eq!(sealed.contents((1 << 22) + 4096, 8).unwrap(), b"abcde\0\0\0");
        assert!(sealed.write(1, (1 << 20) - 1, &parts, 0).is_err());
        assert!(sealed.contents(1 << 20, 1).is_none());
        sealed.close_segment(2).unwrap();
        assert!(sealed.segment(2).is_none() && sealed.close_segment(2).is_err());
    }

    #[test]
    fn what_lies_in_a_file_is_copied_once_it_is_sealed_as_before() {
        let mut source = Sealed::default();
        source.open_segment(1, 0, 1 << 20).unwrap();
        source.reserve(1, 0, 1 << 20).unwrap();
        let content: Vec<u8> = (0..1 << 18).flat_map(u32::to_le_bytes).collect();
        source.write(1, 0, &[Bytes::from(content.clone())], 0).unwrap();
        let fd = source.segment(1).unwrap().fd();
        let mut sealed = Sealed::default();
        for (base, is_sealed) in [(0, false), (1 << 20, true)] {
            let generation = u64::from(is_sealed) + 1;
            sealed.open_segment(generation, base, 1 << 20).unwrap();
            sealed.reserve(generation, base, 1 << 20).unwrap();
            assert!(!is_sealed || sealed.segment(generation).unwrap().fd() >= 0);
            let from = Stretch { fd, start: 5, size: (1 << 20) - 5 };
            sealed.copy_in(generation, base, &from).unwrap();
            assert_eq!(sealed.contents(u64::from(base), (1 << 20) - 5).unwrap(), content[5..]);
            // beyond the end of either, and no file at all
            assert!(sealed.copy_in(generation, base, &Stretch { start: 6, ..from }).is_err());
            assert!(sealed.copy_in(generation, base + 6, &from).is_err());
            assert!(sealed.copy_in(generation, base, &Stretch { fd: -1, ..from }).is_err());
        }
    }

    #[test]
    fn pages_are_found_missing_once() {
        let mut pages = Pages::new(200);
        assert_eq!(pages.first_missing(60, 70), Some(60));
        pages.note(60, 130);
        assert_eq!(pages.first_missing(60, 130), None);
        assert_eq!(pages.first_missing(60, 131), Some(130));
        assert_eq!(pages.first_missing(0, 61), Some(0));
    }

    #[test]
    fn nobody_else_can_write_to_a_segment() {
        let mut sealed = Sealed::default();
        sealed.open_segment(1, 0, 4096).unwrap();
        let path = format!("/proc/self/fd/{}", sealed.segment(1).unwrap().fd());
        assert!(
            std::fs::OpenOptions::new()
                .write(true)
                .open(path)
                .is_ok_and(|mut file| { std::io::Write::write(&mut file, b"x").is_err() })
        );
    }
}
