//! Frames of the native protocol: bytes and descriptors in, frames out; frames in, what to write out.
//!
//! Theory. The twin of `FrameReader` and `FrameWriter` of `bus1/frames.py`, which say what the rules are. What is
//! written together and has no descriptors lies in one buffer.
//!
//! Invariants. 1. A reader buffers at most one frame and one read; any bytes give frames or a complaint. 2. A
//! descriptor is owned by exactly one of reader, frame, writer.
//!
//! Not here: what frames mean (`exchange`), system calls.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::protocol::{FD_MAX, HEADER_SIZE, MAX_FRAME, QUIET, u16_at, u32_at, u64_at};

/// The most descriptors that the kernel takes in one sendmsg.
pub const SCM_MAX_FD: usize = 253;
/// Bytes that are gathered in one buffer, at most, before another one is begun.
const GATHERED: usize = 1 << 16;

/// One frame as it arrived.
#[derive(Debug)]
pub struct Frame {
    /// Without the bit that says that it is quiet.
    pub operation: u16,
    /// What the answer repeats.
    pub tag: u64,
    /// All behind the header.
    pub body: Vec<u8>,
    /// Those that were installed.
    pub fds: Vec<OwnedFd>,
    /// As announced.
    pub n_fds: usize,
    /// Not to be answered unless there is something to tell.
    pub is_quiet: bool,
}

/// Bytes and descriptors in, frames out.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
    /// How much of the buffer frames have been made of.
    begun: usize,
    fds: VecDeque<OwnedFd>,
    is_short: bool,
}

impl Reader {
    /// What one recvmsg gave. `is_truncated`: some descriptors could not be installed.
    pub fn feed(&mut self, data: &[u8], fds: impl IntoIterator<Item = OwnedFd>, is_truncated: bool) {
        if self.begun > 0 {
            self.buffer.drain(..self.begun);
            self.begun = 0;
        }
        self.buffer.extend_from_slice(data);
        self.fds.extend(fds);
        self.is_short |= is_truncated;
    }

    /// The next complete frame; a complaint about bytes that are none.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, String> {
        let rest = self.buffer.get(self.begun..).unwrap_or_default();
        if rest.is_empty() && self.fds.is_empty() {
            return Ok(None);
        }
        let header = (u32_at(rest, 0), u16_at(rest, 4), u16_at(rest, 6), u64_at(rest, 8));
        let (Some(length), Some(operation), Some(n_fds), Some(tag)) = header else {
            return self.check_fds(0, !rest.is_empty()).map(|()| None);
        };
        let (length, n_fds) = (length as usize, n_fds as usize);
        if !(HEADER_SIZE..=MAX_FRAME).contains(&length) || n_fds > FD_MAX {
            return Err(format!("a frame of {length} bytes with {n_fds} descriptors"));
        }
        let Some(body) = rest.get(HEADER_SIZE..length) else {
            return self.check_fds(n_fds, true).map(|()| None);
        };
        if n_fds > self.fds.len() && !self.is_short {
            let arrived = self.fds.len();
            return Err(format!("{n_fds} descriptors announced, {arrived} arrived"));
        }
        let body = body.to_vec();
        self.begun += length;
        if self.begun == self.buffer.len() {
            self.buffer.clear();
            self.begun = 0;
        }
        let mut fds = Vec::new();
        if n_fds > 0 {
            self.is_short = false;
            fds.extend(self.fds.drain(..n_fds.min(self.fds.len())));
        }
        Ok(Some(Frame {
            operation: operation & !QUIET,
            tag,
            body,
            fds,
            n_fds,
            is_quiet: operation & QUIET != 0,
        }))
    }

    fn check_fds(&self, expected: usize, has_begun: bool) -> Result<(), String> {
        let allowed = match (expected, has_begun) {
            (0, true) => FD_MAX,
            (0, false) => 0,
            _ => expected,
        };
        if self.fds.len() > allowed {
            let n = self.fds.len();
            return Err(format!("{n} descriptors that no frame announced"));
        }
        Ok(())
    }

    /// Forget everything; descriptors are closed.
    pub fn close(&mut self) {
        self.buffer.clear();
        self.begun = 0;
        self.fds.clear();
    }
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
    /// How many groups of descriptors have left.
    groups: usize,
}

impl Outgoing {
    fn n_groups(&self) -> usize {
        self.fds.len().div_ceil(SCM_MAX_FD) - self.groups
    }
}

/// Frames in; what to hand to each sendmsg out.
#[derive(Debug, Default)]
pub struct Writer {
    queue: VecDeque<Outgoing>,
    pending: usize,
}

impl Writer {
    /// Bytes that have not been sent.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Queue a frame of several parts behind its header; takes the descriptors.
    pub fn push(&mut self, operation: u16, tag: u64, parts: &[&[u8]], fds: Vec<OwnedFd>) {
        let length = HEADER_SIZE + parts.iter().map(|part| part.len()).sum::<usize>();
        self.pending += length;
        let is_gathered = self
            .queue
            .back()
            .is_some_and(|last| last.fds.is_empty() && fds.is_empty() && last.bytes.len() < GATHERED);
        if !is_gathered {
            self.queue.push_back(Outgoing {
                bytes: Vec::with_capacity(length),
                sent: 0,
                fds: Vec::new(),
                groups: 0,
            });
        }
        let Some(last) = self.queue.back_mut() else {
            return;
        };
        let bytes = &mut last.bytes;
        bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&operation.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(fds.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend_from_slice(&tag.to_le_bytes());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        last.fds = fds;
    }

    /// Bytes and descriptors of the next sendmsg; None if all is sent.
    pub fn chunk(&self) -> Option<(&[u8], Vec<RawFd>)> {
        let first = self.queue.front()?;
        let rest = first.bytes.get(first.sent..).unwrap_or_default();
        if first.fds.is_empty() {
            return Some((rest, Vec::new()));
        }
        let groups = first.n_groups();
        let rest = match groups {
            0 | 1 => rest,
            _ => rest.get(..HEADER_SIZE / 2).unwrap_or(rest),
        };
        let group = first.fds.chunks(SCM_MAX_FD).nth(first.groups);
        let numbers = group.unwrap_or_default().iter().map(AsRawFd::as_raw_fd);
        Some((rest, numbers.collect()))
    }

    /// `n` bytes of the last chunk have been sent, its descriptors with the first of them.
    pub fn sent(&mut self, n: usize) {
        self.pending = self.pending.saturating_sub(n);
        let Some(first) = self.queue.front_mut() else {
            return;
        };
        if n > 0 && first.n_groups() > 0 {
            first.groups += 1;
        }
        first.sent += n;
        if first.sent >= first.bytes.len() {
            self.queue.pop_front();
        }
    }

    /// Forget what is queued; descriptors are closed.
    pub fn close(&mut self) {
        self.queue.clear();
        self.pending = 0;
    }
}
