//! The D-Bus codec for Python: `wire` and `walk` put these in the place of their own.
//!
//! Theory. A message comes as bytes, bytearray or memoryview, and is looked at where it lies. What is found
//! wrong becomes the exception that the Python twin raises, with the same text. A header's texts are few and
//! come again and again, so a bounded table keeps them as strings: they need not be made and hashed each time.
//!
//! Invariants. 1. No Python code runs while a message is looked at: paths are handed over in between.
//!
//! Not here: the codec (`crate::dbus`).

use std::cell::RefCell;
use std::collections::HashMap;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyKeyError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyInt, PyList, PyString, PyType};
use pyo3::{import_exception, intern};

use crate::dbus::body::{Pause, check_body_with};
use crate::dbus::{self, Argument, Endian, Fault, Malformed, Outgoing, Span, TooLarge, signature};
use crate::sys;

import_exception!(bus1.errors, RemoteProtocolError);
import_exception!(bus1_services.types, SignatureInvalid);

mod errors {
    pyo3::import_exception!(bus1.errors, TooLarge);
}

/// A body up to this size is copied, as the twin does it; a larger one is looked at where it lies.
const COPIED: usize = 1 << 20;
/// How many texts of headers are kept, and how long they may be.
const TEXTS: usize = 4096;
const TEXT_MAX: usize = dbus::MAX_NAME;
/// As `n_fds`: any index of a descriptor will do.
const ANY_FD: i64 = 1 << 32;

impl From<Malformed> for PyErr {
    fn from(Malformed(text, fault): Malformed) -> Self {
        match fault {
            Fault::Message => RemoteProtocolError::new_err(text),
            Fault::Signature => SignatureInvalid::new_err(text),
        }
    }
}

impl From<TooLarge> for PyErr {
    fn from(_: TooLarge) -> Self {
        errors::TooLarge::new_err(TooLarge::TEXT)
    }
}

/// Does something with the bytes of a buffer; it must not run Python code.
fn with_bytes<R>(data: &Bound<'_, PyAny>, action: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return Ok(action(bytes.as_bytes()));
    }
    in_buffer(data.py(), &PyBuffer::get(data)?, action)
}

fn in_buffer<R>(py: Python<'_>, buffer: &PyBuffer<u8>, action: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    sys::with_buffer(py, buffer, action).ok_or_else(|| PyBufferError::new_err("the buffer is not contiguous"))
}

fn endian_of(endian: &str) -> PyResult<Endian> {
    match endian {
        "l" => Ok(Endian::Little),
        "B" => Ok(Endian::Big),
        _ => Err(PyKeyError::new_err(endian.to_owned())),
    }
}

/// A signature; what is not ASCII is none, and the twin says so.
fn signature_of<'a>(signature: &'a Bound<'_, PyString>) -> PyResult<&'a str> {
    match signature.to_str() {
        Ok(text) if text.is_ascii() => Ok(text),
        _ => {
            static PARSE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let py = signature.py();
            PARSE.import(py, "bus1_services.types", "parse")?.call1((signature,))?;
            Err(SignatureInvalid::new_err("a signature is not ASCII"))
        }
    }
}

thread_local! {
    static KNOWN: RefCell<HashMap<Box<[u8]>, Py<PyString>, ahash::RandomState>> = RefCell::default();
}

/// The string of a text that is ASCII.
fn text_of(py: Python<'_>, text: &[u8]) -> Py<PyString> {
    if text.len() > TEXT_MAX {
        return latin_1(py, text).unbind();
    }
    KNOWN.with_borrow_mut(|known| {
        if let Some(string) = known.get(text) {
            return string.clone_ref(py);
        }
        let string = latin_1(py, text).unbind();
        if known.len() >= TEXTS {
            known.clear();
        }
        known.insert(text.into(), string.clone_ref(py));
        string
    })
}

/// A header that was found valid; `header_length` counts the padding behind it.
#[pyclass(frozen, module = "bus1._native")]
pub struct Header {
    header: dbus::Header,
    #[pyo3(get)]
    endian: Py<PyString>,
    #[pyo3(get, name = "type")]
    kind: Py<PyInt>,
    #[pyo3(get)]
    flags: Py<PyInt>,
    #[pyo3(get)]
    serial: Py<PyInt>,
    #[pyo3(get)]
    body_length: Py<PyInt>,
    #[pyo3(get)]
    fields_length: Py<PyInt>,
    #[pyo3(get)]
    header_length: Py<PyInt>,
    #[pyo3(get)]
    path: Py<PyAny>,
    #[pyo3(get)]
    interface: Py<PyAny>,
    #[pyo3(get)]
    member: Py<PyAny>,
    #[pyo3(get)]
    error_name: Py<PyAny>,
    #[pyo3(get)]
    reply_serial: Py<PyInt>,
    #[pyo3(get)]
    destination: Py<PyAny>,
    #[pyo3(get)]
    sender: Py<PyAny>,
    #[pyo3(get)]
    signature: Py<PyString>,
    #[pyo3(get)]
    unix_fds: Py<PyInt>,
    #[pyo3(get)]
    has_unknown_fields: Py<PyBool>,
}

