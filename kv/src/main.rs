//! The `raft-kv` program: a node, a local cluster of nodes, and the tools that talk to them.
//!
//! A thin shell around the library: the node itself is `kv::serve`. The command line, the
//! supervisor of a local cluster, the client commands and the benchmark are under `cli/`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
