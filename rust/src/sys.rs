//! System calls: the one module with `unsafe` code, each use with the reason why it is sound.
//!
//! Theory. The rest of the crate works with slices, vectors and descriptor numbers; here these become pointers
//! and lengths for the kernel. Nothing is kept beyond a call.
//!
//! Not here: what is read or written, and when.
#![allow(unsafe_code)]

mod alarm;
#[cfg(feature = "python")]
pub mod buffers;
mod sealed;
mod several;
pub mod sockets;
mod together;

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void};
use smallvec::SmallVec;

pub use alarm::Alarm;
pub use sealed::SealedFile;
pub use several::{close_all, send_several};
pub use together::{MOST as WRITES_MAX, Together};

/// The most descriptors that the kernel passes in one message.
pub const SCM_MAX_FD: usize = 253;
/// Room for the control messages of one `recvmsg`: descriptors and credentials, eight-byte aligned.
const CONTROL_WORDS: usize = (SCM_MAX_FD * 4 + 128) / 8;

/// The most buffers that the kernel takes in one call.
const PARTS_MAX: usize = 1024;

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Seconds of the monotonic clock: the one of Python's `time.monotonic`.
pub fn monotonic() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the kernel to fill; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Closes a descriptor that the caller owns.
pub fn close(fd: RawFd) {
    // SAFETY: closing a number touches no memory; the caller gives up the descriptor.
    unsafe { libc::close(fd) };
}

/// An eventfd becomes readable.
pub fn raise_event(fd: RawFd) {
    let one = 1_u64;
    // SAFETY: the kernel reads the eight bytes of `one`, which lives through the call.
    unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

/// An eventfd that does not block is not readable any more.
pub fn clear_event(fd: RawFd) {
    let mut count = 0_u64;
    // SAFETY: the kernel writes the eight bytes of `count`, which lives through the call.
    unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
}

/// Nobody can make closing this descriptor wait: it is a pipe, a memory file, or stands for a path alone.
pub fn closes_at_once(fd: RawFd) -> bool {
    // SAFETY: these commands take no pointers; for a number that is no descriptor they fail.
    unsafe {
        libc::fcntl(fd, libc::F_GETPIPE_SZ) >= 0 || libc::fcntl(fd, libc::F_GET_SEALS) >= 0 || {
            let flags = libc::fcntl(fd, libc::F_GETFL);
            flags >= 0 && flags & libc::O_PATH != 0
        }
    }
}

/// How many descriptors this process may have; None: no limit.
pub fn descriptors_max() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the kernel to fill.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Makes the owner of a descriptor that nobody else closes.
pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller says that the number is an open descriptor, and gives it up.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Has the allocator keep what large messages need from one to the next.
///
/// Otherwise it gives their pages back to the kernel, which fills new ones with zeros for the next message: as much work as
/// copying it. At most `KEPT` bytes stay so.
pub fn keep_memory() {
    #[cfg(target_env = "gnu")]
    {
        const KEPT: c_int = 8 << 20;
        // SAFETY: sets two numbers of the allocator, which are good for any program.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        }
    }
}

/// One epoll instance.
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// A new one, close-on-exec.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; the result is checked before it is owned.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as isize)? as RawFd;
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    fn control(&self, operation: c_int, fd: RawFd, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: fd as u64 };
        // SAFETY: `event` lives through the call, and the kernel copies it.
        let result = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) };
        checked(result as isize).map(|_| ())
    }

    /// Watch a descriptor.
    pub fn add(&self, fd: RawFd, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events)
    }

    /// Watch it for other events.
    pub fn modify(&self, fd: RawFd, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events)
    }

    /// Watch it no more.
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0)
    }

    /// Waits at most `timeout` milliseconds (-1: for ever); (descriptor, events) of what is ready go into `out`.
    pub fn wait(&self, timeout: c_int, most: usize, out: &mut Vec<(RawFd, u32)>) -> io::Result<()> {
        // not filled in first: that would cost more than the call
        let mut events = [const { mem::MaybeUninit::<libc::epoll_event>::uninit() }; 256];
        let most = most.clamp(1, events.len());
        // SAFETY: the array has room for `most` entries, and lives through the call.
        let n = unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr().cast(), most as c_int, timeout)
        };
        let n = checked(n as isize)?;
        out.extend(events[..n].iter().map(|event| {
            // SAFETY: the kernel has filled in the first `n` entries.
            let event = unsafe { event.assume_init() };
            (event.u64 as RawFd, event.events)
        }));
        Ok(())
    }

    /// Its own descriptor.
    pub fn fileno(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Waits at most `timeout` milliseconds; whether input of `fd` is all that somebody's `epoll` tells then.
///
/// As that one is not edge-triggered, whoever waits with it next is told the same.
pub fn is_only_input(epoll: RawFd, fd: RawFd, timeout: c_int) -> io::Result<bool> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
    // SAFETY: the array has room for as many entries as are said, and lives through the call.
    let n = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as c_int, timeout) };
    let n = checked(n as isize)?;
    // Python writes the descriptor into the lower half alone
    Ok(n == 1 && events[0].u64 as u32 == fd as u32 && events[0].events == libc::EPOLLIN as u32)
}

