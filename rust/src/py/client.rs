//! The client's half of a channel for Python: the class `Exchange`.
//!
//! Theory. The methods are those of `bus1.exchange.Exchange`. Requests and answers lie in the pure exchange; errors,
//! answers and owners of descriptors become Python's objects when they are taken. While the socket is read the
//! interpreter is released, and nothing is locked: whoever reads is one thread at a time, others make requests.
//!
//! Invariants. 1. No function of Python's is called while the exchange is locked.
//!
//! Not here: what happens to a frame (`client::exchange`).

use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::client::exchange::{Answer, Exchange, Failure, Refusal, Step};
use crate::client::protocol as wire;
use crate::sys;

const RECEIVE_SIZE: usize = 1 << 16;
const DETACHED: u64 = 2;
const OFFSET_INVALID: u64 = u64::MAX;
const HAS_SECCTX: u64 = 1;

type Listener = Option<Py<PyAny>>;

/// What Python has names for.
struct Names {
    answer: Py<PyAny>,
    fds: Py<PyAny>,
    no_fds: Py<PyAny>,
    from_errno: Py<PyAny>,
    remote_protocol_error: Py<PyAny>,
    local_protocol_error: Py<PyAny>,
    bus_gone: Py<PyAny>,
}

static NAMES: PyOnceLock<Names> = PyOnceLock::new();

fn names(py: Python<'_>) -> PyResult<&Names> {
    NAMES.get_or_try_init(py, || {
        let get = |module: &str, name: &str| -> PyResult<Py<PyAny>> {
            Ok(py.import(module)?.getattr(name)?.unbind())
        };
        Ok(Names {
            answer: get("bus1.exchange", "Answer")?,
            fds: get("bus1.descriptors", "Fds")?,
            no_fds: get("bus1.frames", "NO_FDS")?,
            from_errno: get("bus1.errors", "from_errno")?,
            remote_protocol_error: get("bus1.errors", "RemoteProtocolError")?,
            local_protocol_error: get("bus1.errors", "LocalProtocolError")?,
            bus_gone: get("bus1.errors", "BusGone")?,
        })
    })
}

/// Requests and answers of one channel.
#[pyclass(name = "Exchange", module = "bus1._native", frozen)]
pub struct PyExchange {
    inner: Mutex<Exchange<Listener>>,
    failure: Mutex<Option<Py<PyAny>>>,
    input: Mutex<Vec<u8>>,
}

impl PyExchange {
    fn lock(&self) -> MutexGuard<'_, Exchange<Listener>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_failure(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map(|error| error.clone_ref(py))
    }

    /// The channel's failure is raised, if it has any.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        match self.known_failure(py) {
            Some(error) => {
                let error = error
                    .bind(py)
                    .call_method1("with_traceback", (py.None(),))?;
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
                if error
                    .bind(py)
                    .is_instance(names.remote_protocol_error.bind(py))?
                {
                    names
                        .local_protocol_error
                        .call1(py, (text_of(&refusal.text),))?
                } else {
                    error
                }
            }
            Failure::Closed | Failure::Own => names
                .bus_gone
                .call1(py, ("the bus has closed the connection",))?,
        };
        self.set_failure(error);
        Ok(())
    }
}

