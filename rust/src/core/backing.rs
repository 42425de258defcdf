//! Where the bytes of one pool lie.
//!
//! Theory. The twin of `api.Memory`. The pool of a peer inside the bus process keeps references to the senders'
//! buffers, beside the slice; a `Board` shows them to somebody who holds the same board. Sealed pools
//! (`crate::memory`) are written once; a foreign memory is whatever somebody else provides.
//!
//! Invariants. 1. `write` after a successful `reserve`, `close_segment` and `release` do not fail; what a foreign
//! memory does there all the same is reported once, after the command.
//!
//! Not here: placement (`pool`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::api::{Payload, Stretch};
use super::error::{Error, Kind, Result};
use super::hashing::ByKey;
use crate::memory::Sealed;

/// A memory that Core does not know.
pub trait Foreign: Send {
    /// `write` keeps references instead of copying.
    fn shares_buffers(&self) -> bool;
    /// Make a segment.
    fn open_segment(&mut self, generation: u64, base: u32, size: u32) -> Result<()>;
    /// Give a segment back.
    fn close_segment(&mut self, generation: u64) -> Result<()>;
    /// Make sure that writing cannot fail.
    fn reserve(&mut self, generation: u64, offset: u32, size: u32) -> Result<()>;
    /// Put the payload, and `padding` zeros, at `offset`.
    fn write(&mut self, generation: u64, offset: u32, payload: &Payload, padding: usize) -> Result<()>;
    /// The slice is free.
    fn release(&mut self, generation: u64, offset: u32, size: u32) -> Result<()>;
    /// The payload of the slice at `offset`, for a look.
    fn read(&self, offset: u32) -> Result<Payload>;
}

/// Shows what lies in a heap pool.
#[derive(Default)]
pub struct Board(Mutex<HashMap<u32, Payload, ByKey>>);

impl Board {
    fn slices(&self) -> MutexGuard<'_, HashMap<u32, Payload, ByKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The payload of the slice at `offset`.
    pub fn read(&self, offset: u32) -> Option<Payload> {
        self.slices().get(&offset).cloned()
    }

    /// Keep `payload` as what lies at `offset`.
    pub fn write(&self, offset: u32, payload: Payload) {
        self.slices().insert(offset, payload);
    }

    /// Forget it.
    pub fn release(&self, offset: u32) {
        // dropped behind the lock: its end may run foreign code
        let _payload = self.slices().remove(&offset);
    }
}

/// The backing of one pool.
pub enum Memory {
    /// References, kept with the slices; the board, if any, is shown the same.
    Heap(Option<Arc<Board>>),
    /// Sealed memfds, shared with whoever passes them on.
    Sealed(Arc<Mutex<Sealed>>),
    /// Somebody else's, which few are.
    Foreign(Box<Box<dyn Foreign>>),
}

fn locked(sealed: &Mutex<Sealed>) -> MutexGuard<'_, Sealed> {
    sealed.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// Writing keeps references.
    pub fn shares_buffers(&self) -> bool {
        match self {
            Memory::Heap(_) => true,
            Memory::Sealed(_) => false,
            Memory::Foreign(memory) => memory.shares_buffers(),
        }
    }

    /// Make a segment; OutOfMemory.
    pub fn open_segment(&mut self, generation: u64, base: u32, size: u32) -> Result<()> {
        match self {
            Memory::Heap(_) => Ok(()),
            Memory::Sealed(sealed) => locked(sealed).open_segment(generation, base, size),
            Memory::Foreign(memory) => memory.open_segment(generation, base, size),
        }
    }

    /// Give a segment back.
    pub fn close_segment(&mut self, generation: u64) -> Result<()> {
        match self {
            Memory::Heap(_) => Ok(()),
            Memory::Sealed(sealed) => locked(sealed).close_segment(generation),
            Memory::Foreign(memory) => memory.close_segment(generation),
        }
    }

    /// Make sure that writing cannot fail; OutOfMemory.
    pub fn reserve(&mut self, generation: u64, offset: u32, size: u32) -> Result<()> {
        match self {
            Memory::Heap(_) => Ok(()),
            Memory::Sealed(sealed) => locked(sealed).reserve(generation, offset, size),
            Memory::Foreign(memory) => memory.reserve(generation, offset, size),
        }
    }

    /// Put the payload there; what is returned is to be kept with the slice.
    pub fn write(
        &mut self,
        generation: u64,
        offset: u32,
        payload: Payload,
        padding: usize,
    ) -> Result<Payload> {
        match self {
            Memory::Heap(board) => {
                if let Some(board) = board {
                    board.write(offset, payload.clone());
                }
                return Ok(payload);
            }
            Memory::Sealed(sealed) => {
                let at = offset.saturating_add(payload.lies_there);
                locked(sealed).write(generation, at, &payload.parts, padding)?;
            }
            Memory::Foreign(memory) => memory.write(generation, offset, &payload, padding)?,
        }
        Ok(Payload::default())
    }

    /// Copy what lies in a file to `offset`; OutOfMemory. Sealed memory only.
    pub fn copy_in(&mut self, generation: u64, offset: u32, from: &Stretch) -> Result<()> {
        match self {
            Memory::Sealed(sealed) => locked(sealed).copy_in(generation, offset, from),
            Memory::Heap(_) | Memory::Foreign(_) => {
                Err(Error::new(Kind::Internal, "a payload in a file for memory that is not sealed"))
            }
        }
    }

    /// The slice is free.
    pub fn release(&mut self, generation: u64, offset: u32, size: u32) -> Result<()> {
        match self {
            Memory::Heap(Some(board)) => board.release(offset),
            Memory::Heap(None) | Memory::Sealed(_) => {}
            Memory::Foreign(memory) => memory.release(generation, offset, size)?,
        }
        Ok(())
    }
}

/// The first of what went wrong where nothing may.
#[derive(Default)]
pub struct Mishap(Option<Error>);

impl Mishap {
    /// Remember it.
    pub fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.0.get_or_insert(error);
        }
    }

    /// What was remembered.
    pub fn take(&mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), Err)
    }
}
