//! The native body of bus1.
//!
//! Pure modules (`core`, `dbus`, `tables`) decide and know neither Python nor sockets; `sys` is the one place
//! with `unsafe` code; `lane` moves bytes; `py` binds all of it to Python.

pub mod client;
pub mod core;
pub mod dbus;
pub mod lane;
pub mod memory;
pub mod sys;
pub mod tables;

#[cfg(feature = "python")]
mod py;
