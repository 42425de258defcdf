//! Memories as Python sees them: `SealedMemory`, `HeapMemory`; and those of Python, as Core sees them.
//!
//! Theory. Core writes to a native memory by itself; who made it looks into it. A memory in Python is called through its
//! methods, while Core is locked: it must not call Core.
//!
//! Not here: what memories do (`core::backing`, `memory`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyAssertionError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::answers::{Classes, objects_of};
use super::arguments::payload_of;
use crate::core::{Board, Error, Foreign, Memory, Payload};
use crate::memory::Sealed;

/// One memfd of a sealed pool; it belongs to its `SealedMemory`.
#[pyclass(frozen, get_all, module = "bus1._native")]
pub struct Segment {
    generation: u64,
    base: u32,
    size: u32,
    fd: i32,
}

impl From<&crate::memory::Segment> for Segment {
    fn from(segment: &crate::memory::Segment) -> Self {
        Segment { generation: segment.generation, base: segment.base, size: segment.size, fd: segment.fd() }
    }
}

/// The pool of a peer in another process: sealed memfds.
#[pyclass(frozen, module = "bus1._native")]
#[derive(Default)]
pub struct SealedMemory {
    sealed: Arc<Mutex<Sealed>>,
}

impl SealedMemory {
    /// What Core, and the lanes, write to.
    pub fn shared(&self) -> Arc<Mutex<Sealed>> {
        Arc::clone(&self.sealed)
    }

    fn locked(&self) -> MutexGuard<'_, Sealed> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl SealedMemory {
    #[classattr]
    #[pyo3(name = "shares_buffers")]
    const SHARES_BUFFERS: bool = false;

    #[new]
    fn new() -> Self {
        SealedMemory::default()
    }

    /// Make a sealed memfd of `size` bytes, without pages yet; OutOfMemory.
    fn open_segment(&self, py: Python<'_>, generation: u64, base: u32, size: u32) -> PyResult<()> {
        let result = self.locked().open_segment(generation, base, size);
        result.map_err(|error| raised(py, error))
    }

    /// Unmap and close; the client's own mapping stays valid memory (L-12).
    fn close_segment(&self, py: Python<'_>, generation: u64) -> PyResult<()> {
        let result = self.locked().close_segment(generation);
        result.map_err(|error| raised(py, error))
    }

    /// Allocate the pages of [offset, offset+size) that do not exist yet; OutOfMemory.
    fn reserve(&self, py: Python<'_>, generation: u64, offset: u32, size: u32) -> PyResult<()> {
        let result = self.locked().reserve(generation, offset, size);
        result.map_err(|error| raised(py, error))
    }

    /// Copy the parts into the segment, one behind the other.
    fn write(&self, generation: u64, offset: u32, parts: &Bound<'_, PyAny>) -> PyResult<()> {
        let payload = payload_of(parts)?;
        let result = self.locked().write(generation, offset, &payload.parts, 0);
        result.map_err(|error| raised(parts.py(), error))
    }

    /// Nothing: only the peer reads its pool.
    fn read<'py>(&self, py: Python<'py>, offset: u64) -> Bound<'py, PyTuple> {
        let _ = offset;
        PyTuple::empty(py)
    }

    /// Nothing to forget: the pages serve the next slice.
    fn release(&self, generation: u64, offset: u32, size: u32) {
        let _ = (generation, offset, size);
    }

    /// The segment in which `offset` lies.
    fn segment_at(&self, offset: u64) -> Option<Segment> {
        self.locked().segment_at(offset).map(Segment::from)
    }

    /// The segment with this generation number, while it exists.
    fn segment(&self, generation: u64) -> Option<Segment> {
        self.locked().segment(generation).map(Segment::from)
    }

    /// A copy of the bytes [offset, offset+size) of one segment.
    fn contents<'py>(&self, py: Python<'py>, offset: u64, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        let copy = self.locked().contents(offset, size);
        let copy = copy.ok_or_else(|| PyAssertionError::new_err(()))?;
        Ok(PyBytes::new(py, &copy))
    }
}

/// The pool of a peer inside the bus process: references to the senders' buffers.
#[pyclass(frozen, module = "bus1._native")]
#[derive(Default)]
pub struct HeapMemory {
    board: Arc<Board>,
}

#[pymethods]
impl HeapMemory {
    #[classattr]
    #[pyo3(name = "shares_buffers")]
    const SHARES_BUFFERS: bool = true;

    #[new]
    fn new() -> Self {
        HeapMemory::default()
    }

    /// Nothing to do: the heap grows by itself.
    fn open_segment(&self, generation: u64, base: u32, size: u32) {
        let _ = (generation, base, size);
    }

    /// Nothing to do: released slices are gone already.
    fn close_segment(&self, generation: u64) {
        let _ = generation;
    }

