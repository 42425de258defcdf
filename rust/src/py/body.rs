//! Bodies for Python: values to bytes, and back.
//!
//! Theory. Values that are right, and of Python's own classes, are written and read here. Everything else gives
//! None: a value of another class, which has code of its own; a capability, a descriptor; whatever does not fit or
//! is malformed. Then `bus1_services/body.py` does it, or says what is wrong. So the two cannot disagree in words.
//!
//! Invariants. 1. Nothing outside a body is read, whatever its bytes are. 2. No code of a program runs while a
//! value is looked at.
//!
//! Not here: envelopes, signatures (`client::types`).

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::client::types as d;

/// The codec, which knows the classes of values that Python has no own class for.
#[pyclass(name = "Bodies", module = "bus1._native", frozen)]
pub struct Bodies {
    object_path: Py<PyAny>,
    variant: Py<PyAny>,
}

#[pymethods]
impl Bodies {
    #[new]
    fn new(object_path: Py<PyAny>, variant: Py<PyAny>) -> Self {
        Self { object_path, variant }
    }

    /// The body of these values, little-endian; None if not everything is everyday.
    fn encode<'py>(
        &self,
        py: Python<'py>,
        signature: &str,
        values: &Bound<'py, PyAny>,
    ) -> Option<Bound<'py, PyBytes>> {
        Some(PyBytes::new(py, &self.written(py, signature, values)?))
    }

    /// The values of a body, if it is right in every respect; None otherwise, and for capabilities and descriptors.
    fn decode<'py>(
        &self,
        py: Python<'py>,
        signature: &str,
        body: &Bound<'py, PyAny>,
        is_little: bool,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let held;
        let copied;
        let data = match body.cast_exact::<PyBytes>() {
            Ok(bytes) => {
                held = bytes.clone();
                held.as_bytes()
            }
            Err(_) => {
                copied = pyo3::buffer::PyBuffer::<u8>::get(body)?.to_vec(py)?;
                &copied
            }
        };
        Ok(self.read(py, signature.as_bytes(), data, is_little))
    }
}

impl Bodies {
    /// As `encode`.
    pub(super) fn written<'py>(
        &self,
        py: Python<'py>,
        signature: &str,
        values: &Bound<'py, PyAny>,
    ) -> Option<Vec<u8>> {
        if signature.len() > d::MAX_SIGNATURE {
            return None;
        }
        let mut writer = Writer { bodies: self, py, out: Vec::with_capacity(128) };
        writer.row(signature.as_bytes(), values, 0)?;
        Some(writer.out)
    }

    /// As `decode`.
    pub(super) fn read<'py>(
        &self,
        py: Python<'py>,
        signature: &[u8],
        data: &[u8],
        is_little: bool,
    ) -> Option<Bound<'py, PyList>> {
        let mut reader = Reader { bodies: self, py, data, at: 0, is_little };
        if !d::is_signature(signature) {
            return None;
        }
        let values = reader.row(signature, 0)?;
        let values = PyList::new(py, values).ok()?;
        (reader.at == data.len()).then_some(values)
    }
}

struct Writer<'a, 'py> {
    bodies: &'a Bodies,
    py: Python<'py>,
    out: Vec<u8>,
}

