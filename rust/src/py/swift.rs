//! Calls that are over at once: from values to values, with nothing of Python's in between.
//!
//! Theory. Between the values of an everyday call and the bytes in the socket lie the body, the envelope and the
//! frame, and as much on the way back. Where all of it is everyday, it is done in one go. Whatever is not is left
//! as it was: nothing has been sent, or the answer is still to be taken. `bus1_services/swift.py` goes on then.
//!
//! Invariants. 1. Messages are taken in the order in which they came. 2. A message that is not everyday is not taken.
//!
//! Not here: which calls may be over at once.

use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::answer::{Message, is_everyday, os_error};
use super::body::Bodies;
use super::client::{Listener, PyExchange, post_to};
use crate::client::answer::Answer;
use crate::client::envelope::{self, CALL, RETURN};
use crate::client::exchange::Exchange;
use crate::client::protocol as wire;
use crate::sys;

/// Bytes of a payload that are surely taken in a frame.
const MAX_INLINE: usize = 1 << 15;
const DATA: u64 = 1;
/// Bytes of readiness: of one read there are fewer.
const DRAINED_MAX: usize = 1 << 12;

/// Milliseconds that are waited at most.
const MAX_WAIT: f64 = 60_000.0;

/// The short way through one exchange.
#[pyclass(module = "bus1._native", frozen)]
pub struct Swift {
    exchange: Py<PyExchange>,
    bodies: Py<Bodies>,
    taken: Mutex<Option<(u64, Answer)>>,
}

/// A message of everyday: its payload, and its handles.
fn parts(answer: &Answer) -> Option<(Message, &[u8], &[u8])> {
    let message = Message::of(answer)?;
    let tail = answer.tail();
    let (n_bytes, n_handles) = (message.words[8] as usize, message.words[9] as usize);
    let at = n_bytes.checked_next_multiple_of(8)?;
    let handles = match n_handles {
        0 => &[],
        _ => tail.get(at..at.checked_add(8 * n_handles)?)?,
    };
    Some((message, tail.get(..n_bytes)?, handles))
}

fn is_of_kernel(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyOSError>(py)
        && error.value(py).getattr("errno").is_ok_and(|code| !code.is_none())
}

fn text<'py>(py: Python<'py>, bytes: &[u8]) -> Option<Bound<'py, PyString>> {
    std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii()).map(|text| PyString::new(py, text))
}

