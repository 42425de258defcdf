//! The binding: the only module that knows Python. One file for each noun that Python sees.

mod poller;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// What the module has, in the words of `bus1 doctor`: who binds a part adds its name.
const PARTS: &[&str] = &[
    "poller", // one a line
];

/// The module `bus1._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("PARTS", PyTuple::new(module.py(), PARTS)?)?;
    module.add_class::<poller::Poller>()?;
    Ok(())
}
