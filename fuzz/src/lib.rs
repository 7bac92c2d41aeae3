//! Fuzz targets. No input bytes may make a node panic, hang, or keep more than a named limit.
//!
//! Each target is a plain function of bytes. `cargo fuzz` runs them with libFuzzer (see
//! `README.md`). The ordinary tests replay the corpus and some thousand mutations of it, and need
//! no other compiler.

pub mod codec;
pub mod core;
pub mod directory;
pub mod http;
mod input;

pub use input::Input;