impl Header {
    fn new(py: Python<'_>, message: &[u8], header: dbus::Header) -> Self {
        let text = |span: Span| {
            if span.is_some() { text_of(py, span.bytes(message)).into_any() } else { py.None() }
        };
        let number = |number: u32| PyInt::new(py, number).unbind();
        let endian = match header.endian {
            Endian::Little => intern!(py, "l"),
            Endian::Big => intern!(py, "B"),
        };
        Self {
            endian: endian.clone().unbind(),
            kind: number(header.kind.into()),
            flags: number(header.flags.into()),
            serial: number(header.serial),
            body_length: number(header.body_length),
            fields_length: number(header.fields_length),
            header_length: PyInt::new(py, header.header_length).unbind(),
            path: text(header.path_span),
            interface: text(header.interface_span),
            member: text(header.member_span),
            error_name: text(header.error_name_span),
            reply_serial: number(header.reply_serial),
            destination: text(header.destination_span),
            sender: text(header.sender_span),
            signature: text_of(py, header.signature_span.bytes(message)),
            unix_fds: number(header.unix_fds),
            has_unknown_fields: PyBool::new(py, header.has_unknown_fields).to_owned().unbind(),
            header,
        }
    }
}

/// Length of the message that starts here; None for fewer than 16 bytes; RemoteProtocolError.
#[pyfunction]
fn frame_length(data: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    Ok(with_bytes(data, dbus::frame_length)??)
}

/// The header of a message, of which at least the header is there. RemoteProtocolError.
#[pyfunction]
fn parse_header(py: Python<'_>, message: &Bound<'_, PyAny>) -> PyResult<Header> {
    // making strings runs no Python code
    with_bytes(message, |message| Ok(Header::new(py, message, dbus::parse(message)?)))?
}

/// The header to forward, with padding; TooLarge if the message would exceed the protocol's limit.
#[pyfunction]
fn stamp_header<'py>(
    py: Python<'py>,
    message: &Bound<'py, PyAny>,
    header: &Bound<'py, Header>,
    sender: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut out = Vec::new();
    with_bytes(message, |message| dbus::stamp(message, &header.get().header, sender.as_bytes(), &mut out))??;
    Ok(PyBytes::new(py, &out))
}

/// A header with its padding; fields that are None, 0 or empty are left out. Nothing is checked.
#[pyfunction]
#[pyo3(signature = (
    r#type, *, endian="l", flags=0, serial, body_length=0, path=None, interface=None, member=None,
    error_name=None, reply_serial=0, destination=None, sender=None, signature="", unix_fds=0,
))]
#[allow(clippy::too_many_arguments)]
fn build_header<'py>(
    py: Python<'py>,
    r#type: u8,
    endian: &str,
    flags: u8,
    serial: u32,
    body_length: u32,
    path: Option<&str>,
    interface: Option<&str>,
    member: Option<&str>,
    error_name: Option<&str>,
    reply_serial: u32,
    destination: Option<&str>,
    sender: Option<&str>,
    signature: &str,
    unix_fds: u32,
) -> PyResult<Bound<'py, PyBytes>> {
    let endian = endian_of(endian)?;
    let header = dbus::build(&Outgoing {
        endian,
        kind: r#type,
        flags,
        serial,
        body_length,
        path,
        interface,
        member,
        error_name,
        reply_serial,
        destination,
        sender,
        signature,
        unix_fds,
    });
    Ok(PyBytes::new(py, &header))
}

enum Body {
    Whole(Py<PyBytes>),
    Copy(Vec<u8>),
    View(PyBuffer<u8>),
}

/// The check of one body against its signature; `step` until it is done.
#[pyclass(module = "bus1._native")]
pub struct BodyCheck {
    check: dbus::BodyCheck,
    body: Body,
    paths: Option<Py<PyAny>>,
    /// Of the budget of the last step, once the check is done.
    #[pyo3(get)]
    left: i64,
}

