//! What no bytes may do, whoever sends them: panic, hang, or make a node keep more than a named limit.
//!
//! Each target is a plain function of bytes. `cargo fuzz` drives them with libFuzzer (see `README.md`); the
//! ordinary tests replay the corpus and some thousand mutations of it, which need no other compiler.

pub mod codec;
pub mod core;
pub mod directory;
pub mod http;
mod input;

pub use input::Input;