/// What one `recvmsg` brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// How many bytes; 0 at the end of the stream.
    pub n_bytes: usize,
    /// Some descriptors could not be installed.
    pub is_truncated: bool,
    /// Process, user and group of the sender, if the socket passes credentials.
    pub credentials: Option<(u32, u32, u32)>,
}

/// Reads into the spare capacity of `buffer`, at most `most` bytes; descriptors, close-on-exec, go into `fds`.
///
/// Never waits. The caller owns the descriptors.
pub fn receive(fd: RawFd, buffer: &mut Vec<u8>, most: usize, fds: &mut Vec<RawFd>) -> io::Result<Received> {
    receive_with(fd, buffer, most, fds, libc::MSG_DONTWAIT)
}

/// The same with other flags: with 0 it waits, if the socket does.
pub fn receive_with(
    fd: RawFd,
    buffer: &mut Vec<u8>,
    most: usize,
    fds: &mut Vec<RawFd>,
    flags: c_int,
) -> io::Result<Received> {
    let spare = buffer.spare_capacity_mut();
    let most = most.min(spare.len());
    let mut part = libc::iovec { iov_base: spare.as_mut_ptr().cast::<c_void>(), iov_len: most };
    let mut control = mem::MaybeUninit::<[u64; CONTROL_WORDS]>::uninit();
    // SAFETY: msghdr is plain data for which zeros are valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control);
    // SAFETY: the vector covers `most` writable bytes of `buffer`, the control buffer is aligned and of the length
    // that is told, and of what is in it nothing is read; both live through the call.
    let n = unsafe { libc::recvmsg(fd, &mut message, flags | libc::MSG_CMSG_CLOEXEC) };
    let n_bytes = checked(n)?;
    // SAFETY: the kernel has written `n_bytes` <= `most` bytes behind the length of `buffer`.
    unsafe { buffer.set_len(buffer.len() + n_bytes) };
    let is_truncated = message.msg_flags & libc::MSG_CTRUNC != 0;
    let mut received = Received { n_bytes, is_truncated, credentials: None };
    if message.msg_controllen > 0 {
        read_control(&message, &mut received, fds);
    }
    Ok(received)
}

fn read_control(message: &libc::msghdr, received: &mut Received, fds: &mut Vec<RawFd>) {
    // SAFETY: `message` was filled by recvmsg, so its control buffer holds well-formed headers within
    // msg_controllen, which the kernel has written and which is what these macros walk; unaligned reads are made as such.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let length = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for at in 0..length / mem::size_of::<RawFd>() {
                        fds.push(data.cast::<RawFd>().add(at).read_unaligned());
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= mem::size_of::<libc::ucred>() => {
                    let who = data.cast::<libc::ucred>().read_unaligned();
                    received.credentials = Some((who.pid as u32, who.uid, who.gid));
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}

/// Writes the buffers, one behind the other, with descriptors at the first byte; returns how many bytes were taken.
///
/// Never waits, and raises no SIGPIPE. At most 1024 buffers and `SCM_MAX_FD` descriptors are looked at.
pub fn send(fd: RawFd, buffers: &[&[u8]], fds: &[RawFd]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    if let ([buffer], []) = (buffers, fds) {
        // SAFETY: the pointer and the length are those of a live slice.
        return checked(unsafe { libc::send(fd, buffer.as_ptr().cast(), buffer.len(), flags) });
    }
    let part =
        |buffer: &&[u8]| libc::iovec { iov_base: buffer.as_ptr().cast_mut().cast(), iov_len: buffer.len() };
    let mut parts: SmallVec<[libc::iovec; 16]> = buffers.iter().take(PARTS_MAX).map(part).collect();
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: msghdr is plain data for which zeros are valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    let fds = &fds[..fds.len().min(SCM_MAX_FD)];
    if !fds.is_empty() {
        let size = mem::size_of_val(fds) as u32;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: computes a length from a number.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as usize;
        // SAFETY: the control buffer has room for CMSG_SPACE of SCM_MAX_FD numbers, and is aligned; so the first
        // header lies in it, with room for `fds` behind it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as usize;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), size as usize);
        }
    }
    // SAFETY: every vector is that of a live slice, which the kernel only reads; `message` is as made above.
    checked(unsafe { libc::sendmsg(fd, &message, flags) })
}

/// What an errno means, in the words of the C library.
pub fn error_text(code: i32) -> String {
    let mut text = [0u8; 128];
    // SAFETY: the buffer is as long as told, and zero-terminated by the call (and from the start).
    unsafe { libc::strerror_r(code, text.as_mut_ptr().cast(), text.len()) };
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end]).into_owned()
}

/// Does something with the bytes of a Python buffer, which must not run Python code; None if they do not lie
/// in a row.
#[cfg(feature = "python")]
pub(crate) fn with_buffer<R>(
    _attached: pyo3::Python<'_>,
    buffer: &pyo3::buffer::PyBuffer<u8>,
    action: impl FnOnce(&[u8]) -> R,
) -> Option<R> {
    if !buffer.is_c_contiguous() {
        return None;
    }
    if buffer.len_bytes() == 0 {
        return Some(action(&[]));
    }
    // SAFETY: the buffer is held, contiguous and not empty, so pointer and length describe memory that lives as
    // long as `buffer`. It is written by Python code alone; this thread is attached and `action` runs none.
    Some(action(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.len_bytes()) }))
}
