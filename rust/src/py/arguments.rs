//! What Python passes to Core, as Core takes it.
//!
//! Theory. Numbers of Python have no end: one that Core cannot hold names nothing, and is remembered as text, so that the
//! error is about the number that was passed. Credentials do not change, and are converted once. A payload
//! keeps the Python objects that it came in, to be found again in a heap pool.
//!
//! Not here: what Core answers (`answers`).

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyOverflowError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList, PyMemoryView, PyTuple};
use smallvec::SmallVec;

use super::memory::raised;
use crate::core::{
    Beside, Counts, Credentials, Error, HANDLE_INVALID, Kind, Limits, Parcel, Parts, Payload, View,
};
use crate::sys::buffers::Held;

/// Buffers of less are copied.
const COPIED: usize = 4096;

/// A peer as Python names it.
pub struct Peer(pub u64);

impl<'a, 'py> FromPyObject<'a, 'py> for Peer {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let number: Number<'_> = object.extract()?;
        if number.wild.is_some() {
            let error = Error::new(Kind::PeerShutdown, format!("peer {} is gone", number.text()));
            return Err(raised(object.py(), error));
        }
        Ok(Peer(number.value))
    }
}

/// InvalidArgument.
pub fn invalid(py: Python<'_>, text: String) -> PyErr {
    raised(py, Error::new(Kind::InvalidArgument, text))
}

/// The error about a number that Core was told in place of a wild one.
pub fn about(error: Error, wild: Option<&String>) -> Error {
    match wild {
        Some(wild)
            if error.kind == Kind::NoSuchHandle && error.text == format!("no handle {HANDLE_INVALID:#x}") =>
        {
            Error::new(error.kind, format!("no handle {wild}"))
        }
        _ => error,
    }
}

/// A number; `wild` is it if it is none of 64 bits.
pub struct Number<'py> {
    pub value: u64,
    pub wild: Option<Bound<'py, PyAny>>,
}

impl<'a, 'py> FromPyObject<'a, 'py> for Number<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<u64>() {
            Ok(value) => Ok(Number { value, wild: None }),
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
                let index = object.call_method0(intern!(object.py(), "__index__"))?;
                Ok(Number { value: HANDLE_INVALID, wild: Some(index) })
            }
            Err(error) => Err(error),
        }
    }
}

impl Number<'_> {
    /// As `{:#x}` writes it.
    pub fn hex(&self) -> String {
        self.wild.as_ref().map_or_else(
            || format!("{:#x}", self.value),
            |wild| {
                let written = wild.call_method1("__format__", ("#x",));
                written.map_or_else(|_| "?".to_owned(), |text| text.to_string())
            },
        )
    }

    /// In decimals.
    pub fn text(&self) -> String {
        match &self.wild {
            Some(wild) => wild.to_string(),
            None => self.value.to_string(),
        }
    }

    /// The nearest number that there is.
    pub fn clamped(&self) -> u64 {
        let is_negative = |wild: &Bound<'_, PyAny>| wild.lt(0).unwrap_or(false);
        match &self.wild {
            Some(wild) if is_negative(wild) => 0,
            _ => self.value,
        }
    }
}

/// Numbers, and the first of them that cannot name anything, as `{:#x}` writes it.
#[derive(Default)]
pub struct Numbers {
    pub values: SmallVec<[u64; 8]>,
    pub wild: Option<String>,
}

impl Numbers {
    fn push(&mut self, object: &Bound<'_, PyAny>) -> PyResult<()> {
        let number = object.extract::<Number<'_>>()?;
        if number.value == HANDLE_INVALID && self.wild.is_none() {
            self.wild = Some(number.hex());
        }
        self.values.push(number.value);
        Ok(())
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Numbers {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let mut numbers = Numbers::default();
        if let Ok(items) = object.cast::<PyTuple>() {
            for item in items.iter_borrowed() {
                numbers.push(&item)?;
            }
        } else {
            for item in object.try_iter()? {
                numbers.push(&item?)?;
            }
        }
        Ok(numbers)
    }
}

/// Descriptors of this process.
#[derive(Default)]
pub struct Fds(pub SmallVec<[i32; 4]>);

impl<'a, 'py> FromPyObject<'a, 'py> for Fds {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let mut fds = Fds::default();
        if let Ok(items) = object.cast::<PyTuple>() {
            for item in items.iter_borrowed() {
                fds.0.push(item.extract()?);
            }
        } else {
            for item in object.try_iter()? {
                fds.0.push(item?.extract()?);
            }
        }
        Ok(fds)
    }
}

/// The Python objects of a payload, a tuple.
pub struct Objects(pub Py<PyTuple>);

/// A payload of Python's, with its objects.
pub fn payload_of(parts: &Bound<'_, PyAny>) -> PyResult<Payload> {
    let objects = match parts.cast::<PyTuple>() {
        Ok(tuple) => tuple.clone(),
        Err(_) => match parts.cast::<PyList>() {
            Ok(list) => list.to_tuple(),
            Err(_) => PyTuple::new(parts.py(), parts.try_iter()?.collect::<PyResult<Vec<_>>>()?)?,
        },
    };
    let mut buffers = Parts::new();
    for part in objects.iter_borrowed() {
        buffers.push(buffer_of(&part)?);
    }
    let origin = Some(Arc::new(Objects(objects.unbind())) as _);
    Ok(Payload { parts: buffers, origin, ..Payload::default() })
}

