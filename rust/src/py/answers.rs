//! What Core answers, as Python knows it.
//!
//! Theory. The classes of `bus1.core.api` and `bus1.errors` are looked up once. A named tuple is made as its own class makes
//! it, without a call of Python code. Everything is made after Core is unlocked: making objects may run the
//! garbage collector, and with it anything.
//!
//! Not here: arguments (`arguments`).

use bytes::Bytes;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PyMemoryView, PyTuple, PyType};

use super::arguments::Objects;
use crate::core::value::Value;
use crate::core::{self, Error, Kind, Look, Message, MessageType, Payload, PeerState, Usage, UserUsage};
use crate::sys::buffers::Shown;

/// Buffers of at most so many bytes are copied for Python.
const COPIED: usize = 4096;
const KINDS: [(Kind, &str); 15] = [
    (Kind::WouldBlock, "WouldBlock"),
    (Kind::InvalidArgument, "InvalidArgument"),
    (Kind::NoSuchHandle, "NoSuchHandle"),
    (Kind::TooLarge, "TooLarge"),
    (Kind::Busy, "Busy"),
    (Kind::NotUnique, "NotUnique"),
    (Kind::ForeignNode, "ForeignNode"),
    (Kind::AlreadyDestroyed, "AlreadyDestroyed"),
    (Kind::OutOfRange, "OutOfRange"),
    (Kind::QuotaExceeded, "QuotaExceeded"),
    (Kind::OutOfMemory, "OutOfMemory"),
    (Kind::PoolFull, "PoolFull"),
    (Kind::NodeDestroyed, "NodeDestroyed"),
    (Kind::PeerShutdown, "PeerShutdown"),
    (Kind::Internal, "InternalError"),
];

/// The classes.
pub struct Classes {
    new_tuple: Py<PyAny>,
    message: Py<PyAny>,
    ahead: Py<PyAny>,
    usage: Py<PyAny>,
    user_usage: Py<PyAny>,
    peer_state: Py<PyAny>,
    limits: Py<PyAny>,
    types: Vec<Py<PyAny>>,
    flags: Vec<Py<PyAny>>,
    errors: Vec<(Kind, Py<PyType>)>,
}

impl Classes {
    fn load(py: Python<'_>) -> PyResult<Self> {
        let api = py.import("bus1.core.api")?;
        let errors = py.import("bus1.errors")?;
        let class = |name: &str| api.getattr(name).map(Bound::unbind);
        let members = |name: &str, n: u8| -> PyResult<Vec<Py<PyAny>>> {
            let class = api.getattr(name)?;
            (0..n).map(|number| class.call1((number,)).map(Bound::unbind)).collect()
        };
        let error = |(kind, name): &(Kind, &str)| -> PyResult<(Kind, Py<PyType>)> {
            Ok((*kind, errors.getattr(*name)?.cast_into::<PyType>()?.unbind()))
        };
        Ok(Classes {
            new_tuple: py.get_type::<PyTuple>().getattr("__new__")?.unbind(),
            message: class("Message")?,
            ahead: class("Ahead")?,
            usage: class("Usage")?,
            user_usage: class("UserUsage")?,
            peer_state: class("PeerState")?,
            limits: class("Limits")?,
            types: members("MessageType", 4)?,
            flags: members("MessageFlag", 4)?,
            errors: KINDS.iter().map(error).collect::<PyResult<_>>()?,
        })
    }

