//! The binding: the only module that knows Python. One file for each noun that Python sees.

mod answers;
mod arguments;
pub mod core;
pub mod locking;
pub mod memory;
mod poller;
mod server;

use pyo3::prelude::*;

/// The module `bus1._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<core::Core>()?;
    module.add_class::<memory::HeapMemory>()?;
    module.add_class::<memory::SealedMemory>()?;
    module.add_class::<memory::Segment>()?;
    module.add_class::<poller::Poller>()?;
    module.add_class::<server::Server>()?;
    module.add_class::<crate::sys::buffers::Shown>()?;
    Ok(())
}
