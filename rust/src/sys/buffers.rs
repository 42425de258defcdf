//! Buffers that cross between Python and Rust without being copied.
//!
//! Theory. `Held` is a buffer of a Python object, kept as long as somebody reads it here; `Shown` is memory of ours that
//! Python may read. Either keeps the other side's memory alive, and nobody writes to it: who sends a buffer
//! promises not to change it any more (`bus1/core/api.py`).

use std::os::raw::c_int;

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::ffi;
use pyo3::prelude::*;

/// The bytes of a Python object with a contiguous buffer.
pub struct Held(PyBuffer<u8>);

impl Held {
    /// None if its bytes do not lie side by side.
    pub fn new(buffer: PyBuffer<u8>) -> Option<Self> {
        buffer.is_c_contiguous().then_some(Held(buffer))
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        let size = self.0.len_bytes();
        if size == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps the memory in place until the buffer is released, which is when this value is
        // dropped; it is contiguous. Who sends a buffer does not change it afterwards; should it do so all the same,
        // the bytes are wrong, which nobody here relies upon, as they are copied or written out as they are.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), size) }
    }
}

/// Bytes of the bus that Python may read.
#[pyclass(frozen, module = "bus1._native")]
pub struct Shown(Bytes);

impl Shown {
    /// They stay as long as this does.
    pub fn new(data: Bytes) -> Self {
        Shown(data)
    }
}

#[pymethods]
impl Shown {
    fn __len__(&self) -> usize {
        self.0.len()
    }

    // SAFETY: Python alone calls it, with a view that is to be filled.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let data = &slf.get().0;
        let start = data.as_ptr().cast_mut().cast();
        // SAFETY: Python passes a view to fill. It gets a reference to the owner, which never changes its bytes, and is
        // told that they are read-only.
        let result =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, data.len() as isize, 1, flags) };
        if result < 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }
}