fn forget_node(exchange: &mut Exchange<Listener>, node: u64) {
    let mut body = [0; 24];
    for (bytes, word) in body.chunks_exact_mut(8).zip([wire::RELEASE_HANDLES, 1, node]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    exchange.forget(wire::DESTROY, &body, None);
}

/// Waits, at most so many seconds; whether input of the socket is all that the loop's epoll tells.
fn is_only_input(
    py: Python<'_>,
    epoll: &Bound<'_, PyAny>,
    sock: &Bound<'_, PyAny>,
    seconds: f64,
) -> PyResult<bool> {
    let epoll: RawFd = epoll.call_method0("fileno")?.extract()?;
    let fd: RawFd = sock.call_method0("fileno")?.extract()?;
    let milliseconds = (seconds * 1000.0).ceil().clamp(0.0, MAX_WAIT) as i32;
    match py.detach(|| sys::is_only_input(epoll, fd, milliseconds)) {
        Ok(is_only) => Ok(is_only),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => py.check_signals().map(|()| false),
        Err(error) => Err(os_error(&error)),
    }
}

#[pymethods]
impl Swift {
    #[new]
    fn new(exchange: Py<PyExchange>, bodies: Py<Bodies>) -> Self {
        Self { exchange, bodies, taken: Mutex::default() }
    }

    /// Call and wait: the values; None: it was sent, and the answer is to be waited for; False: nothing was done.
    ///
    /// `descriptor` is the peer's, the readiness of which is taken, as in `wait`.
    #[allow(clippy::too_many_arguments)]
    fn call<'py>(
        &self,
        py: Python<'py>,
        sock: &Bound<'py, PyAny>,
        descriptor: &Bound<'py, PyAny>,
        tag: u64,
        handle: u64,
        node: u64,
        names: (&str, &str, &str, &str),
        values: &Bound<'py, PyAny>,
        failed: Listener,
    ) -> PyResult<Bound<'py, PyAny>> {
        let channel = self.exchange.get();
        if !channel.lock().is_waiting(tag) || !self.post_call(py, handle, node, names, values, failed)? {
            return Ok(false.into_pyobject(py)?.to_owned().into_any());
        }
        let later = py.None().into_bound(py);
        self.go_on(py, sock, descriptor)?;
        Ok(match self.answer(py, tag, node, names.3) {
            Some(values) => values.into_any(),
            None => later,
        })
    }

    /// Queue a call whose answer goes to `node`; False: nothing was done.
    fn post_call(
        &self,
        py: Python<'_>,
        handle: u64,
        node: u64,
        names: (&str, &str, &str, &str),
        values: &Bound<'_, PyAny>,
        failed: Listener,
    ) -> PyResult<bool> {
        let (interface, member, signature, _) = names;
        let channel = self.exchange.get();
        channel.check(py)?;
        let Some(body) = self.bodies.get().written(py, signature, values) else {
            return Ok(false);
        };
        let all = [interface.as_bytes(), member.as_bytes(), signature.as_bytes()];
        let Some(head) = envelope::write(CALL, 0, all, body.len()) else {
            return Ok(false);
        };
        let mut exchange = channel.lock();
        if !exchange.may_be_quiet() || head.len() + body.len() > MAX_INLINE {
            return Ok(false);
        }
        post_to(&mut exchange, handle, &[&head, &body], &[node], failed, false);
        Ok(true)
    }

    /// `take`, once something has come: if nothing has, what is queued is sent, and waited for what comes.
    ///
    /// False: something has been read, which may be no message, and the next message is not for `take`.
    fn wait<'py>(
        &self,
        py: Python<'py>,
        sock: &Bound<'py, PyAny>,
        descriptor: &Bound<'py, PyAny>,
        tag: u64,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let is_waiting = self.exchange.get().lock().is_waiting(tag);
        let has_read = is_waiting && self.go_on(py, sock, descriptor)?;
        self.found(py, tag, has_read)
    }

    /// As `wait`, for who has a loop: what is queued is sent; then, for so many seconds, it is waited with the loop's
    /// epoll, until that tells of something.
    ///
    /// If that is anything but input of this socket, nothing is read.
    fn next<'py>(
        &self,
        py: Python<'py>,
        sock: &Bound<'py, PyAny>,
        descriptor: &Bound<'py, PyAny>,
        tag: u64,
        epoll: &Bound<'py, PyAny>,
        seconds: f64,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let channel = self.exchange.get();
        let mut has_read = false;
        if channel.lock().is_waiting(tag) {
            if channel.lock().writer.pending() > 0
                && let Err(error) = channel.transmit(py, sock, 0)
            {
                // Whoever sends next finds out what it is.
                return if is_of_kernel(py, &error) { Ok(None) } else { Err(error) };
            }
            if !is_only_input(py, epoll, sock, seconds)? {
                return Ok(None);
            }
            has_read = self.read(py, sock, descriptor)?;
        }
        self.found(py, tag, has_read)
    }

    /// The next message, if it is everyday; else None.
    ///
    /// A result without capabilities: for which node, its signature, the values. A call that wants an answer: of
    /// which node, names, reply handle, serial, values, who made it, and in which context.
    fn take<'py>(&self, py: Python<'py>, tag: u64) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let channel = self.exchange.get();
        let answer = channel.lock().take_if(tag, |answer| {
            is_everyday(answer)
                && parts(answer).is_some_and(|(message, payload, handles)| {
                    let kind = payload.get(2..4);
                    let is_return = handles.is_empty() && kind.is_some_and(|kind| kind[0] == RETURN);
                    let is_call = handles.len() == 8
                        && handles != u64::MAX.to_le_bytes()
                        && kind == Some(&[CALL, 0])
                        && !answer.is_released;
                    message.words[0] == DATA && (is_return || is_call)
                })
        });
        let Some(answer) = answer else {
            return Ok(None);
        };
        let is_return = parts(&answer).is_some_and(|(_, _, handles)| handles.is_empty());
        let fields =
            if is_return { self.return_fields(py, &answer)? } else { self.call_fields(py, &answer)? };
        self.hold(tag, answer, fields.is_some());
        Ok(fields)
    }

    /// The answer has come to this node: it is destroyed with the next write.
    fn give_up(&self, node: u64) {
        forget_node(&mut self.exchange.get().lock(), node);
    }

    /// What was taken last is the next message again.
    fn put_back(&self) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((tag, answer)) = taken {
            self.exchange.get().lock().put_back(tag, answer);
        }
    }

    /// Queue the answer, and give its handle back with it; False: nothing was done.
    #[allow(clippy::too_many_arguments)]
    fn respond(
        &self,
        py: Python<'_>,
        handle: u64,
        serial: u32,
        signature: &str,
        values: &Bound<'_, PyAny>,
        failed: Listener,
    ) -> PyResult<bool> {
        let channel = self.exchange.get();
        channel.check(py)?;
        let Some(body) = self.bodies.get().written(py, signature, values) else {
            return Ok(false);
        };
        let Some(head) = envelope::write(RETURN, serial, [b"", b"", signature.as_bytes()], body.len()) else {
            return Ok(false);
        };
        let mut exchange = channel.lock();
        if !exchange.may_be_quiet() || head.len() + body.len() > MAX_INLINE {
            return Ok(false);
        }
        post_to(&mut exchange, handle, &[&head, &body], &[], failed, true);
        Ok(true)
    }
}