#[pymethods]
impl PyExchange {
    #[new]
    fn new() -> Self {
        Self {
            inner: Mutex::default(),
            failure: Mutex::default(),
            input: Mutex::default(),
        }
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
        let payload: usize = parts.iter().map(|part| part.as_bytes().len()).sum();
        let mut head = Vec::with_capacity(64 + 8 * handles.len());
        head.extend_from_slice(&0u64.to_le_bytes());
        let counts = [1, 0, handles.len(), payload];
        for count in counts {
            head.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        head.extend_from_slice(&[0; 16]);
        if is_last {
            head.extend_from_slice(&handle.to_le_bytes());
        }
        head.extend_from_slice(&handle.to_le_bytes());
        for number in &handles {
            head.extend_from_slice(&number.to_le_bytes());
        }
        let mut slices: Vec<&[u8]> = Vec::with_capacity(1 + parts.len());
        slices.push(&head);
        slices.extend(parts.iter().map(|part| part.as_bytes()));
        let operation = if is_last { wire::RESPOND } else { wire::SEND };
        self.lock().post(operation, &slices, failed);
        Ok(())
    }

    fn forget(&self, operation: u16, body: &[u8]) {
        let mut exchange = self.lock();
        if exchange.failure().is_some() {
            return;
        }
        if exchange.may_be_quiet() {
            exchange.post(operation, &[body], None);
        } else if let Ok(tag) = exchange.request(operation, body, Vec::new()) {
            exchange.abandon(tag);
        }
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
    fn take_message<'py>(
        &self,
        py: Python<'py>,
        tag: u64,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let answer = self.lock().take_if(tag, is_everyday);
        answer
            .map(|answer| message_fields(py, &answer))
            .transpose()
            .map(Option::flatten)
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

    fn process(&self, py: Python<'_>) -> PyResult<()> {
        loop {
            let step = self.lock().step();
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
    fn fail(&self, py: Python<'_>, error: Option<Py<PyAny>>) -> PyResult<()> {
        let failure = match error {
            Some(error) => {
                self.set_failure(error);
                Failure::Own
            }
            None => Failure::Closed,
        };
        self.lock().fail(failure);
        self.note_failure(py)
    }

    #[pyo3(signature = (sock, flags=0))]
    fn receive(&self, py: Python<'_>, sock: &Bound<'_, PyAny>, flags: i32) -> PyResult<usize> {
        let fd: RawFd = sock.call_method0("fileno")?.extract()?;
        let mut input =
            std::mem::take(&mut *self.input.lock().unwrap_or_else(PoisonError::into_inner));
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
        self.lock()
            .reader
            .feed(&input, owned, received.is_truncated);
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = input;
        Ok(received.n_bytes)
    }

    /// Send what is queued, without waiting; OSError, with the rest still queued.
    #[pyo3(signature = (sock, flags=0))]
    fn transmit(&self, py: Python<'_>, sock: &Bound<'_, PyAny>, flags: i32) -> PyResult<()> {
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

fn os_error(error: &std::io::Error) -> PyErr {
    let code = error.raw_os_error().unwrap_or(libc::EIO);
    let text = std::io::Error::from_raw_os_error(code).to_string();
    let text = text
        .split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned();
    PyOSError::new_err((code, text))
}

fn text_of(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn error_of(py: Python<'_>, refusal: &Refusal) -> PyResult<Py<PyAny>> {
    names(py)?
        .from_errno
        .call1(py, (refusal.code, text_of(&refusal.text)))
}

/// The descriptors of an owner of Python's.
fn taken(fds: &Bound<'_, PyAny>) -> PyResult<Vec<OwnedFd>> {
    let numbers: Vec<RawFd> = fds.call_method0("take_all")?.extract()?;
    Ok(numbers.into_iter().map(sys::own).collect())
}

fn owner(py: Python<'_>, fds: Vec<OwnedFd>) -> PyResult<Py<PyAny>> {
    let names = names(py)?;
    if fds.is_empty() {
        return Ok(names.no_fds.clone_ref(py));
    }
    let numbers: Vec<RawFd> = fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
    names.fds.call1(py, (numbers,))
}

fn fixed_values<'py>(py: Python<'py>, answer: &Answer) -> PyResult<Bound<'py, PyTuple>> {
    let (fields, data) = answer.fixed();
    let mut at = 0;
    let mut values = Vec::with_capacity(fields.len());
    for code in fields {
        let (value, size) = match code {
            b'Q' => (wire::u64_at(data, at).unwrap_or(0), 8),
            _ => (u64::from(wire::u32_at(data, at).unwrap_or(0)), 4),
        };
        values.push(value);
        at += size;
    }
    PyTuple::new(py, values)
}

fn to_python(py: Python<'_>, mut answer: Answer) -> PyResult<Py<PyAny>> {
    let fds = std::mem::take(&mut answer.fds);
    let offered = std::mem::take(&mut answer.offered);
    let (fds, offered) = (owner(py, fds)?, owner(py, offered)?);
    let error = match &answer.error {
        Some(refusal) => error_of(py, refusal)?,
        None => py.None(),
    };
    names(py)?.answer.call1(
        py,
        (
            answer.operation,
            error,
            answer.done,
            fixed_values(py, &answer)?,
            PyBytes::new(py, answer.tail()),
            fds,
            offered,
            answer.arrival,
            answer.is_from_queue,
            answer.is_peek,
            answer.is_released,
        ),
    )
}

/// An answer that was taken goes back.
fn from_python(answer: &Bound<'_, PyAny>) -> PyResult<Answer> {
    let operation: u16 = answer.getattr("operation")?.extract()?;
    let done: u16 = answer.getattr("done")?.extract()?;
    let values: Vec<u64> = answer.getattr("values")?.extract()?;
    let tail: Vec<u8> = answer.getattr("tail")?.extract()?;
    let mut body = vec![0; wire::PREFIX_SIZE];
    for (code, value) in wire::result_fields(operation)
        .unwrap_or_default()
        .iter()
        .zip(values)
    {
        let size = if *code == b'Q' { 8 } else { 4 };
        body.extend(value.to_le_bytes().into_iter().take(size));
    }
    body.extend(tail);
    Ok(Answer {
        operation,
        error: None,
        done,
        body,
        fds: taken(&answer.getattr("fds")?)?,
        offered: taken(&answer.getattr("offered")?)?,
        arrival: answer.getattr("arrival")?.extract()?,
        is_from_queue: answer.getattr("is_from_queue")?.extract()?,
        is_peek: answer.getattr("is_peek")?.extract()?,
        is_released: answer.getattr("is_released")?.extract()?,
    })
}

/// The fields of a message, by their place.
struct Message {
    words: [u64; 19],
}

impl Message {
    fn of(answer: &Answer) -> Option<Self> {
        let (fields, data) = answer.fixed();
        let mut words = [0; 19];
        if fields.len() != words.len() {
            return None;
        }
        let mut at = 0;
        for (word, code) in words.iter_mut().zip(fields) {
            *word = match code {
                b'Q' => wire::u64_at(data, at)?,
                _ => u64::from(wire::u32_at(data, at)?),
            };
            at += if *code == b'Q' { 8 } else { 4 };
        }
        Some(Self { words })
    }
}

fn padded(n: u64) -> Option<u64> {
    n.checked_add(7).map(|n| n & !7)
}

fn is_everyday(answer: &Answer) -> bool {
    if answer.error.is_some() || !answer.is_from_queue || answer.is_peek {
        return false;
    }
    if !answer.fds.is_empty() || !answer.offered.is_empty() {
        return false;
    }
    let Some(message) = Message::of(answer) else {
        return false;
    };
    let [
        kind,
        flags,
        _,
        _,
        _,
        _,
        _,
        offset,
        n_bytes,
        n_handles,
        n_fds,
        n_secctx,
        _,
        note,
        n_inline,
        ..,
    ] = message.words;
    let tail = answer.tail().len() as u64;
    if !(1..=3).contains(&kind) || flags > 3 || n_fds != 0 || note & !DETACHED != 0 {
        return false;
    }
    if offset == OFFSET_INVALID {
        return n_inline == 0
            && tail == 0
            && n_bytes == 0
            && n_handles == 0
            && flags & HAS_SECCTX == 0;
    }
    if note & DETACHED == 0 || n_inline != tail || n_inline == 0 || n_handles > tail / 8 {
        return false;
    }
    let Some(at) = padded(n_bytes) else {
        return false;
    };
    let Some(end) = at.checked_add(8 * n_handles) else {
        return false;
    };
    let all = match flags & HAS_SECCTX {
        0 if n_handles == 0 => Some(n_bytes),
        0 => Some(end),
        _ => end.checked_add(n_secctx),
    };
    all.is_some_and(|all| all <= tail)
}

fn message_fields<'py>(py: Python<'py>, answer: &Answer) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let Some(message) = Message::of(answer) else {
        return Ok(None);
    };
    let [
        kind,
        flags,
        destination,
        uid,
        gid,
        pid,
        tid,
        _,
        n_bytes,
        n_handles,
        _,
        n_secctx,
        size,
        ..,
    ] = message.words;
    let serial = message.words[18];
    let tail = answer.tail();
    let cut = |start: usize, size: usize| tail.get(start..start + size).unwrap_or_default();
    let at = padded(n_bytes).unwrap_or(0) as usize;
    let handles = cut(at, 8 * n_handles as usize);
    let handles = PyTuple::new(
        py,
        handles
            .chunks_exact(8)
            .map(|word| wire::u64_at(word, 0).unwrap_or(0))
            .collect::<Vec<_>>(),
    )?;
    let secctx = match flags & HAS_SECCTX {
        0 => py.None(),
        _ => {
            let start = at + 8 * n_handles as usize;
            PyBytes::new(py, cut(start, n_secctx as usize))
                .into_any()
                .unbind()
        }
    };
    let payload = PyBytes::new(py, cut(0, n_bytes as usize));
    let fields = (
        (kind, flags, destination, uid, gid, pid, tid, n_bytes),
        handles,
        secctx,
        size,
        payload,
        serial,
        answer.arrival,
        answer.is_released,
    );
    Ok(Some(fields.into_pyobject(py)?))
}
