//! The client's half of a channel for Python: the class `Exchange`.
//!
//! Theory. The methods are those of `bus1.exchange.Exchange`. Requests and answers lie in the pure exchange; errors,
//! answers and owners of descriptors become Python's objects when they are taken. While the socket is read the
//! interpreter is released, and nothing is locked: whoever reads is one thread at a time, others make requests.
//!
//! Invariants. 1. No function of Python's is called while the exchange is locked.
//!
//! Not here: what happens to a frame (`client::exchange`).

use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use super::answer::{
    error_of, from_python, is_everyday, message_fields, names, os_error, taken, text_of, to_python,
};
use crate::client::answer::Failure;
use crate::client::exchange::{Exchange, Step};
use crate::client::protocol as wire;
use crate::sys;

const RECEIVE_SIZE: usize = 1 << 16;

pub(super) type Listener = Option<Py<PyAny>>;

/// Requests and answers of one channel.
#[pyclass(name = "Exchange", module = "bus1._native", frozen)]
pub struct PyExchange {
    inner: Mutex<Exchange<Listener>>,
    failure: Mutex<Option<Py<PyAny>>>,
    input: Mutex<Vec<u8>>,
}

impl PyExchange {
    pub(super) fn lock(&self) -> MutexGuard<'_, Exchange<Listener>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_failure(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map(|error| error.clone_ref(py))
    }

    /// The channel's failure is raised, if it has any.
    pub(super) fn check(&self, py: Python<'_>) -> PyResult<()> {
        match self.known_failure(py) {
            Some(error) => {
                let error = error.bind(py).call_method1("with_traceback", (py.None(),))?;
                Err(PyErr::from_value(error))
            }
            None => Ok(()),
        }
    }

    fn set_failure(&self, error: Py<PyAny>) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }

    /// What the exchange found out becomes an error of Python's.
    fn note_failure(&self, py: Python<'_>) -> PyResult<()> {
        let Some(failure) = self.lock().failure().cloned() else {
            return Ok(());
        };
        if self.known_failure(py).is_some() {
            return Ok(());
        }
        let names = names(py)?;
        let error = match failure {
            Failure::Broken(complaint) => names.remote_protocol_error.call1(py, (complaint,))?,
            Failure::Refused(refusal) => {
                let error = error_of(py, &refusal)?;
                if error.bind(py).is_instance(names.remote_protocol_error.bind(py))? {
                    names.local_protocol_error.call1(py, (text_of(&refusal.text),))?
                } else {
                    error
                }
            }
            Failure::Closed | Failure::Own => {
                names.bus_gone.call1(py, ("the bus has closed the connection",))?
            }
        };
        self.set_failure(error);
        Ok(())
    }
}

#[pymethods]
impl PyExchange {
    #[new]
    fn new() -> Self {
        Self { inner: Mutex::default(), failure: Mutex::default(), input: Mutex::default() }
    }

    #[pyo3(signature = (operation, body, fds=None))]
    fn request(
        &self,
        py: Python<'_>,
        operation: u16,
        body: &[u8],
        fds: Option<Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        self.check(py)?;
        let owned = match fds {
            Some(fds) => taken(&fds)?,
            None => Vec::new(),
        };
        let tag = self.lock().request(operation, body, owned);
        tag.map_err(|complaint| {
            match names(py).and_then(|n| n.remote_protocol_error.call1(py, (complaint,))) {
                Ok(error) => PyErr::from_value(error.into_bound(py)),
                Err(error) => error,
            }
        })
    }

    #[getter]
    fn may_be_quiet(&self) -> bool {
        self.lock().may_be_quiet()
    }

    #[pyo3(signature = (operation, body, failed=None))]
    fn post(&self, py: Python<'_>, operation: u16, body: &[u8], failed: Listener) -> PyResult<()> {
        self.check(py)?;
        self.lock().post(operation, &[body], failed);
        Ok(())
    }

