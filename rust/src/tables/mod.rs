//! Tables: who gets a broadcast, who waits for an answer, who may do what.
//!
//! Theory. The tables of the bus that everyday messages look at, each with the behaviour of its twin in Python
//! (`bus1_bridge.match`, `switch.replies`, `policy`). Peers are numbers, time is an argument.
//!
//! Invariants. 1. Nothing here knows Python or a socket. 2. What a look-up costs depends on what it finds and on
//! the message, never on what others have put in.
//!
//! Not here: what becomes of a message (`lane`, and the Switch in Python).

pub mod matching;
pub mod policy;
pub mod probe;
pub mod replies;
pub mod rule;
mod slab;
mod symbols;
pub mod tally;
mod tree;

pub use matching::MatchIndex;
pub use policy::ClientPolicy;
pub use probe::{Argument, MatchInput};
pub use replies::{NotUnique, ReplyTable};
pub use rule::MatchRule;
pub use tally::Tally;
