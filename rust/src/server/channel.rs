//! One client connection, as far as it is served here.
//!
//! Theory. A channel's input belongs to the lane (`is_here`) or to Python. While it is here, `input` is the beginning of
//! a frame that has not arrived completely, or what had to wait for a later turn. What has been answered lies in
//! `output` until the end of the turn in which it was: at any other time everything has been sent, or the rest is
//! `left` for Python, with the channel. `left` also has what came with the last read and is Python's business:
//! descriptors, another sender.
//!
//! Invariants. 1. Between two turns `output` is empty. 2. A channel for which something is left is not here.
//!
//! Not here: reading and writing (`turn`), what is requested (`execute`).

use std::os::fd::RawFd;
use std::sync::Arc;

use super::frames::{HEADER, Header};
use crate::core::api::{Credentials, Stretch};

/// Process, user, group: as the kernel says with each read.
pub type Sender = (u32, u32, u32);

/// What Python gets together with a channel.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// What has arrived and has not been executed.
    pub input: Vec<u8>,
    /// Descriptors that came with it.
    pub fds: Vec<RawFd>,
    /// Some could not be installed.
    pub is_truncated: bool,
    /// Who sent the last of it, if that is somebody else than before.
    pub sender: Option<Sender>,
    /// Answers that have not been sent, the first one perhaps in part.
    pub frames: Vec<Vec<u8>>,
}

/// A channel that has joined.
pub struct Channel {
    /// Whose requests it brings.
    pub peer: u64,
    /// Whose allowance it draws on.
    pub uid: i64,
    /// Who writes.
    pub credentials: Arc<Credentials>,
    /// Its input belongs to the lane.
    pub is_here: bool,
    /// Python has taken it: what is answered now is Python's to send.
    pub is_away: bool,
    /// It is in the line of its user.
    pub waits: bool,
    /// What has not been executed.
    pub input: Vec<u8>,
    /// What has not been sent.
    pub output: Vec<u8>,
    /// How many frames that is.
    pub n_frames: usize,
    /// Where large payloads come from: a descriptor of Python's, and its size.
    pub arena: Option<(RawFd, u64)>,
    /// For Python.
    pub left: Option<Box<Left>>,
}

impl Channel {
    /// A channel whose input is Python's.
    pub fn new(peer: u64, uid: i64, credentials: Arc<Credentials>) -> Self {
        Self {
            peer,
            uid,
            credentials,
            is_here: false,
            is_away: true,
            waits: false,
            input: Vec::new(),
            output: Vec::new(),
            n_frames: 0,
            arena: None,
            left: None,
        }
    }

    /// A range of the arena; None if there is none, or not so much of it.
    pub fn stretch(&self, (start, size): (u64, u64)) -> Option<Stretch> {
        let (fd, whole) = self.arena?;
        let is_inside = start.checked_add(size).is_some_and(|end| end <= whole);
        is_inside.then_some(Stretch { fd, start, size })
    }

    /// Whether these are the credentials that are known.
    pub fn is_from(&self, (pid, uid, gid): Sender) -> bool {
        let known = &*self.credentials;
        (known.pid, known.uid, known.gid) == (i64::from(pid), i64::from(uid), i64::from(gid))
    }

    /// What Python gets with it, to be added to.
    pub fn left(&mut self) -> &mut Left {
        self.left.get_or_insert_default()
    }

    /// The memory that what has not been sent needs, as an outlet counts it.
    pub fn weight(&self) -> usize {
        const FRAME_COST: usize = 512;
        self.output.len() + FRAME_COST * self.n_frames
    }

    /// `sent` bytes of `output` have left, and nothing more will from here: the rest is Python's, frame by frame.
    pub fn strand(&mut self, output: &[u8], sent: usize) {
        let frames = &mut self.left().frames;
        let mut start = 0;
        while let Some(rest) = output.get(start..).filter(|rest| !rest.is_empty()) {
            let length = Header::read(rest).map_or(rest.len(), |header| header.length.max(HEADER));
            let end = start.saturating_add(length).min(output.len());
            if end > sent {
                frames.extend(output.get(sent.max(start)..end).map(<[u8]>::to_vec));
            }
            start = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::Writer;
    use super::*;

    #[test]
    fn what_was_not_sent_is_left_frame_by_frame() {
        let mut output = Vec::new();
        for tag in 0..3 {
            Writer::answer(&mut output, 0x140, tag, 0, 0, 0).u64(tag).end();
        }
        for sent in 0..output.len() {
            let mut channel = Channel::new(1, 0, Arc::default());
            channel.strand(&output, sent);
            let frames = &channel.left().frames;
            assert_eq!(frames.concat(), output[sent..], "{sent}");
            assert_eq!(frames.len(), 3 - sent / 32, "{sent}");
        }
    }
}