impl Swift {
    /// Sends what is queued, waits for something to come, and looks at it; false: there was an error of the socket.
    fn go_on(
        &self,
        py: Python<'_>,
        sock: &Bound<'_, PyAny>,
        descriptor: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        match self.exchange.get().transmit(py, sock, 0) {
            Ok(()) => self.read(py, sock, descriptor),
            Err(error) if is_of_kernel(py, &error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is taken next, or what `wait` says in its place.
    fn found<'py>(&self, py: Python<'py>, tag: u64, has_read: bool) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(match self.take(py, tag)? {
            Some(fields) => Some(fields.into_any()),
            None if has_read => Some(false.into_pyobject(py)?.to_owned().into_any()),
            None => None,
        })
    }

    /// Reads, as the second half of `go_on`.
    fn read(&self, py: Python<'_>, sock: &Bound<'_, PyAny>, descriptor: &Bound<'_, PyAny>) -> PyResult<bool> {
        let channel = self.exchange.get();
        match channel.receive(py, sock, 0) {
            Ok(0) => channel.fail(py, None)?,
            Ok(_) => channel.process(py)?,
            // Whoever waits next finds out what it is. What a signal's handler raises is no such error.
            Err(error) if is_of_kernel(py, &error) => return Ok(false),
            Err(error) => return Err(error),
        }
        let n_drained = std::mem::take(&mut channel.lock().n_drained);
        if n_drained > 0 {
            let fd = descriptor.call_method0("fileno")?.extract()?;
            let n_drained = usize::try_from(n_drained).unwrap_or(usize::MAX).min(DRAINED_MAX);
            // nothing to be taken is no harm: somebody else has
            let _ = sys::receive(fd, &mut Vec::with_capacity(n_drained), n_drained, &mut Vec::new());
        }
        Ok(true)
    }

    /// Remembers what is taken, for who finds that it is not for this way; or gives it back.
    fn hold(&self, tag: u64, answer: Answer, is_taken: bool) {
        if is_taken {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            *taken = Some((tag, answer));
        } else {
            self.exchange.get().lock().put_back(tag, answer);
        }
    }

    fn return_fields<'py>(&self, py: Python<'py>, answer: &Answer) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let found = parts(answer).and_then(|(message, payload, _)| {
            let (envelope, body) = envelope::read(payload)?;
            if !envelope.interface.is_empty() || !envelope.member.is_empty() {
                return None;
            }
            let signature = text(py, envelope.signature)?;
            let (bodies, is_little) = (self.bodies.get(), envelope.is_little);
            let values = bodies.read(py, envelope.signature, body, is_little)?;
            Some((message.words[2], signature, values))
        });
        found.map(|fields| fields.into_pyobject(py)).transpose()
    }

    /// The values of the answer at a node, if it is the next message; the node is given up with it.
    fn answer<'py>(&self, py: Python<'py>, tag: u64, node: u64, result: &str) -> Option<Bound<'py, PyList>> {
        let channel = self.exchange.get();
        let answer = channel.lock().take_if(tag, |answer| {
            is_everyday(answer)
                && parts(answer).is_some_and(|(message, _, handles)| {
                    message.words[0] == DATA && message.words[2] == node && handles.is_empty()
                })
        })?;
        let values = parts(&answer)
            .and_then(|(_, payload, _)| envelope::read(payload))
            .filter(|(envelope, _)| {
                envelope.kind == RETURN
                    && envelope.interface.is_empty()
                    && envelope.member.is_empty()
                    && envelope.signature == result.as_bytes()
            })
            .and_then(|(envelope, body)| {
                self.bodies.get().read(py, envelope.signature, body, envelope.is_little)
            });
        let mut exchange = channel.lock();
        if values.is_none() {
            exchange.put_back(tag, answer);
            return None;
        }
        forget_node(&mut exchange, node);
        values
    }

    fn call_fields<'py>(&self, py: Python<'py>, answer: &Answer) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let Some((message, payload, handles)) = parts(answer) else {
            return Ok(None);
        };
        let Some((envelope, body)) = envelope::read(payload) else {
            return Ok(None);
        };
        let names = [envelope.interface, envelope.member, envelope.signature];
        let [Some(interface), Some(member), Some(signature)] = names.map(|name| text(py, name)) else {
            return Ok(None);
        };
        let values = self.bodies.get().read(py, envelope.signature, body, envelope.is_little);
        let Some(values) = values else {
            return Ok(None);
        };
        let [_, flags, destination, uid, gid, pid, ..] = message.words;
        let context = match flags & 1 {
            0 => None,
            _ => {
                let at = payload.len().next_multiple_of(8) + 8;
                let end = at + message.words[11] as usize;
                answer.tail().get(at..end).map(|context| PyBytes::new(py, context))
            }
        };
        let reply = wire::u64_at(handles, 0).unwrap_or(u64::MAX);
        let fields = (
            destination,
            (interface, member, signature),
            reply,
            envelope.serial,
            values,
            (uid, gid, pid),
            context,
        );
        Ok(Some(fields.into_pyobject(py)?))
    }
}
