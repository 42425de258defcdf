//! The bus1 state machine.
