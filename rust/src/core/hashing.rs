//! How the tables of Core hash their keys.
//!
//! Theory. A table takes no room for its hasher: numbers that the bus counts up are mixed with one
//! multiplication; numbers that a client may choose go through a hash with a key of this process.
//!
//! Invariants. 1. Nobody outside can choose keys that collide.
//!
//! Not here: the tables.

use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

/// For numbers that the bus itself counts up.
#[derive(Clone, Copy, Default)]
pub struct Counted(u64);

impl Hasher for Counted {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let wide = u128::from(self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }
}

/// Makes a `Counted`.
#[derive(Clone, Copy, Default)]
pub struct ByCount;

impl BuildHasher for ByCount {
    type Hasher = Counted;

    fn build_hasher(&self) -> Counted {
        Counted(0)
    }
}

/// For numbers that a client chooses.
#[derive(Clone, Copy, Default)]
pub struct ByKey;

impl BuildHasher for ByKey {
    type Hasher = ahash::AHasher;

    fn build_hasher(&self) -> ahash::AHasher {
        static STATE: OnceLock<ahash::RandomState> = OnceLock::new();
        STATE.get_or_init(ahash::RandomState::new).build_hasher()
    }
}

/// A table by numbers of the bus.
pub type CountedMap<V> = std::collections::HashMap<u64, V, ByCount>;
/// A table by numbers of clients.
pub type KeyedMap<V> = std::collections::HashMap<u64, V, ByKey>;
