//! The command line: its subcommands, and the function that runs each.

mod bench;
mod cas;
mod client;
mod cluster;
mod delete;
mod duration;
mod environment;
mod exit;
mod get;
mod http;
mod input;
mod lines;
mod log;
mod members;
mod put;
mod serve;
mod settings;
mod signals;
mod status;
mod table;
mod threads;
mod transfer;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;
use std::sync::LazyLock;

/// A replicated key-value store: durable, and consistent across its nodes.
#[derive(Parser)]
#[command(name = "raft-kv", version, after_help = exit::HELP)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a local cluster: several nodes on this machine, supervised
    Cluster(cluster::Args),
    /// Run one node
    Serve(Box<settings::Flags>),
    /// Write a value under a key
    Put(put::Args),
    /// Read the value of a key
    Get(get::Args),
    /// Write a value if the key has the expected value (compare and swap)
    Cas(cas::Args),
    /// Delete a key
    Delete(delete::Args),
    /// Show the members of the cluster
    Status(status::Args),
    /// Show or change the members of the cluster
    Members(members::Args),
    /// Make another node the leader, for instance before this one is stopped
    Transfer(transfer::Args),
    /// Measure the cluster: closed or open loop, percentiles, longest gap, lost writes
    Bench(bench::Args),
}

/// The text of `--version`. A data directory can be read only by programs with the same versions of
/// encoding, log and store, and nodes understand one another only with the same protocol.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (encoding {}, log {}, store {}, protocol {})",
        env!("CARGO_PKG_VERSION"),
        storage::codec::VERSION,
        storage::LOG_VERSION,
        kv::STORE_VERSION,
        transport_http::PROTOCOL_VERSION
    )
});

/// Reports variables of the environment that have no effect on the subcommand `name`.
fn warn_of_variables(name: &str) {
    let command = CommandLine::command();
    for variable in environment::unknown(&command) {
        exit::complain(format_args!(
            "{variable} in the environment is no setting of this program; see --help"
        ));
    }
    for variable in environment::without_effect(&command, name) {
        exit::complain(format_args!("{variable} in the environment has no effect on {name}"));
    }
}

/// Shortens and escapes the arguments that an error repeats. They may come from a script.
fn show_plainly(error: &mut clap::Error) {
    let kinds =
        [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    for kind in kinds {
        if let Some(ContextValue::String(text)) = error.get(kind) {
            let text = kv::plain::shown(text);
            error.insert(kind, ContextValue::String(text));
        }
    }
}

/// Runs the program on the arguments of this process.
pub fn run() -> ExitCode {
    // Client commands use many connections too, and the nodes of a cluster inherit the limit.
    kv::descriptors::raise_limit();
    let command = environment::without_empty(CommandLine::command().version(&**VERSION));
    let parsed = command.try_get_matches();
    let command_line = match parsed.and_then(|found| CommandLine::from_arg_matches(&found)) {
        Ok(command_line) => command_line,
        Err(mut error) => {
            show_plainly(&mut error);
            // The text of --help and --version is a result. An error of the arguments has an exit
            // code that says enough.
            if let Err(failed) = error.print()
                && !error.use_stderr()
            {
                return ExitCode::from(input::not_printed(&failed));
            }
            if let Some(name) = environment::source_of(&error, &CommandLine::command()) {
                eprintln!("The value comes from {name} in the environment.");
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let server = match command_line.command {
        Command::Cluster(_) => Some("cluster"),
        Command::Serve(_) => Some("serve"),
        _ => None,
    };
    if let Some(name) = server {
        warn_of_variables(name);
    }
    let code = match command_line.command {
        Command::Cluster(args) => cluster::run(&args),
        Command::Serve(flags) => serve::run(*flags),
        Command::Put(args) => put::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Cas(args) => cas::run(&args),
        Command::Delete(args) => delete::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Members(args) => members::run(&args),
        Command::Transfer(args) => transfer::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    ExitCode::from(code)
}
