//! How Python's objects lock what they share with the lanes.
//!
//! Theory. Who finds it locked by another thread lets Python go on while it waits; who finds it locked by its own thread, in
//! something that was called meanwhile, is told so.
//!
//! Invariants. 1. Nobody waits for a lock with the interpreter's.
//!
//! Not here: what is locked.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

thread_local! {
    /// What this thread locked last.
    static LOCKED: Cell<usize> = const { Cell::new(0) };
}

/// Locks what no Python code runs under: its own thread never finds it locked.
pub fn lock<'m, T: Send>(py: Python<'_>, mutex: &'m Mutex<T>) -> MutexGuard<'m, T> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => wait(py, mutex),
        }
    }
}

fn wait<T: Send>(py: Python<'_>, mutex: &Mutex<T>) {
    py.detach(|| drop(mutex.lock().unwrap_or_else(PoisonError::into_inner)));
}

/// Something that is locked.
pub struct Guard<'a, T> {
    guard: MutexGuard<'a, T>,
    former: usize,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        LOCKED.set(self.former);
    }
}

/// Lock it; RuntimeError if this thread has it locked already.
pub fn locked<'a, T: Send>(py: Python<'_>, mutex: &'a Mutex<T>) -> PyResult<Guard<'a, T>> {
    let me = std::ptr::from_ref(mutex) as usize;
    loop {
        let guard = match mutex.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if LOCKED.get() == me => {
                return Err(PyRuntimeError::new_err("Core is in the middle of a command"));
            }
            Err(TryLockError::WouldBlock) => {
                wait(py, mutex);
                continue;
            }
        };
        let former = LOCKED.replace(me);
        return Ok(Guard { guard, former });
    }
}