impl<'py> Writer<'_, 'py> {
    fn align(&mut self, alignment: usize) {
        self.out.resize(self.out.len().next_multiple_of(alignment), 0);
    }

    /// Values in a list or a tuple, one for each type.
    fn row(&mut self, mut signature: &[u8], values: &Bound<'py, PyAny>, depth: u32) -> Option<()> {
        let values: Vec<Bound<'py, PyAny>> = if let Ok(list) = values.cast_exact::<PyList>() {
            list.iter().collect()
        } else {
            values.cast_exact::<PyTuple>().ok()?.iter().collect()
        };
        for value in values {
            let (one, rest) = d::first_type(signature)?;
            self.value(one, &value, depth)?;
            signature = rest;
        }
        signature.is_empty().then_some(())
    }

    fn value(&mut self, signature: &[u8], value: &Bound<'py, PyAny>, depth: u32) -> Option<()> {
        let (code, inside) = signature.split_first()?;
        match code {
            b'y' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' => self.integer(*code, value),
            b'b' => {
                let flag = value.cast_exact::<PyBool>().ok()?.is_true();
                self.align(4);
                self.out.extend(u32::from(flag).to_le_bytes());
                Some(())
            }
            b'd' => {
                let number = value.cast_exact::<PyFloat>().ok()?.value();
                self.align(8);
                self.out.extend(number.to_le_bytes());
                Some(())
            }
            b's' => self.text(value.cast_exact::<PyString>().ok()?),
            b'o' => {
                let is_path = value.get_type().is(self.bodies.object_path.bind(self.py));
                let text = if is_path {
                    value.cast::<PyString>().ok()?
                } else {
                    value.cast_exact::<PyString>().ok()?
                };
                d::is_path(text.to_str().ok()?.as_bytes()).then_some(())?;
                self.text(text)
            }
            b'g' => {
                let text = value.cast_exact::<PyString>().ok()?.to_str().ok()?;
                d::is_signature(text.as_bytes()).then_some(())?;
                self.signature(text)
            }
            _ if depth >= d::MAX_DEPTH => None,
            b'v' => {
                if !value.get_type().is(self.bodies.variant.bind(self.py)) {
                    return None;
                }
                let signature = value.getattr("signature").ok()?;
                let signature = signature.cast_exact::<PyString>().ok()?.to_str().ok()?;
                d::is_single(signature.as_bytes()).then_some(())?;
                self.signature(signature)?;
                let inside = value.getattr("value").ok()?;
                self.value(signature.as_bytes(), &inside, depth + 1)
            }
            b'(' => {
                self.align(8);
                self.row(inside.split_last()?.1, value, depth + 1)
            }
            b'a' => self.array(inside, value, depth),
            _ => None,
        }
    }

    fn integer(&mut self, code: u8, value: &Bound<'py, PyAny>) -> Option<()> {
        let number = value.cast_exact::<PyInt>().ok()?;
        self.align(d::alignment(code));
        match code {
            b'y' => self.out.push(number.extract::<u8>().ok()?),
            b'n' => self.out.extend(number.extract::<i16>().ok()?.to_le_bytes()),
            b'q' => self.out.extend(number.extract::<u16>().ok()?.to_le_bytes()),
            b'i' => self.out.extend(number.extract::<i32>().ok()?.to_le_bytes()),
            b'u' => self.out.extend(number.extract::<u32>().ok()?.to_le_bytes()),
            b'x' => self.out.extend(number.extract::<i64>().ok()?.to_le_bytes()),
            _ => self.out.extend(number.extract::<u64>().ok()?.to_le_bytes()),
        }
        Some(())
    }

    fn text(&mut self, value: &Bound<'py, PyString>) -> Option<()> {
        let text = value.to_str().ok()?.as_bytes();
        if text.contains(&0) {
            return None;
        }
        self.align(4);
        self.out.extend(u32::try_from(text.len()).ok()?.to_le_bytes());
        self.out.extend(text);
        self.out.push(0);
        Some(())
    }

    fn signature(&mut self, text: &str) -> Option<()> {
        self.out.push(u8::try_from(text.len()).ok()?);
        self.out.extend(text.as_bytes());
        self.out.push(0);
        Some(())
    }

    fn array(&mut self, element: &[u8], value: &Bound<'py, PyAny>, depth: u32) -> Option<()> {
        self.align(4);
        let at = self.out.len();
        self.out.extend([0; 4]);
        let code = *element.first()?;
        self.align(d::alignment(code));
        let start = self.out.len();
        match code {
            b'y' => self.out.extend(value.cast_exact::<PyBytes>().ok()?.as_bytes()),
            b'{' => {
                let inside = element.get(1..element.len().checked_sub(1)?)?;
                let (key, item) = inside.split_at_checked(1)?;
                for (one, other) in value.cast_exact::<PyDict>().ok()?.iter() {
                    self.align(8);
                    self.value(key, &one, depth + 1)?;
                    self.value(item, &other, depth + 1)?;
                }
            }
            _ => {
                for one in value.cast_exact::<PyList>().ok()?.iter() {
                    self.value(element, &one, depth + 1)?;
                }
            }
        }
        let size = self.out.len() - start;
        if size > d::MAX_ARRAY {
            return None;
        }
        let place = self.out.get_mut(at..at + 4)?;
        place.copy_from_slice(&u32::try_from(size).ok()?.to_le_bytes());
        Some(())
    }
}

struct Reader<'a, 'py> {
    bodies: &'a Bodies,
    py: Python<'py>,
    data: &'a [u8],
    at: usize,
    is_little: bool,
}

type Value<'py> = Option<Bound<'py, PyAny>>;

