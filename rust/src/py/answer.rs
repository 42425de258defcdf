//! Answers, errors and messages, as Python has them.
//!
//! Theory. An answer that is taken becomes a `bus1.exchange.Answer`, a refusal the error that its number stands for.
//! An everyday message lies in its answer, has been given back already, and brought no descriptors: its fields are
//! read in one go.
//!
//! Not here: which answer is next (`client::exchange`).

use std::os::fd::{IntoRawFd, OwnedFd, RawFd};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyTuple};

use crate::client::answer::{Answer, Refusal};
use crate::client::protocol as wire;
use crate::sys;

const DETACHED: u64 = 2;
const OFFSET_INVALID: u64 = u64::MAX;
const HAS_SECCTX: u64 = 1;

/// What Python has names for.
pub(super) struct Names {
    pub(super) answer: Py<PyAny>,
    pub(super) fds: Py<PyAny>,
    pub(super) no_fds: Py<PyAny>,
    pub(super) from_errno: Py<PyAny>,
    pub(super) remote_protocol_error: Py<PyAny>,
    pub(super) local_protocol_error: Py<PyAny>,
    pub(super) bus_gone: Py<PyAny>,
}

static NAMES: PyOnceLock<Names> = PyOnceLock::new();

pub(super) fn names(py: Python<'_>) -> PyResult<&Names> {
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

pub(super) fn os_error(error: &std::io::Error) -> PyErr {
    let code = error.raw_os_error().unwrap_or(libc::EIO);
    let text = std::io::Error::from_raw_os_error(code).to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_owned();
    PyOSError::new_err((code, text))
}

pub(super) fn text_of(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

pub(super) fn error_of(py: Python<'_>, refusal: &Refusal) -> PyResult<Py<PyAny>> {
    names(py)?.from_errno.call1(py, (refusal.code, text_of(&refusal.text)))
}

/// The descriptors of an owner of Python's.
pub(super) fn taken(fds: &Bound<'_, PyAny>) -> PyResult<Vec<OwnedFd>> {
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

pub(super) fn to_python(py: Python<'_>, mut answer: Answer) -> PyResult<Py<PyAny>> {
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
pub(super) fn from_python(answer: &Bound<'_, PyAny>) -> PyResult<Answer> {
    let operation: u16 = answer.getattr("operation")?.extract()?;
    let done: u16 = answer.getattr("done")?.extract()?;
    let values: Vec<u64> = answer.getattr("values")?.extract()?;
    let tail: Vec<u8> = answer.getattr("tail")?.extract()?;
    let mut body = vec![0; wire::PREFIX_SIZE];
    for (code, value) in wire::result_fields(operation).unwrap_or_default().iter().zip(values) {
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
pub(super) struct Message {
    pub(super) words: [u64; 19],
}

impl Message {
    pub(super) fn of(answer: &Answer) -> Option<Self> {
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

pub(super) fn is_everyday(answer: &Answer) -> bool {
    if answer.error.is_some() || !answer.is_from_queue || answer.is_peek {
        return false;
    }
    if !answer.fds.is_empty() || !answer.offered.is_empty() {
        return false;
    }
    let Some(message) = Message::of(answer) else {
        return false;
    };
    let [kind, flags, _, _, _, _, _, offset, n_bytes, n_handles, n_fds, n_secctx, _, note, n_inline, ..] =
        message.words;
    let tail = answer.tail().len() as u64;
    if !(1..=3).contains(&kind) || flags > 3 || n_fds != 0 || note & !DETACHED != 0 {
        return false;
    }
    if offset == OFFSET_INVALID {
        return n_inline == 0 && tail == 0 && n_bytes == 0 && n_handles == 0 && flags & HAS_SECCTX == 0;
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

pub(super) fn message_fields<'py>(py: Python<'py>, answer: &Answer) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let Some(message) = Message::of(answer) else {
        return Ok(None);
    };
    let [kind, flags, destination, uid, gid, pid, tid, _, n_bytes, n_handles, _, n_secctx, size, ..] =
        message.words;
    let serial = message.words[18];
    let tail = answer.tail();
    let cut = |start: usize, size: usize| tail.get(start..start + size).unwrap_or_default();
    let at = padded(n_bytes).unwrap_or(0) as usize;
    let handles = cut(at, 8 * n_handles as usize);
    let handles = PyTuple::new(
        py,
        handles.chunks_exact(8).map(|word| wire::u64_at(word, 0).unwrap_or(0)).collect::<Vec<_>>(),
    )?;
    let secctx = match flags & HAS_SECCTX {
        0 => py.None(),
        _ => {
            let start = at + 8 * n_handles as usize;
            PyBytes::new(py, cut(start, n_secctx as usize)).into_any().unbind()
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
