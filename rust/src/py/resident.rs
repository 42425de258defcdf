//! `Resident`: a peer in the process of its bus; its everyday operations, each in one step.
//!
//! Theory. `bus1.inprocess` does all that such a peer can do: it calls Core, lets the reactor settle, and keeps the peer's
//! eventfd readable while messages are queued. Here the everyday of that is one call: what Core has left behind is
//! carried out at once if it concerns residents alone, whose eventfds are known, and is the reactor's to
//! settle otherwise. None means: not everyday, or wrong, and nothing has happened; Python does it, or says what is
//! wrong.
//!
//! Invariants. 1. A None has changed nothing. 2. Nothing is left behind for anybody but by the reactor. 3. No eventfd is
//! touched once it is closed, or in the child of a fork.
//!
//! Not here: receiving descriptors, peeking, waiting, other operations (`bus1.inprocess`).

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pyo3::IntoPyObjectExt;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyInt, PyList, PyMemoryView, PyTuple};
use smallvec::SmallVec;

use super::answers::{Classes, objects_of};
use super::arguments::{Objects, credentials_of};
use super::core::Core;
use super::locking::locked;
use super::memory::raised;
use crate::core::{self, Credentials, INSTALL_FDS, Kind, OFFSET_INVALID, Parts, Payload, Request};
use crate::sys;

/// The eventfd of a resident: nobody asks for it, it is readable or not, or it is closed.
struct Event {
    fd: RawFd,
    state: AtomicU8,
}

const UNSEEN: u8 = 0;
const CLEAR: u8 = 1;
const READABLE: u8 = 2;
const CLOSED: u8 = 3;

impl Event {
    fn set(&self, is_readable: bool) {
        match (self.state.load(Relaxed), is_readable) {
            (CLEAR, true) => {
                self.state.store(READABLE, Relaxed);
                sys::raise_event(self.fd);
            }
            (READABLE, false) => {
                self.state.store(CLEAR, Relaxed);
                sys::clear_event(self.fd);
            }
            _ => {}
        }
    }

    fn is_seen(&self) -> bool {
        self.state.load(Relaxed) != UNSEEN
    }

    fn show(&self) {
        if self.state.load(Relaxed) == UNSEEN {
            self.state.store(CLEAR, Relaxed);
        }
    }
}

/// The residents of one Core, by their numbers.
#[derive(Default)]
pub struct Residents(Mutex<HashMap<u64, Arc<Event>, ahash::RandomState>>);

impl Residents {
    fn locked(&self) -> MutexGuard<'_, HashMap<u64, Arc<Event>, ahash::RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A peer in the process of its bus; called with a message, it gives its slice back.
#[pyclass(frozen, module = "bus1._native")]
pub struct Resident {
    core: Arc<Mutex<core::Core>>,
    residents: Arc<Residents>,
    peer: u64,
    credentials: Arc<Credentials>,
    event: Arc<Event>,
    /// Of the link, which has the reactor settle.
    link: Py<PyAny>,
    message: Py<PyAny>,
    no_fds: Py<PyAny>,
}

/// What has to be done when a command is over.
enum Rest {
    Nothing,
    Settle,
}

impl Resident {
    fn is_here(&self) -> bool {
        self.event.state.load(Relaxed) != CLOSED
    }

    /// Carries out one command; None if it fails without an effect.
    fn run<T>(
        &self,
        py: Python<'_>,
        command: impl FnOnce(&mut core::Core) -> core::Result<Option<T>>,
    ) -> PyResult<Option<(T, Rest)>> {
        if !self.is_here() {
            return Ok(None); // in the child of a fork a lock may be held for ever
        }
        let mut core = locked(py, &self.core)?;
        if !self.is_here() {
            return Ok(None); // it has left while this thread waited
        }
        let value = match command(&mut core) {
            Ok(Some(value)) => value,
            Ok(None) => return Ok(None),
            Err(error) if error.cause.is_none() && error.kind != Kind::Internal => return Ok(None),
            Err(error) => {
                drop(core);
                return Err(raised(py, error));
            }
        };
        let rest = if core.has_effects() { self.wake(&mut core) } else { Rest::Nothing };
        if self.event.is_seen() {
            self.event.set(core.is_readable(self.peer));
        }
        Ok(Some((value, rest)))
    }

    /// Peers that turned readable, if nobody else has to be told of anything.
    fn wake(&self, core: &mut core::Core) -> Rest {
        let residents = self.residents.locked();
        let Some(woken) = core.take_woken_of(|peer| residents.contains_key(&peer)) else {
            return Rest::Settle;
        };
        for peer in &woken {
            if let Some(event) = residents.get(peer) {
                event.set(true);
            }
        }
        Rest::Nothing
    }

    fn end(&self, py: Python<'_>, rest: Rest) -> PyResult<()> {
        if let Rest::Settle = rest {
            let link = self.link.bind(py).call0()?;
            if !link.is_none() {
                link.call_method0(intern!(py, "_settle"))?;
            }
        }
        Ok(())
    }

