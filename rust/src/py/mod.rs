//! The binding: the only module that knows Python. One file for each noun that Python sees.

mod lane;
mod lock;
mod answers;
mod arguments;
pub mod core;
pub mod memory;
mod policy;
mod dbus;
mod poller;
mod tables;

use pyo3::prelude::*;

/// The module `bus1._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<core::Core>()?;
    module.add_class::<memory::HeapMemory>()?;
    module.add_class::<memory::SealedMemory>()?;
    module.add_class::<memory::Segment>()?;
    module.add_class::<lane::PyDbusLane>()?;
    module.add_class::<poller::Poller>()?;
    module.add_class::<policy::ClientPolicy>()?;
    module.add_class::<tables::MatchIndex>()?;
    module.add_class::<tables::ReplyTable>()?;
    module.add_class::<tables::Tally>()?;
    module.add_function(wrap_pyfunction!(tables::normal_rule, module)?)?;
    module.add_class::<crate::sys::buffers::Shown>()?;
    dbus::register(module)?;
    Ok(())
}
