//! Requests that are everyday, taken apart and checked.
//!
//! Theory. `Request::read` looks at a whole frame. Whatever is unusual about it (descriptors, other operations, an
//! arena for several receivers, looks at the seed, lengths that do not fit, arguments that an answer would have to refuse) makes it None:
//! such a frame is left to Python, which reads it again from its first byte and says what is wrong with it.
//!
//! Invariants. 1. What is Some passes every check of `bus1/requests.py` and `bus1/sending.py` that comes before Core.
//!
//! Not here: what is done (`execute`).

use super::frames::{Fields, HEADER, Header, MAX_INLINE_PAYLOAD, Words, operation};

/// Handles and nodes that one request may name.
pub const MAX_REFERENCES: usize = 16384;
/// So many of them cost as much of the allowance as a small request.
pub const REFERENCES_PER_REQUEST: u64 = 32;
/// So many bytes of an arena, too.
const BYTES_PER_REQUEST: u64 = 1 << 18;
/// No handle, no offset.
pub const INVALID: u64 = u64::MAX;

const CONTINUE: u64 = 1;
/// Flag of RECV: take descriptors, too.
pub const INSTALL_FDS: u64 = 4;
const PARK: u64 = 1;
const DETACH: u64 = 2;
const MORE_SHIFT: u32 = 8;
const MAX_MORE: u64 = 255;

/// What SEND, CALL, REPLY and RESPOND send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sending<'a> {
    /// 0, or CONTINUE.
    pub flags: u64,
    /// Handles of mandatory receivers.
    pub destinations: Words<'a>,
    /// Handles of those that never fail the send.
    pub optional: Words<'a>,
    /// Handles that go along.
    pub handles: Words<'a>,
    /// The bytes.
    pub payload: &'a [u8],
    /// Where they lie in the arena instead: start and size; no size: nowhere.
    pub arena: (u64, u64),
}