    /// Looked up once in this process.
    pub fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();
        CLASSES.get_or_try_init(py, || Classes::load(py))
    }

    fn tuple<'py>(
        &self,
        py: Python<'py>,
        class: &Py<PyAny>,
        fields: Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.new_tuple.bind(py).call1((class, fields))
    }

    /// A `MessageType`.
    pub fn kind<'py>(&self, py: Python<'py>, kind: MessageType) -> &Bound<'py, PyAny> {
        self.types[kind as usize].bind(py)
    }

    /// A `MessageFlag`.
    pub fn flags<'py>(&self, py: Python<'py>, bits: u32) -> &Bound<'py, PyAny> {
        self.flags[bits as usize & 3].bind(py)
    }

    /// The exception for an error of Core.
    pub fn exception(&self, py: Python<'_>, error: Error) -> PyErr {
        if let Some(cause) = error.cause
            && let Ok(raised) = cause.downcast::<PyErr>()
        {
            return *raised;
        }
        match self.errors.iter().find(|(kind, _)| *kind == error.kind) {
            Some((_, class)) => PyErr::from_type(class.bind(py).clone(), (error.text.into_owned(),)),
            None => PyErr::new::<PyBaseException, _>(error.text.into_owned()),
        }
    }

    /// The error of Core for an exception, which it keeps.
    pub fn error(&self, py: Python<'_>, raised: PyErr) -> Error {
        let is_a = |class: &Py<PyType>| raised.is_instance(py, class.bind(py));
        let found = self.errors.iter().find(|(_, class)| is_a(class));
        Error {
            kind: found.map_or(Kind::Foreign, |(kind, _)| *kind),
            text: raised.to_string().into(),
            cause: Some(Box::new(raised)),
        }
    }

    /// A `Message`.
    pub fn message<'py>(&self, py: Python<'py>, message: Message) -> PyResult<Bound<'py, PyAny>> {
        let secctx = message.secctx.map(|label| PyBytes::new(py, &label));
        let fields = [
            self.kind(py, message.kind).clone(),
            self.flags(py, message.flags).clone(),
            integer(py, message.destination)?,
            integer(py, message.uid)?,
            integer(py, message.gid)?,
            integer(py, message.pid)?,
            integer(py, message.tid)?,
            integer(py, message.offset)?,
            integer(py, message.n_bytes)?,
            PyTuple::new(py, message.handles)?.into_any(),
            PyTuple::new(py, message.fds)?.into_any(),
            secctx.into_bound_py_any(py)?,
            integer(py, message.size)?,
            integer(py, message.serial)?,
        ];
        self.tuple(py, &self.message, PyTuple::new(py, fields)?)
    }

    /// An `Ahead`.
    pub fn ahead<'py>(&self, py: Python<'py>, seen: Seen) -> PyResult<Bound<'py, PyAny>> {
        let fields = [
            self.kind(py, seen.kind).clone(),
            integer(py, seen.destination)?,
            integer(py, seen.sender)?,
            integer(py, seen.offset)?,
            integer(py, seen.n_bytes)?,
            integer(py, seen.size)?,
            integer(py, seen.n_handles)?,
            PyTuple::new(py, seen.fds)?.into_any(),
            objects_of(py, &seen.payload)?.into_any(),
            integer(py, seen.note)?,
            integer(py, seen.stamp)?,
        ];
        self.tuple(py, &self.ahead, PyTuple::new(py, fields)?)
    }

    /// A `Usage`.
    pub fn usage<'py>(&self, py: Python<'py>, usage: Usage) -> PyResult<Bound<'py, PyAny>> {
        let fields = PyTuple::new(py, [usage.bytes, usage.messages, usage.fds])?;
        self.tuple(py, &self.usage, fields)
    }

    /// A `UserUsage`.
    pub fn user_usage<'py>(&self, py: Python<'py>, user: &UserUsage) -> PyResult<Bound<'py, PyAny>> {
        let shares = PyDict::new(py);
        for (uid, counts) in &user.shares {
            shares.set_item(uid, PyTuple::new(py, counts)?)?;
        }
        let fields = (PyTuple::new(py, user.used)?, PyTuple::new(py, user.limits)?, shares);
        self.tuple(py, &self.user_usage, fields.into_pyobject(py)?)
    }

    /// A `PeerState`.
    pub fn peer_state<'py>(&self, py: Python<'py>, state: PeerState) -> PyResult<Bound<'py, PyAny>> {
        let limits = self.limits.bind(py).call1(PyTuple::new(py, state.limits.0)?)?;
        self.peer_state.bind(py).call1((state.flags, limits))
    }
}

/// A look at an entry that can be kept.
pub struct Seen {
    kind: MessageType,
    destination: u64,
    sender: u64,
    offset: u64,
    n_bytes: usize,
    size: u64,
    n_handles: usize,
    fds: Vec<i32>,
    payload: Payload,
    note: u64,
    stamp: u64,
}

impl Seen {
    /// What a memory of Python shows of the payload.
    pub fn complete(&mut self, core: &core::Core, peer: u64) -> core::Result<()> {
        if let Some(payload) = core.foreign_payload(peer, self.offset) {
            self.payload = payload?;
        }
        Ok(())
    }
}

impl From<Look<'_>> for Seen {
    fn from(look: Look<'_>) -> Self {
        let origin = look.origin.cloned();
        let is_known = origin.as_ref().is_some_and(|origin| origin.is::<Objects>());
        Seen {
            kind: look.kind,
            destination: look.destination,
            sender: look.sender,
            offset: look.offset,
            n_bytes: look.n_bytes,
            size: look.size,
            n_handles: look.n_handles,
            fds: look.fds.to_vec(),
            payload: Payload {
                parts: if is_known { Default::default() } else { look.parts.into() },
                origin,
                ..Payload::default()
            },
            note: look.note,
            stamp: look.stamp,
        }
    }
}

fn integer<'py, T>(py: Python<'py>, number: T) -> PyResult<Bound<'py, PyAny>>
where
    T: IntoPyObject<'py, Target = PyInt, Output = Bound<'py, PyInt>>,
    PyErr: From<T::Error>,
{
    Ok(number.into_pyobject(py)?.into_any())
}

/// The Python objects that a payload came in; or its bytes, the large ones without a copy.
pub fn objects_of<'py>(py: Python<'py>, payload: &Payload) -> PyResult<Bound<'py, PyTuple>> {
    if let Some(origin) = &payload.origin
        && let Some(objects) = origin.downcast_ref::<Objects>()
    {
        return Ok(objects.0.bind(py).clone());
    }
    let shown = |part: &Bytes| -> PyResult<Bound<'py, PyAny>> {
        if part.len() <= COPIED {
            return Ok(PyBytes::new(py, part).into_any());
        }
        let buffer = Bound::new(py, Shown::new(part.clone()))?;
        Ok(PyMemoryView::from(buffer.as_any())?.into_any())
    };
    PyTuple::new(py, payload.parts.iter().map(shown).collect::<PyResult<Vec<_>>>()?)
}

/// Plain data.
pub fn plain<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::None => Ok(py.None().into_bound(py)),
        Value::Bool(value) => value.into_bound_py_any(py),
        Value::Int(value) => value.into_bound_py_any(py),
        Value::Text(value) => value.into_bound_py_any(py),
        Value::Bytes(value) => Ok(PyBytes::new(py, value).into_any()),
        Value::List(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(plain(py, item)?)?;
            }
            Ok(list.into_any())
        }
        Value::Dict(items) => {
            let dict = PyDict::new(py);
            for (key, item) in items {
                dict.set_item(plain(py, key)?, plain(py, item)?)?;
            }
            Ok(dict.into_any())
        }
    }
}
