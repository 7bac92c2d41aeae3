//! A cluster of real nodes whose network, disks, state machines and clocks do only what a script
//! tells them. Nothing here is random: what happens is what the script says, in its order.

mod checks;
mod cluster;
mod disk;
mod print;
mod script;

pub use script::Script;