    fn received<'py>(
        slf: &Bound<'py, Self>,
        message: core::Message,
        payload: &Payload,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let classes = Classes::get(py)?;
        let secctx = message.secctx.map(|label| PyBytes::new(py, &label));
        let has_slice = message.offset != OFFSET_INVALID;
        let fields = [
            classes.kind(py, message.kind).clone(),
            classes.flags(py, message.flags).clone(),
            message.destination.into_bound_py_any(py)?,
            message.uid.into_bound_py_any(py)?,
            message.gid.into_bound_py_any(py)?,
            message.pid.into_bound_py_any(py)?,
            message.tid.into_bound_py_any(py)?,
            message.offset.into_bound_py_any(py)?,
            message.n_bytes.into_bound_py_any(py)?,
            numbers_of(py, message.handles)?.into_any(),
            this.no_fds.bind(py).clone(),
            secctx.into_bound_py_any(py)?,
            message.size.into_bound_py_any(py)?,
            shown(py, payload)?,
            if has_slice { slf.clone().into_any() } else { py.None().into_bound(py) },
            message.serial.into_bound_py_any(py)?,
        ];
        this.message.bind(py).call1(PyTuple::new(py, fields)?)
    }
}

#[pymethods]
impl Resident {
    /// `peer` has been opened; `link` is a weak reference to who settles, `message` the class of what is received.
    #[new]
    fn new(
        core: &Core,
        peer: u64,
        credentials: &Bound<'_, PyAny>,
        event: RawFd,
        link: Py<PyAny>,
        message: Py<PyAny>,
        no_fds: Py<PyAny>,
    ) -> PyResult<Self> {
        let credentials = Arc::new(credentials_of(credentials)?);
        let event = Arc::new(Event { fd: event, state: UNSEEN.into() });
        let residents = Arc::clone(&core.residents);
        residents.locked().insert(peer, Arc::clone(&event));
        Ok(Resident { core: core.shared(), residents, peer, credentials, event, link, message, no_fds })
    }

    /// One transaction, if it is everyday: ids and buffers in lists or tuples, no descriptors, no flags.
    #[expect(clippy::too_many_arguments, reason = "those of `Peer.send`")]
    fn send<'py>(
        &self,
        py: Python<'py>,
        destinations: &Bound<'py, PyAny>,
        payload: &Bound<'py, PyAny>,
        handles: &Bound<'py, PyAny>,
        fds: &Bound<'py, PyAny>,
        flags: &Bound<'py, PyAny>,
        optional: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        if number(flags) != Some(0) || !is_empty(fds) {
            return Ok(None);
        }
        let (Some(destinations), Some(handles), Some(optional)) =
            (numbers(destinations), numbers(handles), numbers(optional))
        else {
            return Ok(None);
        };
        let Some(payload) = payload_of(payload) else {
            return Ok(None);
        };
        let request = Request {
            destinations: &destinations,
            handles: &handles,
            fds: &[],
            flags: 0,
            optional: &optional,
        };
        let sent =
            self.run(py, |core| core.send(self.peer, &request, &payload, &self.credentials).map(Some))?;
        let Some((slots, rest)) = sent else {
            return Ok(None);
        };
        self.end(py, rest)?;
        PyList::new(py, slots).map(Some)
    }

    /// The next message, if there is one, without descriptors, and it is to be taken.
    fn recv<'py>(
        slf: &Bound<'py, Self>,
        flags: &Bound<'py, PyAny>,
        max_offset: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (py, this) = (slf.py(), slf.get());
        let (Some(flags @ (0 | INSTALL_FDS)), Some(max_offset)) = (number(flags), number(max_offset)) else {
            return Ok(None);
        };
        let received = this.run(py, |core| {
            if !core.comes_alone(this.peer) {
                return Ok(None);
            }
            let message = core.recv(this.peer, flags, max_offset)?;
            let payload = core.published_payload(this.peer, message.offset).cloned();
            Ok(Some((message, payload.unwrap_or_default())))
        })?;
        let Some(((message, payload), rest)) = received else {
            return Ok(None);
        };
        let received = Self::received(slf, message, &payload)?;
        this.end(py, rest)?;
        Ok(Some(received))
    }

    /// Gives the slice of a message back, if it is there yet.
    fn __call__(&self, py: Python<'_>, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let offset = message.getattr(intern!(py, "offset"))?.extract()?;
        let serial = message.getattr(intern!(py, "_serial"))?.extract()?;
        let done = self.run(py, |core| core.slice_release(self.peer, offset, serial, true).map(Some))?;
        done.map_or(Ok(()), |((), rest)| self.end(py, rest))
    }

    /// The payload of a slice that was received.
    fn payload<'py>(&self, py: Python<'py>, offset: u64) -> PyResult<Bound<'py, PyTuple>> {
        let payload = locked(py, &self.core)?.published_payload(self.peer, offset).cloned();
        objects_of(py, &payload.unwrap_or_default())
    }

    /// Carries out what a command has left, if it concerns residents alone; False: the reactor has to.
    fn settle(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.run(py, |_| Ok(Some(())))?.is_some_and(|((), rest)| matches!(rest, Rest::Nothing)))
    }

    /// Its eventfd is seen from now on: readable while messages are queued, and once the peer is not live.
    fn signal(&self, py: Python<'_>, is_live: bool) -> PyResult<()> {
        if !self.is_here() {
            return Ok(());
        }
        let core = locked(py, &self.core)?;
        self.event.show();
        self.event.set(!is_live || core.is_readable(self.peer));
        Ok(())
    }

    /// It does nothing any more: the peer is over, or its bus stayed in another process.
    fn leave(&self) {
        self.residents.locked().remove(&self.peer);
        self.event.state.store(CLOSED, Relaxed);
    }
}

