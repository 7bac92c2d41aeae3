//! The `raft-kv` program: a node, a local cluster of nodes, and the tools that talk to them.
//!
//! A thin shell around the library: the node itself is `kv::serve`. The command line, the
//! supervisor of a local cluster, the client commands and the benchmark are under `cli/`.

mod cli;

/// A node allocates for each request on one thread, and frees on others.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