#[pymethods]
impl BodyCheck {
    /// RemoteProtocolError for a bad signature. `paths` collects the object paths on the way.
    #[new]
    #[pyo3(signature = (signature, body, endian, n_fds, paths=None))]
    fn new(
        signature: &Bound<'_, PyString>,
        body: &Bound<'_, PyAny>,
        endian: &str,
        n_fds: i64,
        paths: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let check = dbus::BodyCheck::new(signature_of(signature)?, endian_of(endian)?, fds_of(n_fds))?;
        let check = if paths.is_some() { check.with_paths() } else { check };
        let body = if let Ok(bytes) = body.cast::<PyBytes>() {
            Body::Whole(bytes.clone().unbind())
        } else {
            let buffer = PyBuffer::get(body)?;
            if buffer.len_bytes() <= COPIED {
                Body::Copy(buffer.to_vec(body.py())?)
            } else {
                Body::View(buffer)
            }
        };
        Ok(Self { check, body, paths, left: 0 })
    }

    /// Go on for about `budget` bytes; True once the body is found valid. RemoteProtocolError.
    fn step(&mut self, py: Python<'_>, budget: i64) -> PyResult<bool> {
        let mut left = budget;
        loop {
            let mut path = None;
            let check = &mut self.check;
            let mut go_on = |body: &[u8]| {
                let pause = check.go_on(body, left)?;
                if let Pause::Path(first, last) = pause {
                    path = Some(latin_1(py, body.get(first..last).unwrap_or_default()));
                }
                Ok::<_, Malformed>(pause)
            };
            let pause = match &self.body {
                Body::Whole(body) => go_on(body.as_bytes(py)),
                Body::Copy(body) => go_on(body),
                Body::View(body) => in_buffer(py, body, go_on)?,
            }?;
            left = self.check.left;
            match (pause, path, &self.paths) {
                (Pause::Path(..), Some(path), Some(paths)) => {
                    paths.call_method1(py, intern!(py, "append"), (path,))?;
                }
                (Pause::Done, ..) => {
                    self.left = left;
                    return Ok(true);
                }
                (Pause::Budget, ..) => return Ok(false),
                _ => {}
            }
        }
    }
}

/// A text that is not checked to its end yet: each byte is a character.
fn latin_1<'py>(py: Python<'py>, text: &[u8]) -> Bound<'py, PyString> {
    match std::str::from_utf8(text) {
        Ok(text) if text.is_ascii() => PyString::new(py, text),
        _ => PyString::new(py, &text.iter().map(|byte| char::from(*byte)).collect::<String>()),
    }
}

fn fds_of(n_fds: i64) -> Option<u32> {
    if n_fds >= ANY_FD { None } else { Some(u32::try_from(n_fds).unwrap_or(0)) }
}

/// The whole check at once; RemoteProtocolError.
#[pyfunction]
fn check_body(
    signature: &Bound<'_, PyString>,
    body: &Bound<'_, PyAny>,
    endian: &str,
    n_fds: i64,
) -> PyResult<()> {
    let (signature, endian) = (signature_of(signature)?.as_bytes(), endian_of(endian)?);
    Ok(with_bytes(body, |body| check_body_with(signature, body, endian, fds_of(n_fds)))??)
}

/// The first arguments of a valid body as match rules see them: strings, object paths, None for others.
#[pyfunction]
#[pyo3(signature = (signature, body, endian, limit=dbus::arguments::LIMIT))]
fn arguments<'py>(
    py: Python<'py>,
    signature: &Bound<'py, PyString>,
    body: &Bound<'py, PyAny>,
    endian: &str,
    limit: usize,
) -> PyResult<Bound<'py, PyList>> {
    static OBJECT_PATH: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let (signature, endian) = (signature_of(signature)?.as_bytes(), endian_of(endian)?);
    signature::validate(signature)?;
    let mut values: Vec<(Bound<'py, PyAny>, bool)> = Vec::new();
    with_bytes(body, |body| {
        let mut found = Vec::new();
        dbus::arguments_up_to(limit, signature, body, endian, &mut found);
        values.extend(found.into_iter().map(|argument| match argument {
            Argument::Text(text) => (PyString::new(py, text).into_any(), false),
            Argument::Path(text) => (PyString::new(py, text).into_any(), true),
            Argument::Other => (py.None().into_bound(py), false),
        }));
    })?;
    for (value, is_path) in &mut values {
        if *is_path {
            *value = OBJECT_PATH.import(py, "bus1_services.types", "ObjectPath")?.call1((&*value,))?;
        }
    }
    PyList::new(py, values.into_iter().map(|(value, _)| value))
}

/// Puts all of it into the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Header>()?;
    module.add_class::<BodyCheck>()?;
    module.add_function(wrap_pyfunction!(build_header, module)?)?;
    module.add_function(wrap_pyfunction!(frame_length, module)?)?;
    module.add_function(wrap_pyfunction!(parse_header, module)?)?;
    module.add_function(wrap_pyfunction!(stamp_header, module)?)?;
    module.add_function(wrap_pyfunction!(check_body, module)?)?;
    module.add_function(wrap_pyfunction!(arguments, module)?)
}
