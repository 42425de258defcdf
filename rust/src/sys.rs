//! System calls: the one module with `unsafe` code, each use with the reason why it is sound.
#![allow(unsafe_code)]
