//! The `raft-kv` program: a node, a local cluster of nodes, and the tools that talk to them.
//!
//! A thin shell: what a node is and does lives in the library (`kv::serve`). Here are the command
//! line, the supervisor of a local cluster, the client commands and the benchmark, each in a file
//! of its own under `cli/`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
