//! `Server`: the lane of native channels, as the broker sees it.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, Weak};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::core::error::{Error, Kind};
use crate::lane;
use crate::py::arguments::credentials_of;
use crate::py::core::Core;
use crate::py::locking::{Guard, locked};
use crate::py::memory::{SealedMemory, raised};
use crate::py::poller::Poller;
use crate::server::request::Receiving;
use crate::server::station::Waiting;
use crate::server::wire::Sockets;
use crate::server::{self, Limits};

/// A RECV in a line: channel, operation, tag, flags, max_offset, options, more, done.
type Entry = (RawFd, u16, u64, u64, u64, u64, u8, u16);
/// Bytes that have arrived, descriptors, whether some are missing, another sender, frames to be sent.
type Left<'py> = (Bound<'py, PyBytes>, Vec<RawFd>, bool, Option<(u32, u32, u32)>, Vec<Bound<'py, PyBytes>>);

/// The lane of native channels.
#[pyclass(frozen, module = "bus1._native")]
pub struct Server {
    inner: Arc<Mutex<server::Server>>,
    /// It lives as long as the reactor has it.
    poller: Weak<lane::Poller>,
    lane: usize,
}

impl Server {
    fn lock(&self, py: Python<'_>) -> PyResult<Guard<'_, server::Server>> {
        locked(py, &self.inner)
    }
}

#[pymethods]
impl Server {
    #[new]
    fn new(poller: &Poller, core: &Core, requests_per_turn: i64, unsent_bytes: usize) -> PyResult<Self> {
        let poller = poller.shared()?;
        let limits = Limits { requests_per_turn, unsent_bytes };
        let inner = server::Server::new(core.shared(), Box::new(Sockets), limits);
        let inner = Arc::new(Mutex::new(inner));
        let lane = poller.add_lane(inner.clone());
        let poller = Arc::downgrade(&poller);
        Ok(Self { inner, poller, lane })
    }

    // ---- channels ------------------------------------------------------------------------------------

    /// A channel of `peer`; its input is Python's.
    fn join(
        &self,
        py: Python<'_>,
        fd: RawFd,
        peer: u64,
        uid: i64,
        credentials: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let credentials = Arc::new(credentials_of(credentials)?);
        self.lock(py)?.join(fd, peer, uid, credentials);
        if let Some(poller) = self.poller.upgrade() {
            py.detach(|| poller.join(fd, self.lane));
        }
        Ok(())
    }

    /// Who writes there from now on.
    fn introduce(&self, py: Python<'_>, fd: RawFd, credentials: &Bound<'_, PyAny>) -> PyResult<()> {
        let credentials = Arc::new(credentials_of(credentials)?);
        self.lock(py)?.introduce(fd, credentials);
        Ok(())
    }

    /// Where large payloads of a channel come from: a descriptor that stays open, and its size.
    fn set_arena(&self, py: Python<'_>, fd: RawFd, arena: (RawFd, u64)) -> PyResult<()> {
        self.lock(py)?.set_arena(fd, arena);
        Ok(())
    }

    /// The input of a channel belongs to the lane from now on; False: not now.
    fn give(&self, py: Python<'_>, fd: RawFd) -> PyResult<bool> {
        Ok(self.lock(py)?.give(fd))
    }

    /// It belongs to Python from now on. InternalError if Core has broken a rule.
    fn take<'py>(&self, py: Python<'py>, fd: RawFd) -> PyResult<Left<'py>> {
        let mut inner = self.lock(py)?;
        let left = inner.take(fd);
        let broken = inner.broken();
        drop(inner);
        if let Some(text) = broken {
            return Err(raised(py, Error::new(Kind::Internal, text)));
        }
        let bytes = |bytes: &Vec<u8>| PyBytes::new(py, bytes);
        Ok((
            bytes(&left.input),
            left.fds,
            left.is_truncated,
            left.sender,
            left.frames.iter().map(bytes).collect(),
        ))
    }

    /// The channel is closed; `take` it first.
    fn leave(&self, py: Python<'_>, fd: RawFd) -> PyResult<()> {
        if let Some(poller) = self.poller.upgrade() {
            py.detach(|| poller.leave(fd));
        }
        self.lock(py)?.leave(fd);
        Ok(())
    }

    // ---- stations ------------------------------------------------------------------------------------

    /// A native peer; its line is Python's.
    fn open(&self, py: Python<'_>, peer: u64, end: RawFd, memory: &SealedMemory) -> PyResult<()> {
        self.lock(py)?.open(peer, end, memory.shared());
        Ok(())
    }

    /// The peer is over.
    fn close(&self, py: Python<'_>, peer: u64) -> PyResult<()> {
        self.lock(py)?.close(peer);
        Ok(())
    }

    /// The line belongs to Python: whether a byte is in flight (None: it was Python's already), and who waits.
    fn take_line(&self, py: Python<'_>, peer: u64) -> PyResult<(Option<bool>, Vec<Entry>)> {
        let (is_signalled, waiting) = self.lock(py)?.take_line(peer);
        let entry = |waiting: Waiting| {
            let (flags, options) = waiting.receiving.bits();
            let receiving = waiting.receiving;
            (
                waiting.fd,
                waiting.operation,
                waiting.tag,
                flags,
                receiving.max_offset,
                options,
                receiving.more,
                waiting.done,
            )
        };
        Ok((is_signalled, waiting.into_iter().map(entry).collect()))
    }

    /// The line belongs to the lane. ValueError for a RECV that it cannot answer.
    fn give_line(&self, py: Python<'_>, peer: u64, is_signalled: bool, entries: Vec<Entry>) -> PyResult<()> {
        let waiting = entries
            .into_iter()
            .map(|(fd, operation, tag, flags, max_offset, options, more, done)| {
                let receiving = Receiving::of(flags, max_offset, options, more)?;
                Some(Waiting { fd, operation, tag, receiving, done })
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| PyValueError::new_err("not an everyday RECV"))?;
        self.lock(py)?.give_line(peer, is_signalled, waiting);
        Ok(())
    }

    /// The peer turned readable: answers who waits; False if Python has to do that.
    fn woken(&self, py: Python<'_>, peer: u64) -> PyResult<bool> {
        Ok(self.lock(py)?.woken(peer))
    }

    /// Which channels have been sent a segment.
    fn set_holders(&self, py: Python<'_>, peer: u64, generation: u64, holders: Vec<RawFd>) -> PyResult<()> {
        self.lock(py)?.set_holders(peer, generation, &holders);
        Ok(())
    }

    /// What a user has had of its allowance in the turn that the wait has ended with.
    fn spent(&self, py: Python<'_>, uid: i64) -> PyResult<i64> {
        Ok(self.lock(py)?.spent(uid))
    }

    /// Everything goes to Python for now, or not any more.
    fn suspend(&self, py: Python<'_>, is_suspended: bool) -> PyResult<()> {
        self.lock(py)?.is_suspended = is_suspended;
        Ok(())
    }
}
