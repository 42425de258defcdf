//! A descriptor that becomes readable at a time.
//!
//! Theory. Who waits for descriptors again and again until one deadline sets an alarm once, and waits without a time: the
//! kernel then needs no timer for each wait.
//!
//! Not here: who waits.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::checked;

/// A timerfd, of the clock of `monotonic`.
pub struct Alarm {
    fd: OwnedFd,
}

impl Alarm {
    /// One that is not set, close-on-exec.
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: takes no pointers; the result is checked before it is owned.
        let fd = checked(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) } as isize)? as RawFd;
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Readable from that second on, until it is set or stopped.
    pub fn set(&self, when: f64) -> io::Result<()> {
        const NANOSECONDS: f64 = 1e9;
        // a time of 0 would stop it; so late a time is never
        let when = when.clamp(1e-9, f64::from(i32::MAX));
        let seconds = when as i64;
        let rest = ((when - seconds as f64) * NANOSECONDS) as i64;
        self.put(libc::timespec {
            tv_sec: seconds,
            tv_nsec: rest.clamp(i64::from(seconds == 0), 999_999_999),
        })
    }

    /// Not readable any more.
    pub fn stop(&self) -> io::Result<()> {
        self.put(libc::timespec { tv_sec: 0, tv_nsec: 0 })
    }

    fn put(&self, it_value: libc::timespec) -> io::Result<()> {
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::itimerspec { it_interval: never, it_value };
        // SAFETY: `value` lives through the call, and the kernel copies it; the old value is not asked for.
        let result = unsafe {
            libc::timerfd_settime(self.fd.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &value, std::ptr::null_mut())
        };
        checked(result as isize).map(|_| ())
    }

    /// Its descriptor.
    pub fn fileno(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
