//! The numbers of the native protocol, as its clients need them.
//!
//! Theory. `bus1/frames.py` explains the protocol; this is what of it both bodies must agree on, and a test compares.
//! A frame is a header, a fixed struct that depends on the operation, and tails. All integers are little-endian.
//!
//! Not here: who sends what, and when.

/// Length of the whole frame, operation, number of descriptors, tag: u32, u16, u16, u64.
pub const HEADER_SIZE: usize = 16;
/// errno or 0, operations that took effect, notes: u32, u16, u16.
pub const PREFIX_SIZE: usize = 8;
/// The longest frame.
pub const MAX_FRAME: usize = 1 << 20;
/// The most descriptors of one message.
pub const FD_MAX: usize = 256;
/// An answer's operation is the request's with this bit.
pub const ANSWER: u16 = 0x8000;
/// A request's operation with this bit: answer only if there is something to tell.
pub const QUIET: u16 = 0x2000;
/// Quiet requests without a later answer; then one is answered.
pub const MAX_QUIET: usize = 256;

/// Descriptors have been installed, or not.
pub const INSTALLED: u16 = 0x07;
/// Give a RECV up.
pub const CANCEL: u16 = 0x08;
/// Own nodes end.
pub const DESTROY: u16 = 0x120;
/// Flag of DESTROY: their handles go with them.
pub const RELEASE_HANDLES: u64 = 1;
/// One transaction.
pub const SEND: u16 = 0x140;
/// The next message.
pub const RECV: u16 = 0x150;
/// SEND, then RECV.
pub const CALL: u16 = 0x160;
/// SEND, give a slice and a handle back, then RECV.
pub const REPLY: u16 = 0x161;
/// SEND, then HANDLE_RELEASE.
pub const RESPOND: u16 = 0x162;

/// The channel is closed behind it.
pub const REFUSED: u16 = 0x4001;
/// Descriptors of the message that a RECV is about to take.
pub const OFFER: u16 = 0x4002;
/// A segment that the bus wants back.
pub const RETIRED: u16 = 0x4003;

/// The queue is empty now.
pub const DRAINED: u16 = 1;
/// The request will be answered again.
pub const MORE: u16 = 2;
/// NODE_RELEASE of the message's node came with it.
pub const RELEASED: u16 = 4;

/// Flag of RECV: the seed.
pub const SEED: u64 = 2;
/// Flag of RECV: look only.
pub const PEEK: u64 = 1;

/// The code of an error that says: nothing to receive yet.
pub const WOULD_BLOCK: u32 = 11;

/// The widths of the fixed fields of a message: the answer to RECV, CALL and REPLY.
const MESSAGE: &[u8] = b"QQQIIIIQQQQQQIIQQQQ";

/// The fixed fields of the answer to an operation, as Python's struct writes them; None for no operation.
pub fn result_fields(operation: u16) -> Option<&'static [u8]> {
    Some(match operation {
        0x01 => b"IIQQQQ",
        0x02 | 0x04 | 0x09 | 0x111 | SEND => b"Q",
        0x03 | 0x06 | 0x100 | 0x102 | 0x110 | 0x120 | 0x130 | RESPOND => b"",
        0x05 => b"QQQ",
        0x101 => b"QQQQQQ",
        RECV | CALL | REPLY => MESSAGE,
        _ => return None,
    })
}

/// How many bytes fields take.
pub fn size_of(fields: &[u8]) -> usize {
    fields.iter().map(|code| if *code == b'Q' { 8 } else { 4 }).sum()
}

/// Where in a request the flags of its RECV are; None if it receives nothing.
pub fn flags_at(operation: u16) -> Option<usize> {
    match operation {
        RECV => Some(0),
        CALL | REPLY => Some(40),
        _ => None,
    }
}

/// A u32 at an offset, if it is there.
pub fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// A u64 at an offset, if it is there.
pub fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// A u16 at an offset, if it is there.
pub fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    let bytes = data.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}
