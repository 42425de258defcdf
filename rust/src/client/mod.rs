//! The client's half of the native protocol: frames, and the requests that wait for answers.

pub mod answer;
pub mod envelope;
pub mod exchange;
pub mod frames;
pub mod protocol;
pub mod types;
