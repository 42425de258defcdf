//! The sockets of channels and of peers' pairs, as the server sees them.
//!
//! Theory. Everything that the server does to a descriptor goes through `Wire`, so that tests can be the other end.
//!
//! Not here: when to read and write (`turn`), system calls (`sys`).

use std::io;
use std::os::fd::RawFd;

use crate::sys::{self, Received};

/// Reading and writing, without waiting.
pub trait Wire: Send {
    /// As `sys::receive`.
    fn receive(
        &mut self,
        fd: RawFd,
        buffer: &mut Vec<u8>,
        most: usize,
        fds: &mut Vec<RawFd>,
    ) -> io::Result<Received>;
    /// Writes some of the bytes; how many.
    fn send(&mut self, fd: RawFd, bytes: &[u8]) -> io::Result<usize>;
    /// Closes a descriptor.
    fn close(&mut self, fd: RawFd);
}

/// The kernel's.
pub struct Sockets;

impl Wire for Sockets {
    fn receive(
        &mut self,
        fd: RawFd,
        buffer: &mut Vec<u8>,
        most: usize,
        fds: &mut Vec<RawFd>,
    ) -> io::Result<Received> {
        sys::receive(fd, buffer, most, fds)
    }

    fn send(&mut self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        sys::send(fd, &[bytes], &[])
    }

    fn close(&mut self, fd: RawFd) {
        sys::close(fd);
    }
}