    fn post_message(
        &self,
        py: Python<'_>,
        handle: u64,
        parts: Vec<Bound<'_, PyBytes>>,
        handles: Vec<u64>,
        failed: Listener,
        is_last: bool,
    ) -> PyResult<()> {
        self.check(py)?;
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        post_to(&mut self.lock(), handle, &parts, &handles, failed, is_last);
        Ok(())
    }

    fn forget(&self, operation: u16, body: &[u8]) {
        self.lock().forget(operation, body, None);
    }

    fn recall(&self, tag: u64) {
        self.lock().recall(tag);
    }

    fn cancel(&self, tag: u64) {
        let mut exchange = self.lock();
        exchange.recall(tag);
        exchange.abandon(tag);
    }

    fn abandon(&self, tag: u64) {
        self.lock().abandon(tag);
    }

    fn expects(&self, tag: u64) -> bool {
        self.lock().expects(tag)
    }

    fn take(&self, py: Python<'_>, tag: u64) -> PyResult<Option<Py<PyAny>>> {
        let answer = self.lock().take(tag);
        match answer {
            Some(answer) => to_python(py, answer).map(Some),
            None => self.check(py).map(|()| None),
        }
    }

    /// The fields of an everyday message, if that is the next answer; None: `take` it.
    ///
    /// It lies in the answer, its slice has been given back, and no descriptor came along.
    fn take_message<'py>(&self, py: Python<'py>, tag: u64) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let answer = self.lock().take_if(tag, is_everyday);
        answer.map(|answer| message_fields(py, &answer)).transpose().map(Option::flatten)
    }

    fn answered(&self) -> Vec<u64> {
        self.lock().answered()
    }

    #[getter]
    fn failure(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.known_failure(py)
    }

    #[getter]
    fn n_answers(&self) -> u64 {
        self.lock().n_answers
    }

    #[getter]
    fn pending(&self) -> usize {
        self.lock().writer.pending()
    }

    #[getter]
    fn has_stray(&self) -> bool {
        !self.lock().stray.is_empty()
    }

    fn next_stray(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let answer = self.lock().stray.pop_front();
        answer.map(|answer| to_python(py, answer)).transpose()
    }

    fn keep(&self, answer: &Bound<'_, PyAny>) -> PyResult<()> {
        let answer = from_python(answer)?;
        self.lock().stray.push_front(answer);
        Ok(())
    }

    fn take_unwanted(&self, py: Python<'_>) -> PyResult<Py<PyList>> {
        let answers = std::mem::take(&mut self.lock().unwanted);
        let list = PyList::empty(py);
        for answer in answers {
            list.append(to_python(py, answer)?)?;
        }
        Ok(list.unbind())
    }

    fn take_retired(&self) -> Vec<u64> {
        std::mem::take(&mut self.lock().retired)
    }

    fn take_drained(&self) -> u64 {
        std::mem::take(&mut self.lock().n_drained)
    }

    fn feed(&self, data: &[u8], fds: Vec<RawFd>, truncated: bool) {
        let fds = fds.into_iter().map(sys::own);
        self.lock().reader.feed(data, fds, truncated);
    }

    pub(super) fn process(&self, py: Python<'_>) -> PyResult<()> {
        loop {
            let (step, silent) = {
                let mut exchange = self.lock();
                let step = exchange.step();
                (step, std::mem::take(&mut exchange.silent))
            };
            // Unlocked: objects of Python's may end with it, and these may make requests.
            drop(silent);
            match step {
                Step::Nothing => break,
                Step::Done | Step::Failed(None, _) => {}
                Step::Failed(Some(listener), refusal) => {
                    listener.call1(py, (error_of(py, &refusal)?,))?;
                }
            }
        }
        self.note_failure(py)
    }

    #[pyo3(signature = (error=None))]
    pub(super) fn fail(&self, py: Python<'_>, error: Option<Py<PyAny>>) -> PyResult<()> {
        let failure = match error {
            Some(error) => {
                self.set_failure(error);
                Failure::Own
            }
            None => Failure::Closed,
        };
        let silent = {
            let mut exchange = self.lock();
            exchange.fail(failure);
            std::mem::take(&mut exchange.silent)
        };
        drop(silent);
        self.note_failure(py)
    }

    #[pyo3(signature = (sock, flags=0))]
    pub(super) fn receive(&self, py: Python<'_>, sock: &Bound<'_, PyAny>, flags: i32) -> PyResult<usize> {
        let fd: RawFd = sock.call_method0("fileno")?.extract()?;
        let mut input = std::mem::take(&mut *self.input.lock().unwrap_or_else(PoisonError::into_inner));
        input.clear();
        input.reserve(RECEIVE_SIZE);
        let mut fds = Vec::new();
        let received = loop {
            let buffer = &mut input;
            let found = &mut fds;
            let is_waiting = flags & libc::MSG_DONTWAIT == 0;
            let result = if is_waiting {
                py.detach(|| sys::receive_with(fd, buffer, RECEIVE_SIZE, found, flags))
            } else {
                sys::receive_with(fd, buffer, RECEIVE_SIZE, found, flags)
            };
            match result {
                Ok(received) => break received,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                    py.check_signals()?;
                }
                Err(error) => return Err(os_error(&error)),
            }
        };
        let owned = fds.into_iter().map(sys::own);
        self.lock().reader.feed(&input, owned, received.is_truncated);
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = input;
        Ok(received.n_bytes)
    }

    /// Send what is queued, without waiting; OSError, with the rest still queued.
    #[pyo3(signature = (sock, flags=0))]
    pub(super) fn transmit(&self, py: Python<'_>, sock: &Bound<'_, PyAny>, flags: i32) -> PyResult<()> {
        let _ = flags; // it never waits
        if self.lock().writer.pending() == 0 {
            return Ok(());
        }
        let fd: RawFd = sock.call_method0("fileno")?.extract()?;
        loop {
            let mut exchange = self.lock();
            let Some((bytes, fds)) = exchange.writer.chunk() else {
                return Ok(());
            };
            match sys::send(fd, &[bytes], &fds) {
                Ok(n) => exchange.writer.sent(n),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                    drop(exchange);
                    py.check_signals()?;
                }
                Err(error) => return Err(os_error(&error)),
            }
        }
    }

    fn drop_output(&self) {
        self.lock().writer.close();
    }

    /// Bytes that are still to be sent, for those who look at them.
    fn output<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut exchange = self.lock();
        let mut found = Vec::new();
        while let Some((bytes, _)) = exchange.writer.chunk() {
            let n = bytes.len();
            found.extend_from_slice(bytes);
            exchange.writer.sent(n);
        }
        PyBytes::new(py, &found)
    }
}

/// Queues a quiet SEND through one handle, or a RESPOND.
pub(super) fn post_to(
    exchange: &mut Exchange<Listener>,
    handle: u64,
    parts: &[&[u8]],
    handles: &[u64],
    failed: Listener,
    is_last: bool,
) {
    let payload: usize = parts.iter().map(|part| part.len()).sum();
    let mut head = Vec::with_capacity(64 + 8 * handles.len());
    head.extend_from_slice(&0u64.to_le_bytes());
    for count in [1, 0, handles.len(), payload] {
        head.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }
    head.extend_from_slice(&[0; 16]);
    if is_last {
        head.extend_from_slice(&handle.to_le_bytes());
    }
    head.extend_from_slice(&handle.to_le_bytes());
    for number in handles {
        head.extend_from_slice(&number.to_le_bytes());
    }
    let mut slices: Vec<&[u8]> = Vec::with_capacity(1 + parts.len());
    slices.push(&head);
    slices.extend(parts);
    let operation = if is_last { wire::RESPOND } else { wire::SEND };
    exchange.post(operation, &slices, failed);
}