impl<'a, 'py> Reader<'a, 'py> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(n)?;
        let found = self.data.get(self.at..end)?;
        self.at = end;
        Some(found)
    }

    fn align(&mut self, alignment: usize) -> Option<()> {
        let n = self.at.next_multiple_of(alignment) - self.at;
        self.take(n)?.iter().all(|byte| *byte == 0).then_some(())
    }

    /// The bytes of a number, little-endian.
    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes: [u8; N] = self.take(N)?.try_into().ok()?;
        if !self.is_little {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn length(&mut self) -> Option<usize> {
        self.align(4)?;
        Some(u32::from_le_bytes(self.number()?) as usize)
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        let (nul, text) = self.take(length.checked_add(1)?)?.split_last()?;
        if *nul != 0 || text.contains(&0) {
            return None;
        }
        std::str::from_utf8(text).ok()
    }

    fn row(&mut self, mut signature: &[u8], depth: u32) -> Option<Vec<Bound<'py, PyAny>>> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (one, rest) = d::first_type(signature)?;
            values.push(self.value(one, depth)?);
            signature = rest;
        }
        Some(values)
    }

    fn value(&mut self, signature: &[u8], depth: u32) -> Value<'py> {
        let (code, inside) = signature.split_first()?;
        match code {
            b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' => {
                self.align(d::alignment(*code))?;
                self.fixed(*code)
            }
            b's' => {
                let length = self.length()?;
                Some(PyString::new(self.py, self.text(length)?).into_any())
            }
            b'o' => {
                let length = self.length()?;
                let text = self.text(length)?;
                d::is_path(text.as_bytes()).then_some(())?;
                self.bodies.object_path.bind(self.py).call1((text,)).ok()
            }
            b'g' => {
                let length = usize::from(u8::from_le_bytes(self.number()?));
                let text = self.text(length)?;
                d::is_signature(text.as_bytes()).then_some(())?;
                Some(PyString::new(self.py, text).into_any())
            }
            _ if depth >= d::MAX_DEPTH && *code != b'a' => None,
            b'v' => {
                let length = usize::from(u8::from_le_bytes(self.number()?));
                let signature = self.text(length)?;
                d::is_single(signature.as_bytes()).then_some(())?;
                let value = self.value(signature.as_bytes(), depth + 1)?;
                let variant = self.bodies.variant.bind(self.py);
                variant.call1((signature, value)).ok()
            }
            b'(' => {
                self.align(8)?;
                let values = self.row(inside.split_last()?.1, depth + 1)?;
                Some(PyTuple::new(self.py, values).ok()?.into_any())
            }
            b'a' => self.array(inside, depth),
            _ => None,
        }
    }

    fn fixed(&mut self, code: u8) -> Value<'py> {
        let py = self.py;
        let integer = |number: i64| Some(number.into_pyobject(py).ok()?.into_any());
        match code {
            b'y' => integer(u8::from_le_bytes(self.number()?).into()),
            b'n' => integer(i16::from_le_bytes(self.number()?).into()),
            b'q' => integer(u16::from_le_bytes(self.number()?).into()),
            b'i' => Some(i32::from_le_bytes(self.number()?).into_pyobject(py).ok()?.into_any()),
            b'u' => Some(u32::from_le_bytes(self.number()?).into_pyobject(py).ok()?.into_any()),
            b'x' => Some(i64::from_le_bytes(self.number()?).into_pyobject(py).ok()?.into_any()),
            b't' => Some(u64::from_le_bytes(self.number()?).into_pyobject(py).ok()?.into_any()),
            b'd' => Some(PyFloat::new(py, f64::from_le_bytes(self.number()?)).into_any()),
            b'b' => {
                let number = u32::from_le_bytes(self.number()?);
                (number <= 1).then_some(())?;
                Some(PyBool::new(py, number == 1).to_owned().into_any())
            }
            _ => None,
        }
    }

    fn array(&mut self, element: &[u8], depth: u32) -> Value<'py> {
        let length = self.length()?;
        if length > d::MAX_ARRAY {
            return None;
        }
        let code = *element.first()?;
        self.align(d::alignment(code))?;
        if code == b'y' {
            return Some(PyBytes::new(self.py, self.take(length)?).into_any());
        }
        let end = self.at.checked_add(length)?;
        if end > self.data.len() || code == b'h' {
            return None;
        }
        if let Some(n) = length.checked_div(d::fixed_size(code)) {
            let values: Option<Vec<_>> = (0..n).map(|_| self.fixed(code)).collect();
            return (self.at == end).then_some(PyList::new(self.py, values?).ok()?.into_any());
        }
        if depth >= d::MAX_DEPTH {
            return None;
        }
        if code == b'{' {
            return self.mapping(element, end, depth + 1);
        }
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.value(element, depth + 1)?);
        }
        (self.at == end).then_some(PyList::new(self.py, values).ok()?.into_any())
    }

    fn mapping(&mut self, entry: &[u8], end: usize, depth: u32) -> Value<'py> {
        let inside = entry.get(1..entry.len().checked_sub(1)?)?;
        let (key, item) = inside.split_at_checked(1)?;
        let found = PyDict::new(self.py);
        if self.at < end && depth >= d::MAX_DEPTH {
            return None;
        }
        while self.at < end {
            self.align(8)?;
            let one = self.value(key, depth + 1)?;
            let other = self.value(item, depth + 1)?;
            found.set_item(one, other).ok()?;
        }
        (self.at == end).then_some(found.into_any())
    }
}
