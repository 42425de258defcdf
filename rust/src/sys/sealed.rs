//! Memory files that others can read and nobody else can write.
//!
//! Theory. A `SealedFile` is mapped by this process before it is sealed. What is put into it is written through that
//! mapping, or by the kernel as long as the file is not sealed.
//!
//! Invariants. 1. Nobody gets the descriptor of a file that is not sealed. 2. All access lies within the mapping.
//!
//! Not here: which pages exist, and what lies where (`memory`).

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::c_int;

use super::checked;

/// A memfd that this process has mapped, and that nobody can write to, grow or shrink in any other way.
pub struct SealedFile {
    fd: OwnedFd,
    start: *mut u8,
    size: usize,
    /// It is sealed when somebody wants its descriptor; until then it can be written without its mapping.
    is_sealed: Cell<bool>,
}

/// From so many bytes on it is cheaper to let the kernel write than to fault pages in.
const LARGE: usize = 1 << 16;

// SAFETY: the mapping belongs to this value alone, and is reached through its methods only.
unsafe impl Send for SealedFile {}

impl SealedFile {
    /// One of `size` bytes, without pages yet.
    pub fn new(size: usize) -> io::Result<Self> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a constant with its terminating zero.
        let fd = checked(unsafe { libc::memfd_create(c"bus1-pool".as_ptr(), flags) } as isize)? as RawFd;
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: takes no pointers.
        checked(unsafe { libc::ftruncate(fd.as_raw_fd(), size as libc::off_t) } as isize)?;
        // SAFETY: a new mapping of an own file, where the kernel chooses; it touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let file = SealedFile { fd, start: start.cast(), size, is_sealed: Cell::new(false) };
        file.seal(libc::F_SEAL_GROW | libc::F_SEAL_SHRINK)?;
        Ok(file)
    }

    fn seal(&self, seals: c_int) -> io::Result<()> {
        // SAFETY: takes a number.
        let result = unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        checked(result as isize).map(|_| ())
    }

    /// The descriptor, sealed; it stays the file's.
    pub fn fd(&self) -> RawFd {
        if !self.is_sealed.replace(true) && self.seal(libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL).is_err()
        {
            self.is_sealed.set(false);
            return -1; // a file that could be written is nobody's
        }
        self.fd.as_raw_fd()
    }

    /// Make the pages of [start, start+size) exist.
    pub fn allocate(&self, start: usize, size: usize) -> io::Result<()> {
        loop {
            // SAFETY: takes no pointers.
            let code = unsafe {
                libc::posix_fallocate(self.fd.as_raw_fd(), start as libc::off_t, size as libc::off_t)
            };
            match code {
                0 => return Ok(()),
                libc::EINTR => {}
                code => return Err(io::Error::from_raw_os_error(code)),
            }
        }
    }

    /// Put `data` at `start`; false, and nothing is done, where it does not fit.
    pub fn write(&mut self, start: usize, data: &[u8]) -> bool {
        if start > self.size || data.len() > self.size - start {
            return false;
        }
        let done =
            if data.len() < LARGE || self.is_sealed.get() { 0 } else { self.write_through(start, data) };
        let (start, data) = (start + done, &data[done..]);
        // SAFETY: [start, start + len) lies in the mapping, as just checked; the pages were allocated, and the file
        // cannot shrink, so there is no SIGBUS. Other processes only read there.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), self.start.add(start), data.len());
        }
        true
    }

    /// Put `size` bytes of another file, from `from` on, at `start`; an error leaves some of them there.
    ///
    /// Whoever can write to the other file may do so meanwhile: nothing is looked at but by the kernel.
    pub fn copy_in(&mut self, start: usize, fd: RawFd, from: u64, size: u64) -> io::Result<()> {
        let outside = || io::Error::from_raw_os_error(libc::EOVERFLOW);
        let size = usize::try_from(size).map_err(|_| outside())?;
        let end = start.checked_add(size).filter(|end| *end <= self.size).ok_or_else(outside)?;
        let from = libc::off_t::try_from(from).map_err(|_| outside())?;
        let mut done =
            if size < LARGE || self.is_sealed.get() { 0 } else { self.splice(start, fd, from, size) };
        while start + done < end {
            // SAFETY: [start + done, end) lies in the mapping, which is ours, and nobody refers to its bytes.
            let result = unsafe {
                let place = self.start.add(start + done).cast();
                libc::pread(fd, place, end - start - done, from.saturating_add(done as libc::off_t))
            };
            match checked(result) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets the kernel copy from file to file, as far as it does; how many bytes.
    fn splice(&self, start: usize, fd: RawFd, from: libc::off_t, size: usize) -> usize {
        let (mut from, mut to, mut done) = (from, start as libc::off_t, 0);
        while done < size {
            // SAFETY: both offsets are live numbers for the kernel to move on.
            let result =
                unsafe { libc::copy_file_range(fd, &mut from, self.fd.as_raw_fd(), &mut to, size - done, 0) };
            match checked(result) {
                Ok(n) if n > 0 => done += n,
                _ => break,
            }
        }
        done
    }

    /// Lets the kernel write, as far as it does; how many bytes.
    fn write_through(&self, start: usize, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            // SAFETY: the pointer and the length are those of a live slice, which the kernel only reads.
            let result = unsafe {
                libc::pwrite(
                    self.fd.as_raw_fd(),
                    rest.as_ptr().cast(),
                    rest.len(),
                    (start + done) as libc::off_t,
                )
            };
            match checked(result) {
                Ok(n) if n > 0 => done += n,
                _ => break,
            }
        }
        done
    }

    /// Append the bytes [start, start+size), as far as the file goes.
    pub fn read(&self, start: usize, size: usize, into: &mut Vec<u8>) {
        let start = start.min(self.size);
        let size = size.min(self.size - start);
        into.reserve(size);
        let spare = into.spare_capacity_mut();
        // SAFETY: the source lies in the mapping, nobody writes there while we hold `&self`, and `spare` has room for
        // `size` bytes, which are initialized when the length is raised.
        unsafe {
            std::ptr::copy_nonoverlapping(self.start.add(start), spare.as_mut_ptr().cast(), size);
            into.set_len(into.len() + size);
        }
    }
}

impl Drop for SealedFile {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this size, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}
