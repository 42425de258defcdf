//! System calls that the standard library doesn't offer, and C libraries: the one module with `unsafe` code.
//!
//! Not here: anything that decides.
#![allow(unsafe_code)]

pub mod libraries;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

const CONTROL: usize = 64;

/// Room for the control data of one message with one descriptor, aligned as a `cmsghdr` must be.
#[repr(align(8))]
struct Control([u8; CONTROL]);

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn clock(id: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer.
    checked(unsafe { libc::clock_gettime(id, &mut time) } as isize)?;
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Nanoseconds of CPU that another process has used.
pub fn processor_time(pid: i32) -> io::Result<u64> {
    const PROCESS: libc::clockid_t = 2;
    clock((!pid << 3) | PROCESS)
}

/// Nanoseconds of CPU that this process has used.
pub fn own_processor_time() -> io::Result<u64> {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The user that this process runs as.
pub fn user() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::getuid() }
}

/// This process ends when its parent does.
pub fn end_with_parent() {
    // SAFETY: the call takes integers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Whether the other side of a socket has closed it.
pub fn hung_up(socket: &impl AsRawFd) -> bool {
    let mut entry = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: `entry` is one valid entry.
    let ready = unsafe { libc::poll(&mut entry, 1, 0) };
    ready == 1 && entry.revents & (libc::POLLHUP | libc::POLLERR) != 0
}

/// Send `data`, and a copy of a descriptor with its first byte; returns how much was taken.
pub fn send(socket: RawFd, data: &[u8], descriptor: Option<RawFd>) -> io::Result<usize> {
    let mut vector = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    // SAFETY: all zeroes is a valid empty header.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    let mut control = Control([0; CONTROL]);
    if let Some(descriptor) = descriptor {
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: computes a number. It is below `CONTROL` for one descriptor.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as usize;
        // SAFETY: the control buffer is aligned, large enough for one descriptor, and outlives the header.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(first)
                .cast::<RawFd>()
                .write_unaligned(descriptor);
        }
    }
    // SAFETY: the header points to live data; the kernel only reads it.
    checked(unsafe { libc::sendmsg(socket, &header, libc::MSG_NOSIGNAL) })
}

/// Receive into `buffer`; the last descriptor that came along is owned by the caller, others are closed.
pub fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = Control([0; CONTROL]);
    // SAFETY: all zeroes is a valid empty header.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL;
    // SAFETY: buffer and control are live, writable and as long as the header says.
    let taken = checked(unsafe { libc::recvmsg(socket, &mut header, libc::MSG_CMSG_CLOEXEC) })?;
    let mut found = None;
    // SAFETY: the kernel filled in the control data that these macros walk; each descriptor in it is new and nobody's.
    unsafe {
        let mut entry = libc::CMSG_FIRSTHDR(&header);
        while !entry.is_null() {
            if (*entry).cmsg_level == libc::SOL_SOCKET && (*entry).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*entry).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(entry).cast::<RawFd>();
                for position in 0..count {
                    found = Some(OwnedFd::from_raw_fd(data.add(position).read_unaligned()));
                }
            }
            entry = libc::CMSG_NXTHDR(&header, entry);
        }
    }
    Ok((taken, found))
}

/// An epoll instance; tokens are the caller's.
pub struct Poll(OwnedFd);

impl Poll {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes an integer only.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as isize)?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Watch a descriptor for input; the kernel forgets it when it is closed.
    pub fn add(&self, descriptor: RawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: token,
        };
        let poll = self.0.as_raw_fd();
        // SAFETY: `event` is valid; the kernel copies it.
        checked(
            unsafe { libc::epoll_ctl(poll, libc::EPOLL_CTL_ADD, descriptor, &mut event) } as isize,
        )?;
        Ok(())
    }

    /// Wait for input, not much longer than `time`; the tokens of those that have some replace what is in `ready`.
    pub fn wait(&self, ready: &mut Vec<u64>, time: Duration) -> io::Result<()> {
        const MOST: usize = 128;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MOST];
        let time = i32::try_from(time.as_millis()).unwrap_or(-1);
        // SAFETY: `events` has room for `MOST` entries.
        let result =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), MOST as i32, time) };
        let count = checked(result as isize)?;
        ready.clear();
        ready.extend(events.iter().take(count).map(|event| event.u64));
        Ok(())
    }
}
