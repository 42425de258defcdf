//! What crosses the waist: the arguments and answers of Core's commands.
//!
//! Theory. The twin of `bus1/core/api.py`, whose prose holds here, too. Numbers are those of the page. A
//! payload is a sequence of shared buffers; `origin` is whatever its sender wants to find again where a
//! buffer lies in a heap pool (the binding keeps the Python objects there).
//!
//! Invariants. 1. Nothing here refers to a Core.
//!
//! Not here: what commands do (`commands`, `messages`).

use std::any::Any;
use std::os::fd::RawFd;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

pub const HANDLE_INVALID: u64 = u64::MAX;
pub const OFFSET_INVALID: u64 = u64::MAX;
/// In `peer_reset`: leave this parameter as it is (P-31, P-32).
pub const KEEP: u64 = u64::MAX;
pub const MANAGED: u64 = 1;
pub const REMOTE: u64 = 2;
pub const FD_MAX: usize = 256;
pub const VEC_MAX: usize = 1024;
pub const NO_LIMIT: u64 = u64::MAX;
pub const PAYLOAD_MAX: u64 = 0x7FFF_F000;

/// The one flag of a peer.
pub const WANT_SECCTX: u64 = 1;
/// Flags of `peer_reset`.
pub const FLUSH: u64 = 1;
pub const FLUSH_SEED: u64 = 2;
/// The one flag of `node_destroy`.
pub const RELEASE_HANDLES: u64 = 1;
/// Flags of `send`.
pub const SEND_CONTINUE: u64 = 1;
pub const SEND_SEED: u64 = 2;
/// Flags of `recv`.
pub const PEEK: u64 = 1;
pub const SEED: u64 = 2;
pub const INSTALL_FDS: u64 = 4;
/// Flags of a received message.
pub const HAS_SECCTX: u32 = 1;
pub const CONTINUE: u32 = 2;

/// Slices, handles, bytes, descriptors.
pub type Counts = [u64; 4];
/// The buffers of a payload, in order.
pub type Parts = SmallVec<[Bytes; 2]>;
/// A companion of a payload that Core keeps and does not look at.
pub type Origin = Arc<dyn Any + Send + Sync>;

/// The bytes of a message.
#[derive(Clone, Default)]
pub struct Payload {
    pub parts: Parts,
    pub origin: Option<Origin>,
    /// So many bytes in front of them lie at their receiver already.
    pub lies_there: u32,
}

/// Bytes in a file that a client may change at any time: they are copied once, and only the copy is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    pub fd: RawFd,
    pub start: u64,
    pub size: u64,
}

impl Payload {
    /// The bytes in all parts.
    pub fn size(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

impl From<Parts> for Payload {
    fn from(parts: Parts) -> Self {
        Payload { parts, ..Payload::default() }
    }
}

/// `msg.type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MessageType {
    Data = 1,
    NodeDestroy = 2,
    NodeRelease = 3,
}

impl MessageType {
    /// Its name on the page.
    pub fn name(self) -> &'static str {
        match self {
            MessageType::Data => "DATA",
            MessageType::NodeDestroy => "NODE_DESTROY",
            MessageType::NodeRelease => "NODE_RELEASE",
        }
    }
}

/// The four maxima of a user or a peer (Q-2, P-22), in the order of `Counts`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits(pub Counts);

impl Default for Limits {
    fn default() -> Self {
        Limits([16384, 65536, 16_777_216, 4096])
    }
}

/// What `peer_query` answers (P-20 … P-22).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerState {
    pub flags: u64,
    pub limits: Limits,
}

/// Who sends (P-50 … P-53).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Credentials {
    pub uid: i64,
    pub gid: i64,
    pub pid: i64,
    pub tid: i64,
    /// What is the same for many.
    pub beside: Option<Arc<Beside>>,
}

/// What there is to say of who sends, beside the ids.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Beside {
    pub secctx: Option<Bytes>,
    /// (pid namespace, pid there).
    pub pids: Vec<(i64, i64)>,
    pub groups: Vec<i64>,
}

static NOTHING: Beside = Beside { secctx: None, pids: Vec::new(), groups: Vec::new() };

impl std::ops::Deref for Credentials {
    type Target = Beside;

    fn deref(&self) -> &Beside {
        self.beside.as_deref().unwrap_or(&NOTHING)
    }
}

/// What `recv` returns, for data and notifications alike (R-7 … R-9, N-2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub kind: MessageType,
    pub flags: u32,
    pub destination: u64,
    pub uid: i64,
    pub gid: i64,
    pub pid: i64,
    pub tid: i64,
    pub offset: u64,
    pub n_bytes: u64,
    pub handles: Vec<u64>,
    pub fds: Vec<i32>,
    pub secctx: Option<Bytes>,
    pub size: u64,
    pub serial: u64,
}

/// A look at a deliverable queue entry, without any effect.
pub struct Look<'a> {
    pub kind: MessageType,
    pub destination: u64,
    /// The sending peer, 0 for notifications.
    pub sender: u64,
    pub offset: u64,
    pub n_bytes: usize,
    pub size: u64,
    /// Dead nodes too.
    pub n_handles: usize,
    pub fds: &'a [i32],
    /// As they lie in a heap pool; empty for other memories.
    pub parts: &'a [Bytes],
    /// What came with the payload, in a heap pool.
    pub origin: Option<&'a Origin>,
    pub note: u64,
    pub stamp: u64,
}

/// One destination of `route`, with its own payload.
#[derive(Clone)]
pub struct Parcel {
    /// (owner peer, node id).
    pub node: (u64, u64),
    pub payload: Payload,
    /// Ids of the sender.
    pub handles: Vec<u64>,
    pub with_fds: bool,
    pub mandatory: bool,
    pub note: u64,
}

/// What is queued (undelivered) at one reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    pub bytes: u64,
    pub messages: u64,
    pub fds: u64,
}

/// What a user's peers use, the maxima, and what of it is booked for each sending user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserUsage {
    pub used: Counts,
    pub limits: Counts,
    /// In the order in which they began.
    pub shares: Vec<(i64, Counts)>,
}
