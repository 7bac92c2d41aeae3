//! Other projects, measured next to the layer of this one that does the same. Only with the feature
//! `peers`, so that ordinary builds do not compile them.

pub mod openraft;
pub mod raft_engine;
pub mod raft_rs;
