//! The layout of the native protocol: headers, answers, and the tails of requests.
//!
//! Theory. A frame is a header of 16 bytes, a fixed part that depends on the operation, and tails whose lengths the
//! fixed part tells; all integers are little-endian. `docs/protocol.md` explains the fields, `bus1/frames.py` is the
//! reference.
//!
//! Invariants. 1. Nothing here reads beyond the bytes that it is given, whatever they say.
//!
//! Not here: what the operations mean (`request`, `execute`), descriptors (Python).

/// Bytes of a frame's header.
pub const HEADER: usize = 16;
/// The longest frame.
pub const MAX_FRAME: usize = 1 << 20;
/// Bytes of payload in a SEND.
pub const MAX_INLINE_PAYLOAD: usize = 1 << 16;
/// Slices up to this size are repeated in the answer to RECV.
pub const MAX_INLINE_SLICE: u64 = 4096;
/// An answer's operation is the request's with this bit.
pub const ANSWER: u16 = 0x8000;
/// Answer only if there is something to tell.
pub const QUIET: u16 = 0x2000;
/// Bytes of text in an error's answer.
const MAX_TEXT: usize = 512;

/// Numbers of the operations that are carried out here.
pub mod operation {
    pub const CANCEL: u16 = 0x08;
    pub const RELEASE: u16 = 0x110;
    pub const TRANSFER: u16 = 0x111;
    pub const DESTROY: u16 = 0x120;
    pub const SLICE_RELEASE: u16 = 0x130;
    pub const SEND: u16 = 0x140;
    pub const RECV: u16 = 0x150;
    pub const CALL: u16 = 0x160;
    pub const REPLY: u16 = 0x161;
    pub const RESPOND: u16 = 0x162;
}

/// Notes in the prefix of an answer.
pub mod note {
    pub const DRAINED: u16 = 1;
    pub const MORE: u16 = 2;
    pub const RELEASED: u16 = 4;
}

/// The first 16 bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Of the whole frame.
    pub length: usize,
    /// Without the bit that says that it is quiet.
    pub operation: u16,
    /// Answer only if there is something to tell.
    pub is_quiet: bool,
    /// How many descriptors come with it.
    pub n_fds: u16,
    /// The client's own number for it.
    pub tag: u64,
}

impl Header {
    /// The header at the beginning of `bytes`; None while it is not complete.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes.get(..HEADER)?);
        let length = fields.u32()? as usize;
        let operation = fields.u16()?;
        let n_fds = fields.u16()?;
        let tag = fields.u64()?;
        Some(Self { length, operation: operation & !QUIET, is_quiet: operation & QUIET != 0, n_fds, tag })
    }
}

/// Integers, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `n` bytes; None, and nothing taken, if they are not there.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next u16.
    pub fn u16(&mut self) -> Option<u16> {
        self.bytes(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    /// The next u32.
    pub fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    /// The next u64.
    pub fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    /// The next `n` u64.
    pub fn words(&mut self, n: u32) -> Option<Words<'a>> {
        let size = usize::try_from(n).ok()?.checked_mul(8)?;
        Some(Words(self.bytes(size)?))
    }
}

/// An array of u64 in a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len() / 8
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = u64> + 'a {
        let (words, _) = self.0.as_chunks::<8>();
        words.iter().map(|word| u64::from_le_bytes(*word))
    }
}

/// Writes frames to the end of a buffer.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    /// Begins an answer; `end` completes it.
    pub fn answer(out: &'a mut Vec<u8>, operation: u16, tag: u64, code: u32, done: u16, notes: u16) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(operation | ANSWER).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&code.to_le_bytes());
        out.extend_from_slice(&done.to_le_bytes());
        out.extend_from_slice(&notes.to_le_bytes());
        Self { out, start }
    }

    /// Some bytes more.
    pub fn bytes(self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// A u32 more.
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A u64 more.
    pub fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// What `write` appends.
    pub fn append<T>(self, write: impl FnOnce(&mut Vec<u8>) -> T) -> Self {
        write(self.out);
        self
    }

    /// The frame is complete.
    pub fn end(self) {
        let length = u32::try_from(self.out.len() - self.start).unwrap_or(u32::MAX);
        if let Some(field) = self.out.get_mut(self.start..self.start + 4) {
            field.copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// The answer to a request that failed, in words.
pub fn error_answer(
    out: &mut Vec<u8>,
    operation: u16,
    tag: u64,
    (code, text): (u32, &str),
    done: u16,
    notes: u16,
) {
    let text = text.as_bytes();
    Writer::answer(out, operation, tag, code, done, notes).bytes(text.get(..MAX_TEXT).unwrap_or(text)).end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_when_it_is_there() {
        let mut out = Vec::new();
        Writer::answer(&mut out, operation::SEND, 7, 0, 0, 0).u64(0).end();
        assert_eq!(Header::read(&out[..15]), None);
        let header = Header::read(&out).expect("a header");
        assert_eq!((header.length, header.tag), (32, 7));
        assert_eq!(header.operation, (operation::SEND | ANSWER) & !QUIET);
    }

    #[test]
    fn words_that_are_not_there_are_none() {
        let bytes = [1, 0, 0, 0, 0, 0, 0, 0, 9];
        assert!(Fields(&bytes).words(2).is_none());
        assert!(Fields(&bytes).words(u32::MAX).is_none());
        let words = Fields(&bytes).words(1).expect("one word");
        assert_eq!(words.iter().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn the_text_of_an_error_is_cut() {
        let mut out = Vec::new();
        error_answer(&mut out, operation::RECV, 1, (11, &"x".repeat(600)), 2, 1);
        assert_eq!(out.len(), HEADER + 8 + 512);
        assert_eq!(out[16..24], [11, 0, 0, 0, 2, 0, 1, 0]);
    }
}
