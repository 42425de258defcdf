//! The binding: the only module that knows Python. One file for each noun that Python sees.

mod dbus;
mod poller;

use pyo3::prelude::*;

/// The module `bus1._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<poller::Poller>()?;
    dbus::register(module)?;
    Ok(())
}
