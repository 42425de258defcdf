//! The native body of bus1.
//!
//! Pure modules (`core`, `dbus`, `server`, `tables`) decide and know neither Python nor sockets; `sys` is the one place
//! with `unsafe` code; `lane` moves bytes; `py` binds all of it to Python.

pub mod core;
pub mod lane;
pub mod memory;
pub mod server;
pub mod sys;

#[cfg(feature = "python")]
mod py;
