//! Errors of Core: what the caller should do next, in which words.
//!
//! Theory. The classes are those of `bus1/errors.py`, each with its errno; the text is the same, too. What
//! the memory of a peer raises that is no class of ours passes through as it is (`Kind::Foreign`).
//!
//! Invariants. 1. A command that returns an error has changed nothing (`Kind::Internal` apart).
//!
//! Not here: the exceptions of Python (`py::core`).

use std::any::Any;
use std::borrow::Cow;
use std::fmt;

/// The class of an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    WouldBlock,
    InvalidArgument,
    NoSuchHandle,
    TooLarge,
    Busy,
    NotUnique,
    ForeignNode,
    AlreadyDestroyed,
    OutOfRange,
    QuotaExceeded,
    OutOfMemory,
    PoolFull,
    NodeDestroyed,
    PeerShutdown,
    /// A broken invariant of Core.
    Internal,
    /// Something that a foreign memory raised; `Error::cause` is it.
    Foreign,
}

impl Kind {
    /// The positive errno of the manual page.
    pub fn errno(self) -> i32 {
        match self {
            Kind::WouldBlock => libc::EAGAIN,
            Kind::InvalidArgument => libc::EINVAL,
            Kind::NoSuchHandle => libc::ENXIO,
            Kind::TooLarge => libc::EMSGSIZE,
            Kind::Busy => libc::EBUSY,
            Kind::NotUnique => libc::ENOTUNIQ,
            Kind::ForeignNode => libc::EREMOTE,
            Kind::AlreadyDestroyed => libc::ESTALE,
            Kind::OutOfRange => libc::ERANGE,
            Kind::QuotaExceeded => libc::EDQUOT,
            Kind::OutOfMemory => libc::ENOMEM,
            Kind::PoolFull => libc::EXFULL,
            Kind::NodeDestroyed => libc::EHOSTUNREACH,
            Kind::PeerShutdown => libc::ESHUTDOWN,
            Kind::Internal => libc::ENOTRECOVERABLE,
            Kind::Foreign => libc::EIO,
        }
    }

    /// It may befall a single destination (T-55).
    pub fn is_remote(self) -> bool {
        matches!(
            self,
            Kind::NodeDestroyed | Kind::QuotaExceeded | Kind::PoolFull | Kind::TooLarge | Kind::OutOfMemory
        )
    }

    /// It fails no optional destination.
    pub fn is_optional(self) -> bool {
        self.is_remote() || matches!(self, Kind::NoSuchHandle | Kind::NotUnique)
    }
}

/// Why a command failed.
pub struct Error {
    /// The class.
    pub kind: Kind,
    /// For people; the same as in Python.
    pub text: Cow<'static, str>,
    /// What a foreign memory raised.
    pub cause: Option<Box<dyn Any + Send>>,
}

impl Error {
    /// An error of Core's own.
    pub fn new(kind: Kind, text: impl Into<Cow<'static, str>>) -> Self {
        Error { kind, text: text.into(), cause: None }
    }

    /// The positive errno.
    pub fn errno(&self) -> i32 {
        self.kind.errno()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.kind, self.text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// What a command returns.
pub type Result<T> = std::result::Result<T, Error>;
