//! The binding: the only module that knows Python. One file for each noun that Python sees.

mod answer;
mod body;
mod client;
mod poller;
mod swift;

use pyo3::prelude::*;

/// The module `bus1._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<body::Bodies>()?;
    module.add_class::<client::PyExchange>()?;
    module.add_class::<poller::Poller>()?;
    module.add_class::<swift::Swift>()?;
    Ok(())
}