/// How to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiving {
    /// Take descriptors, too.
    pub installs_fds: bool,
    /// Where the slice must end.
    pub max_offset: u64,
    /// Answer when there is a message.
    pub is_parked: bool,
    /// Give the slice back at once if all of it is in the answer.
    pub is_detached: bool,
    /// With how many further messages it may be answered.
    pub more: u8,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// SEND.
    Send(Sending<'a>),
    /// RESPOND: send, then release a handle.
    Respond(Sending<'a>, u64),
    /// CALL and REPLY: send, give a slice (offset and serial) and a handle back, receive.
    Sequence(Sending<'a>, Option<(u64, u64)>, Option<u64>, Receiving),
    /// RECV.
    Recv(Receiving),
    /// CANCEL.
    Cancel,
    /// RELEASE of a handle.
    Release(u64),
    /// TRANSFER of a handle to the same peer.
    Transfer(u64),
    /// DESTROY: flags and nodes.
    Destroy(u64, Words<'a>),
    /// SLICE_RELEASE: offset and serial.
    SliceRelease(u64, u64),
}

impl<'a> Request<'a> {
    /// The request in a whole frame; None if it is not for us.
    pub fn read(header: Header, frame: &'a [u8]) -> Option<Self> {
        if header.n_fds != 0 {
            return None;
        }
        let mut fields = Fields(frame.get(HEADER..)?);
        let request = match header.operation {
            operation::SEND => {
                let sending = Sending::read(&mut fields, |_| Some(()))?.0;
                (sending.arena.1 == 0 || sending.is_for_one()).then_some(Self::Send(sending))?
            }
            operation::RESPOND => {
                let (sending, handle) = Sending::read(&mut fields, Fields::u64)?;
                sending.is_plain().then_some(())?;
                Self::Respond(sending, handle)
            }
            operation::CALL => {
                let (sending, receiving) = Sending::read(&mut fields, Receiving::read)?;
                (sending.is_plain() && receiving.more == 0).then_some(())?;
                Self::Sequence(sending, None, None, receiving)
            }
            operation::REPLY => Self::reply(&mut fields)?,
            operation::RECV => Self::Recv(Receiving::read(&mut fields)?),
            operation::CANCEL => Self::Cancel,
            operation::RELEASE => Self::Release(fields.u64()?),
            operation::TRANSFER => {
                let (flags, source, destination) = (fields.u64()?, fields.u64()?, fields.u64()?);
                (flags == 0 && destination == INVALID).then_some(Self::Transfer(source))?
            }
            operation::DESTROY => {
                let (flags, count) = (fields.u64()?, fields.u64()?);
                let nodes = fields.words(u32::try_from(count).ok()?)?;
                (nodes.len() <= MAX_REFERENCES).then_some(Self::Destroy(flags, nodes))?
            }
            operation::SLICE_RELEASE => {
                let (offset, flags, serial) = (fields.u64()?, fields.u64()?, fields.u64()?);
                (flags == 0).then_some(Self::SliceRelease(offset, serial))?
            }
            _ => return None,
        };
        let is_answered =
            matches!(request, Self::Sequence(..) | Self::Recv(_) | Self::Cancel | Self::Transfer(_));
        (fields.0.is_empty() && !(header.is_quiet && is_answered)).then_some(request)
    }

    fn reply(fields: &mut Fields<'a>) -> Option<Self> {
        let (sending, (receiving, offset, flags, serial, handle)) = Sending::read(fields, |fields| {
            let receiving = Receiving::read(fields)?;
            let (offset, flags) = (fields.u64()?, fields.u64()?);
            Some((receiving, offset, flags, fields.u64()?, fields.u64()?))
        })?;
        let slice = (offset != INVALID).then_some((offset, serial));
        let is_everyday = sending.is_plain() && receiving.more == 0 && (slice.is_none() || flags == 0);
        let handle = (handle != INVALID).then_some(handle);
        is_everyday.then_some(Self::Sequence(sending, slice, handle, receiving))
    }

    /// What it costs of the allowance beside one, for the handles and nodes that it names, and for a large payload.
    pub fn extra(&self) -> u64 {
        let (count, size) = match self {
            Self::Send(sending) | Self::Respond(sending, _) | Self::Sequence(sending, ..) => {
                (sending.references(), sending.arena.1)
            }
            Self::Destroy(_, nodes) => (nodes.len(), 0),
            _ => (0, 0),
        };
        count as u64 / REFERENCES_PER_REQUEST + size / BYTES_PER_REQUEST
    }
}

impl<'a> Sending<'a> {
    /// The sending part, with what `rest` reads of the fixed fields behind it.
    fn read<T>(
        fields: &mut Fields<'a>,
        rest: impl FnOnce(&mut Fields<'a>) -> Option<T>,
    ) -> Option<(Self, T)> {
        let flags = fields.u64()?;
        let (n_destinations, n_optional) = (fields.u32()?, fields.u32()?);
        let (n_handles, n_inline) = (fields.u32()?, fields.u32()? as usize);
        let arena = (fields.u64()?, fields.u64()?);
        let rest = rest(fields)?;
        let destinations = fields.words(n_destinations)?;
        let optional = fields.words(n_optional)?;
        let handles = fields.words(n_handles)?;
        let payload = fields.bytes(n_inline)?;
        let sending = Self { flags, destinations, optional, handles, payload, arena };
        let is_everyday = flags & !CONTINUE == 0
            && n_inline <= MAX_INLINE_PAYLOAD
            && sending.references() <= MAX_REFERENCES;
        is_everyday.then_some((sending, rest))
    }

    fn references(&self) -> usize {
        self.destinations.len() + self.optional.len() + self.handles.len()
    }

    fn is_plain(&self) -> bool {
        self.flags == 0 && self.optional.is_empty() && self.arena.1 == 0
    }

    /// There is one receiver, and nothing inline.
    fn is_for_one(&self) -> bool {
        self.destinations.len() + self.optional.len() == 1 && self.payload.is_empty()
    }
}

impl Receiving {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (flags, max_offset, options) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let more = options >> MORE_SHIFT;
        let options = options & ((1 << MORE_SHIFT) - 1);
        let is_parked = options & PARK != 0;
        let is_everyday = flags & !INSTALL_FDS == 0
            && options & !(PARK | DETACH) == 0
            && more <= if is_parked { MAX_MORE } else { 0 };
        is_everyday.then_some(Self {
            installs_fds: flags != 0,
            max_offset,
            is_parked,
            is_detached: options & DETACH != 0,
            more: more as u8,
        })
    }

    /// Its flags and options as they came, without `more`.
    pub fn bits(&self) -> (u64, u64) {
        let flags = if self.installs_fds { INSTALL_FDS } else { 0 };
        let park = if self.is_parked { PARK } else { 0 };
        (flags, park | if self.is_detached { DETACH } else { 0 })
    }

    /// From flags and options without `more`; None if they are not everyday.
    pub fn of(flags: u64, max_offset: u64, options: u64, more: u8) -> Option<Self> {
        let options = options | u64::from(more) << MORE_SHIFT;
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&max_offset.to_le_bytes());
        bytes[16..].copy_from_slice(&options.to_le_bytes());
        Self::read(&mut Fields(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::frames::QUIET;

    fn frame(operation: u16, words: &[u64], tail: &[u8]) -> Vec<u8> {
        let length = HEADER + 8 * words.len() + tail.len();
        let mut out = (length as u32).to_le_bytes().to_vec();
        out.extend_from_slice(&operation.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&5u64.to_le_bytes());
        words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        out.extend_from_slice(tail);
        out
    }

    fn read(frame: &[u8]) -> Option<Request<'_>> {
        Request::read(Header::read(frame)?, frame)
    }

    #[test]
    fn a_send_is_taken_apart() {
        let counts = [1, 2 | 3 << 32];
        let frame = frame(operation::SEND | QUIET, &[0, counts[0], counts[1], 0, 0, 8, 3, 11], b"abc");
        let Some(Request::Send(sending)) = read(&frame) else { panic!("not everyday") };
        assert_eq!(sending.destinations.iter().collect::<Vec<_>>(), [8]);
        assert_eq!(sending.handles.iter().collect::<Vec<_>>(), [3, 11]);
        assert_eq!(sending.payload, b"abc");
    }

    #[test]
    fn what_is_unusual_is_left_alone() {
        let unusual = [
            frame(operation::SEND, &[2, 0, 0, 0, 0], b""),
            frame(operation::SEND, &[0, 0, 0, 0, 1], b""),
            frame(operation::SEND, &[0, 0, 0, 0, 0], b"x"),
            frame(operation::SEND, &[0, 1, 0, 0, 0], b""),
            frame(operation::RECV, &[2, INVALID, 0], b""),
            frame(operation::RECV, &[0, INVALID, 1 << 8], b""),
            frame(operation::RECV | QUIET, &[0, INVALID, 1], b""),
            frame(operation::RECV, &[0, INVALID, 4], b""),
            frame(operation::SLICE_RELEASE, &[0, 1, 0], b""),
            frame(operation::DESTROY, &[0, 2, 1], b""),
            frame(operation::DESTROY, &[0, 1 << 61, 1], b""),
            frame(0x101, &[0], b""),
        ];
        for frame in unusual {
            assert_eq!(read(&frame), None, "{frame:?}");
        }
    }

    #[test]
    fn a_receive_keeps_its_bits() {
        let frame = frame(operation::RECV, &[4, 77, 3 | 31 << 8], b"");
        let Some(Request::Recv(receiving)) = read(&frame) else { panic!("not everyday") };
        let (flags, options) = receiving.bits();
        assert_eq!(Receiving::of(flags, receiving.max_offset, options, receiving.more), Some(receiving));
    }
}
