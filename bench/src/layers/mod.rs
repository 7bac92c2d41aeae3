//! A benchmark for each layer.

pub mod core;
pub mod counts;
pub mod driver;
pub mod log;
