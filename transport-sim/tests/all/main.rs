//! Whole nodes in a simulation. One program for all tests: each would take minutes to build.

mod picture;
mod registers;
