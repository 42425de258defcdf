//! D-Bus as bytes: names, signatures, headers and bodies, read where they lie.
//!
//! Theory. A message is never made into objects. A header is a set of ranges into its message, a body is
//! checked by a machine that walks over it, and what is forwarded is the old header with one field more.
//! Everything here is the twin of the bridge's `wire` and `walk` and of the services' `types`, which are the
//! reference: what they accept is accepted, what they refuse is refused, in the same words.
//!
//! Invariants. 1. No bytes make a function here panic, and none makes it allocate more than in proportion to
//! them. 2. Time is bounded: by the header's length, by the budget of a step of a body.
//!
//! Not here: framing of a stream, descriptors, what messages mean.

pub mod arguments;
pub mod body;
pub mod build;
pub mod fields;
pub mod header;
pub mod names;
pub mod sasl;
pub mod signature;
pub mod stamp;
mod values;

pub use arguments::{Argument, arguments, arguments_up_to};
pub use body::{BodyCheck, check_body};
pub use build::{Outgoing, build, error_body, number_body, text_body};
pub use fields::Span;
pub use header::{Header, frame_length, parse};
pub use stamp::{TooLarge, stamp};

/// Bytes of one message.
pub const MAX_MESSAGE: u64 = 1 << 27;
/// Bytes of one array.
pub const MAX_ARRAY: u32 = 1 << 26;
/// Bytes of a name.
pub const MAX_NAME: usize = 255;
/// Of containers within one body, variants included.
pub const MAX_DEPTH: u32 = 64;
/// The types of messages.
pub const CALL: u8 = 1;
/// An answer to a call.
pub const RETURN: u8 = 2;
/// An answer that says why there is none.
pub const ERROR: u8 = 3;
/// A message that nobody answers.
pub const SIGNAL: u8 = 4;
/// The flag of a call that wants no answer.
pub const NO_REPLY_EXPECTED: u8 = 1;
/// The name of the bus itself.
pub const DRIVER_NAME: &str = "org.freedesktop.DBus";
/// The path of the bus itself.
pub const DRIVER_PATH: &str = "/org/freedesktop/DBus";

/// The byte order of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    /// `l`
    Little,
    /// `B`
    Big,
}

impl Endian {
    /// The order that the first byte of a message names.
    pub fn of(byte: u8) -> Option<Self> {
        match byte {
            b'l' => Some(Self::Little),
            b'B' => Some(Self::Big),
            _ => None,
        }
    }

    /// The first byte of a message of this order.
    pub fn byte(self) -> u8 {
        match self {
            Self::Little => b'l',
            Self::Big => b'B',
        }
    }

    /// The number as it lies.
    pub fn put(self, number: u32) -> [u8; 4] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }

    /// The number that lies at `at`, if it is there.
    #[inline]
    pub fn u32_at(self, data: &[u8], at: usize) -> Option<u32> {
        let bytes: [u8; 4] = *data.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        })
    }
}

/// What is wrong with a message: that is something with the message itself, or with a signature in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// RemoteProtocolError in Python.
    Message,
    /// SignatureInvalid in Python, which is one, too.
    Signature,
}

/// The other side broke the protocol: the text says how, the fault which class Python raises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String, pub Fault);

impl Malformed {
    #[cold]
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into(), Fault::Message)
    }

    #[cold]
    pub(crate) fn signature(text: impl Into<String>) -> Self {
        Self(text.into(), Fault::Signature)
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

/// How many bytes lie between `at` and the next multiple of `alignment`, a power of two.
#[inline]
pub(crate) fn padding(at: usize, alignment: usize) -> usize {
    at.wrapping_neg() & (alignment - 1)
}

/// The bytes from `start` to `stop`, or as many of them as there are.
#[inline]
pub(crate) fn clamped(data: &[u8], start: usize, stop: usize) -> &[u8] {
    let stop = stop.min(data.len());
    data.get(start.min(stop)..stop).unwrap_or_default()
}

/// Whether every byte is ASCII and none is NUL.
#[inline]
pub(crate) fn is_plain(text: &[u8]) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let is_plain_word = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        (word.wrapping_sub(LOW) | word) & HIGH == 0
    };
    let (blocks, rest) = text.as_chunks::<64>();
    for block in blocks {
        if !block.iter().fold(true, |plain, byte| plain & (*byte as i8 > 0)) {
            return false;
        }
    }
    let (words, tail) = rest.as_chunks::<8>();
    words.iter().all(is_plain_word) && tail.iter().all(|byte| *byte as i8 > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_ascii_without_nul_at_every_length_and_place() {
        for length in 0..200 {
            let mut text = vec![b'x'; length];
            text.iter_mut().step_by(3).for_each(|byte| *byte = 1);
            text.iter_mut().step_by(5).for_each(|byte| *byte = 0x7f);
            assert!(is_plain(&text));
            for at in 0..length {
                for wrong in [0, 0x80, 0xff] {
                    let kept = std::mem::replace(&mut text[at], wrong);
                    assert!(!is_plain(&text), "{wrong} at {at} of {length}");
                    text[at] = kept;
                }
            }
        }
    }

    #[test]
    fn clamped_gives_what_there_is() {
        assert_eq!(clamped(b"abc", 1, 9), b"bc");
        assert_eq!(clamped(b"abc", 5, 9), b"");
        assert_eq!(clamped(b"abc", 2, 1), b"");
    }
}