fn buffer_of(part: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if let Ok(bytes) = part.cast_exact::<PyBytes>() {
        if bytes.as_bytes().is_empty() {
            return Ok(Bytes::new());
        }
        return Ok(Bytes::from_owner(PyBackedBytes::from(bytes.clone())));
    }
    let buffer = match PyBuffer::<u8>::get(part) {
        Ok(buffer) => buffer,
        // of other items than bytes
        Err(_) => {
            let view = PyMemoryView::from(part)?;
            let bytes = view.call_method0("tobytes")?.cast_into::<PyBytes>()?;
            return Ok(Bytes::from_owner(PyBackedBytes::from(bytes)));
        }
    };
    if buffer.len_bytes() < COPIED || !buffer.is_c_contiguous() {
        return Ok(Bytes::from(buffer.to_vec(part.py())?));
    }
    Ok(Held::new(buffer).map_or_else(Bytes::new, Bytes::from_owner))
}

/// What Core says of numbers that it cannot hold, and what is to be said.
pub type Aliases = Vec<(String, String)>;

/// The parcels of a route; those that share a payload share it here, too.
pub fn parcels_of(parcels: &Bound<'_, PyAny>) -> PyResult<(Vec<Parcel>, Aliases)> {
    let py = parcels.py();
    let mut found = Vec::new();
    let mut aliases = Aliases::new();
    let mut measured: Option<(Bound<'_, PyAny>, Payload)> = None;
    for parcel in parcels.try_iter()? {
        let parcel = parcel?;
        let (node, parts, handles, with_fds, mandatory, note) = match parcel.cast::<PyTuple>() {
            Ok(fields) => fields.as_any().extract::<ParcelFields<'_>>()?,
            Err(_) => (
                parcel.getattr(intern!(py, "node"))?,
                parcel.getattr(intern!(py, "parts"))?,
                parcel.getattr(intern!(py, "handles"))?,
                parcel.getattr(intern!(py, "with_fds"))?.is_truthy()?,
                parcel.getattr(intern!(py, "mandatory"))?.is_truthy()?,
                parcel.getattr(intern!(py, "note"))?.extract()?,
            ),
        };
        let payload = match &measured {
            Some((known, payload)) if known.is(&parts) => payload.clone(),
            _ => {
                let payload = payload_of(&parts)?;
                measured = Some((parts, payload.clone()));
                payload
            }
        };
        let (owner, number): (Number<'_>, Number<'_>) = node.extract()?;
        if owner.wild.is_some() || number.wild.is_some() {
            let said = format!("no node ({}, {})", owner.value, number.value);
            aliases.push((said, format!("no node ({}, {})", owner.text(), number.text())));
        }
        let handles = handles.extract::<Numbers>()?;
        if let Some(wild) = handles.wild {
            aliases.push((format!("no handle {HANDLE_INVALID:#x}"), format!("no handle {wild}")));
        }
        found.push(Parcel {
            node: (owner.value, number.value),
            payload,
            handles: handles.values.into_vec(),
            with_fds,
            mandatory,
            note,
        });
    }
    Ok((found, aliases))
}

type ParcelFields<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, bool, bool, u64);

/// `Limits` of Python.
pub fn limits_of(limits: &Bound<'_, PyAny>) -> PyResult<Limits> {
    let mut counts: Counts = [0; 4];
    for (count, name) in counts.iter_mut().zip(["slices", "handles", "inflight_bytes", "inflight_fds"]) {
        *count = limits.getattr(name)?.extract()?;
    }
    Ok(Limits(counts))
}

/// A `View` of Python.
pub fn view_of(view: &Bound<'_, PyAny>) -> PyResult<View> {
    Ok(View {
        uids: view.getattr("uids")?.extract()?,
        gids: view.getattr("gids")?.extract()?,
        pid_namespace: view.getattr("pid_namespace")?.extract()?,
    })
}

/// `Credentials` of Python.
pub fn credentials_of(who: &Bound<'_, PyAny>) -> PyResult<Credentials> {
    let secctx: Option<Vec<u8>> = who.getattr("secctx")?.extract()?;
    let beside = Beside {
        secctx: secctx.map(Bytes::from),
        pids: who.getattr("pids")?.extract()?,
        groups: who.getattr("groups")?.extract()?,
    };
    Ok(Credentials {
        uid: who.getattr("uid")?.extract()?,
        gid: who.getattr("gid")?.extract()?,
        pid: who.getattr("pid")?.extract()?,
        tid: who.getattr("tid")?.extract()?,
        beside: Some(Arc::new(beside)).filter(|beside| **beside != Beside::default()),
    })
}

const REMEMBERED: usize = 64;

type Known = Option<(Py<PyAny>, Arc<Credentials>)>;

/// Credentials that were converted before.
pub struct KnownCredentials(Mutex<Vec<Known>>);

impl KnownCredentials {
    /// Nobody's yet.
    pub fn new() -> Self {
        KnownCredentials(Mutex::new(Vec::new()))
    }

    /// Those of Python's object, which never changes.
    pub fn of(&self, who: &Bound<'_, PyAny>) -> PyResult<Arc<Credentials>> {
        let place = (who.as_ptr() as usize >> 4) % REMEMBERED;
        if let Some(Some((object, known))) = self.locked().get(place)
            && object.is(who)
        {
            return Ok(Arc::clone(known));
        }
        let found = Arc::new(credentials_of(who)?);
        let entry = Some((who.clone().unbind(), Arc::clone(&found)));
        let _former = {
            let mut known = self.locked();
            if known.is_empty() {
                known.resize_with(REMEMBERED, || None);
            }
            std::mem::replace(&mut known[place], entry)
        };
        Ok(found)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
