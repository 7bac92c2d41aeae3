//! A cluster of real nodes under the control of a script. Network, disks, state machines and clocks
//! do only what the script commands, in its order. Nothing is random.

mod checks;
mod cluster;
mod disk;
mod inject;
mod print;
mod script;

pub use script::Script;