fn numbers_of(py: Python<'_>, numbers: Vec<u64>) -> PyResult<Bound<'_, PyTuple>> {
    if numbers.is_empty() { Ok(PyTuple::empty(py)) } else { PyTuple::new(py, numbers) }
}

/// A number, if it is an int of 64 bits.
fn number(object: &Bound<'_, PyAny>) -> Option<u64> {
    object.cast::<PyInt>().ok()?.extract().ok()
}

fn is_empty(items: &Bound<'_, PyAny>) -> bool {
    match items.cast_exact::<PyTuple>() {
        Ok(tuple) => tuple.is_empty(),
        Err(_) => items.cast_exact::<PyList>().is_ok_and(|list| list.is_empty()),
    }
}

/// What is in a list or a tuple, one after the other; None if it is neither, or `take` ends it.
fn each(items: &Bound<'_, PyAny>, mut take: impl FnMut(&Bound<'_, PyAny>) -> Option<()>) -> Option<()> {
    match items.cast_exact::<PyTuple>() {
        Ok(tuple) => tuple.iter_borrowed().try_for_each(|item| take(&item)),
        Err(_) => items.cast_exact::<PyList>().ok()?.iter().try_for_each(|item| take(&item)),
    }
}

fn numbers(items: &Bound<'_, PyAny>) -> Option<SmallVec<[u64; 4]>> {
    let mut numbers = SmallVec::new();
    each(items, |item| {
        numbers.push(item.cast_exact::<PyInt>().ok()?.extract().ok()?);
        Some(())
    })?;
    Some(numbers)
}

/// A buffer, or several of them; those that somebody could change are copied.
fn payload_of(object: &Bound<'_, PyAny>) -> Option<Payload> {
    let py = object.py();
    let objects = match (frozen(object), object.cast_exact::<PyTuple>()) {
        (Some(bytes), _) => PyTuple::new(py, [bytes]).ok()?,
        (_, Ok(tuple)) => tuple.clone(),
        _ => object.cast_exact::<PyList>().ok()?.to_tuple(),
    };
    if objects.is_empty() {
        return Some(Payload::default());
    }
    let is_frozen = objects.iter_borrowed().all(|part| part.is_exact_instance_of::<PyBytes>());
    let objects = if is_frozen {
        objects
    } else {
        let parts: Option<Vec<_>> = objects.iter_borrowed().map(|part| frozen(&part)).collect();
        PyTuple::new(py, parts?).ok()?
    };
    let mut parts = Parts::new();
    for part in objects.iter_borrowed() {
        parts.push(bytes_of(&*part.cast_exact::<PyBytes>().ok()?));
    }
    Some(Payload { parts, origin: Some(Arc::new(Objects(objects.unbind()))), ..Payload::default() })
}

/// Bytes, or a copy of what is a buffer of the other everyday kinds.
fn frozen<'py>(part: &Bound<'py, PyAny>) -> Option<Bound<'py, PyBytes>> {
    if let Ok(bytes) = part.cast_exact::<PyBytes>() {
        return Some(bytes.clone());
    }
    if !part.is_exact_instance_of::<PyByteArray>() && !part.is_exact_instance_of::<PyMemoryView>() {
        return None;
    }
    let copy = part.py().get_type::<PyBytes>().call1((part,)).ok()?;
    copy.cast_into_exact().ok()
}

fn bytes_of(bytes: &Bound<'_, PyBytes>) -> Bytes {
    if bytes.as_bytes().is_empty() {
        Bytes::new()
    } else {
        Bytes::from_owner(PyBackedBytes::from(bytes.clone()))
    }
}

/// A payload as its receiver reads it.
fn shown<'py>(py: Python<'py>, payload: &Payload) -> PyResult<Bound<'py, PyAny>> {
    let parts = objects_of(py, payload)?;
    let nothing = || PyBytes::new(py, b"").into_any();
    let whole = match parts.len() {
        0 => nothing(),
        1 => parts.get_item(0)?,
        _ => nothing().call_method1(intern!(py, "join"), (parts,))?,
    };
    let view = PyMemoryView::from(&whole)?.into_any();
    if whole.is_exact_instance_of::<PyBytes>() {
        Ok(view)
    } else {
        view.call_method0(intern!(py, "toreadonly"))
    }
}