    /// Nothing to do: the buffers exist already.
    fn reserve(&self, generation: u64, offset: u32, size: u32) {
        let _ = (generation, offset, size);
    }

    /// Keep `parts`; the caller must not change them any more.
    fn write(&self, generation: u64, offset: u32, parts: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = generation;
        self.board.write(offset, payload_of(parts)?);
        Ok(())
    }

    /// The buffers of the slice at `offset`, as they were written.
    fn read<'py>(&self, py: Python<'py>, offset: u64) -> PyResult<Bound<'py, PyTuple>> {
        let found = u32::try_from(offset).ok().and_then(|offset| self.board.read(offset));
        found.map_or_else(|| Ok(PyTuple::empty(py)), |payload| objects_of(py, &payload))
    }

    /// Forget the buffers of the slice at `offset`.
    fn release(&self, generation: u64, offset: u32, size: u32) {
        let _ = (generation, size);
        self.board.release(offset);
    }
}

/// A memory in Python.
pub struct PyMemory {
    object: Py<PyAny>,
    shares_buffers: bool,
}

impl PyMemory {
    fn call(&self, method: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<()>) -> crate::core::Result<()> {
        Python::attach(|py| {
            method(self.object.bind(py)).map_err(|error| match Classes::get(py) {
                Ok(classes) => classes.error(py, error),
                Err(other) => foreign(other),
            })
        })
    }
}

fn foreign(raised: PyErr) -> Error {
    Error { cause: Some(Box::new(raised)), ..Error::new(crate::core::Kind::Foreign, "") }
}

impl Foreign for PyMemory {
    fn shares_buffers(&self) -> bool {
        self.shares_buffers
    }

    fn open_segment(&mut self, generation: u64, base: u32, size: u32) -> crate::core::Result<()> {
        self.call(|memory| {
            let name = intern!(memory.py(), "open_segment");
            memory.call_method1(name, (generation, base, size)).map(|_| ())
        })
    }

    fn close_segment(&mut self, generation: u64) -> crate::core::Result<()> {
        self.call(|memory| {
            let name = intern!(memory.py(), "close_segment");
            memory.call_method1(name, (generation,)).map(|_| ())
        })
    }

    fn reserve(&mut self, generation: u64, offset: u32, size: u32) -> crate::core::Result<()> {
        self.call(|memory| {
            let name = intern!(memory.py(), "reserve");
            memory.call_method1(name, (generation, offset, size)).map(|_| ())
        })
    }

    fn write(
        &mut self,
        generation: u64,
        offset: u32,
        payload: &Payload,
        padding: usize,
    ) -> crate::core::Result<()> {
        self.call(|memory| {
            let py = memory.py();
            let mut parts = objects_of(py, payload)?;
            if padding != 0 {
                let zeros = PyBytes::new(py, &[0; 8][..padding.min(8)]);
                parts = parts.as_sequence().concat((zeros,).into_pyobject(py)?.as_sequence())?.to_tuple()?;
            }
            let name = intern!(py, "write");
            memory.call_method1(name, (generation, offset, parts)).map(|_| ())
        })
    }

    fn release(&mut self, generation: u64, offset: u32, size: u32) -> crate::core::Result<()> {
        self.call(|memory| {
            let name = intern!(memory.py(), "release");
            memory.call_method1(name, (generation, offset, size)).map(|_| ())
        })
    }

    fn read(&self, offset: u32) -> crate::core::Result<Payload> {
        let mut payload = Payload::default();
        self.call(|memory| {
            payload = payload_of(&memory.call_method1(intern!(memory.py(), "read"), (offset,))?)?;
            Ok(())
        })?;
        Ok(payload)
    }
}

/// What Core is to use for a memory that Python passes.
pub fn memory_of(memory: Option<&Bound<'_, PyAny>>) -> PyResult<Memory> {
    let Some(memory) = memory else {
        return Ok(Memory::Heap(None));
    };
    if let Ok(heap) = memory.cast::<HeapMemory>() {
        return Ok(Memory::Heap(Some(Arc::clone(&heap.get().board))));
    }
    if let Ok(sealed) = memory.cast::<SealedMemory>() {
        return Ok(Memory::Sealed(sealed.get().shared()));
    }
    Ok(Memory::Foreign(Box::new(Box::new(PyMemory {
        shares_buffers: memory.getattr(intern!(memory.py(), "shares_buffers"))?.is_truthy()?,
        object: memory.clone().unbind(),
    }))))
}

/// The exception for an error of Core.
pub fn raised(py: Python<'_>, error: Error) -> PyErr {
    match Classes::get(py) {
        Ok(classes) => classes.exception(py, error),
        Err(other) => other,
    }
}
