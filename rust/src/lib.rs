//! The native body of bus1.
//!
//! Pure modules (`core`, `dbus`, `tables`) decide and know neither Python nor sockets; `sys` is the one place
//! with `unsafe` code; `lane` and `server` move the bytes of a bus, `client` those of a peer; `py` binds all of it.

pub mod client;
pub mod core;
pub mod dbus;
pub mod lane;
pub mod memory;
pub mod server;
pub mod sys;
pub mod tables;

#[cfg(feature = "python")]
mod py;
