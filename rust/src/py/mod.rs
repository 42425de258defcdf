//! The binding: the only module that knows Python. One file for each noun that Python sees.

mod answer;
mod answers;
mod arguments;
mod body;
mod client;
pub mod core;
mod dbus;
mod guests;
mod lane;
pub mod locking;
pub mod memory;
mod policy;
mod poller;
mod resident;
mod server;
mod swift;
mod tables;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// What the module has, in the words of `bus1 doctor`: who binds a part adds its name.
const PARTS: &[&str] = &[
    "core",   // the bus1 state machine, and sealed pools
    "codec",  // D-Bus headers and bodies
    "tables", // match rules, outstanding replies, verdicts
    "lane",   // everyday messages between D-Bus clients
    "server", // everyday requests of native peers
    "client", // the client's half of a native channel, bodies of everyday values
];

/// For a process that is a bus and nothing else: what large messages need is kept from one to the next.
#[pyfunction]
fn keep_memory() {
    crate::sys::keep_memory();
}

/// Whether several clients can be written in one system call: OSError says why not.
#[pyfunction]
fn try_together() -> PyResult<()> {
    let failed = |error: std::io::Error| {
        let code = error.raw_os_error().unwrap_or(libc::ENOSYS);
        PyOSError::new_err((code, crate::sys::error_text(code)))
    };
    crate::sys::Together::new().map(drop).map_err(failed)
}

/// The module `bus1._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(keep_memory, module)?)?;
    module.add_function(wrap_pyfunction!(try_together, module)?)?;
    module.add_class::<core::Core>()?;
    module.add_class::<memory::HeapMemory>()?;
    module.add_class::<memory::SealedMemory>()?;
    module.add_class::<memory::Segment>()?;
    module.add_class::<lane::PyDbusLane>()?;
    module.add("PARTS", PyTuple::new(module.py(), PARTS)?)?;
    module.add_class::<poller::Poller>()?;
    module.add_class::<policy::ClientPolicy>()?;
    module.add_class::<tables::MatchIndex>()?;
    module.add_class::<tables::ReplyTable>()?;
    module.add_class::<tables::Tally>()?;
    module.add_class::<server::Server>()?;
    module.add_class::<resident::Resident>()?;
    module.add_class::<crate::sys::buffers::Shown>()?;
    dbus::register(module)?;
    module.add_class::<body::Bodies>()?;
    module.add_class::<client::PyExchange>()?;
    module.add_class::<swift::Swift>()?;
    Ok(())
}
