//! `Poller`: what the reactor waits with.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::lane;
use crate::lane::poller::locked;

/// As `select.epoll`, and the lanes are served while it waits.
#[pyclass(frozen, module = "bus1._native")]
pub struct Poller {
    inner: Mutex<Option<Arc<lane::Poller>>>,
}

impl Poller {
    /// For lanes, and for one call; ValueError once it is closed.
    pub fn shared(&self) -> PyResult<Arc<lane::Poller>> {
        locked(&self.inner).clone().ok_or_else(|| PyValueError::new_err("the poller is closed"))
    }
}

#[pymethods]
impl Poller {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self { inner: Mutex::new(Some(Arc::new(lane::Poller::new()?))) })
    }

    /// Its epoll descriptor.
    fn fileno(&self) -> PyResult<RawFd> {
        Ok(self.shared()?.epoll().fileno())
    }

    /// Watch a descriptor. OSError.
    fn register(&self, fd: RawFd, eventmask: u32) -> PyResult<()> {
        Ok(self.shared()?.epoll().add(fd, eventmask)?)
    }

    /// Watch it for other events. OSError.
    fn modify(&self, fd: RawFd, eventmask: u32) -> PyResult<()> {
        Ok(self.shared()?.epoll().modify(fd, eventmask)?)
    }

    /// Watch it no more. OSError.
    fn unregister(&self, fd: RawFd) -> PyResult<()> {
        Ok(self.shared()?.epoll().remove(fd)?)
    }

    /// A descriptor is not watched any more and is going to be closed; how many departures there have been.
    fn depart(&self, py: Python<'_>) -> PyResult<u64> {
        let inner = self.shared()?;
        Ok(py.detach(|| inner.depart()))
    }

    /// (descriptor, events) of what is ready, and how many departures there had been by then; waits for that, at most
    /// `timeout` seconds (None: for ever).
    #[pyo3(signature = (timeout=None))]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<(Vec<(RawFd, u32)>, u64)> {
        let inner = self.shared()?;
        match py.detach(|| inner.poll(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                py.check_signals()?;
                // the caller looks at its clock and comes again
                Ok((Vec::new(), 0))
            }
            Err(error) => Err(PyOSError::new_err((error.raw_os_error(), error.to_string()))),
            Ok(found) => Ok(found),
        }
    }

    /// Watch nothing any more.
    fn close(&self, py: Python<'_>) {
        if let Some(inner) = locked(&self.inner).take() {
            py.detach(|| inner.close());
        }
    }
}
