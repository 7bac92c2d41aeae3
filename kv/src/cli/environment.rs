//! Settings in the environment: finds the variable that a bad value comes from, and unknown
//! variables.

use clap::Command;
use clap::error::{ContextKind, ContextValue};
use std::collections::BTreeSet;

const PREFIX: &str = "RAFT_KV_";

/// The names of all variables that the command or a subcommand reads.
fn known(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|argument| argument.get_env());
    let own = own.map(|name| name.to_string_lossy().into_owned());
    own.chain(command.get_subcommands().flat_map(known)).collect()
}

/// The variable that an invalid value comes from. `None` if it comes from a flag.
pub fn source_of(error: &clap::Error, command: &Command) -> Option<String> {
    let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else {
        return None;
    };
    let holds = |text: &str| text == value || text.split(',').any(|part| part == value);
    let is_argument = |argument: String| {
        holds(&argument) || argument.split_once('=').is_some_and(|(_, set)| holds(set))
    };
    if std::env::args().any(is_argument) {
        return None;
    }
    known(command).into_iter().find(|name| std::env::var(name).is_ok_and(|set| holds(&set)))
}

/// The command without the variables that are set to nothing: service managers set those for
/// settings that are to keep their default.
pub fn without_empty(command: Command) -> Command {
    let is_empty =
        |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|set| set.is_empty());
    let command = command.mut_args(|argument| match argument.get_env() {
        Some(name) if is_empty(name) => argument.env(None::<&str>),
        _ => argument,
    });
    command.mut_subcommands(without_empty)
}

/// Variables with this program's prefix that no setting has. Usually they are misspelt.
pub fn unknown(command: &Command) -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    unknown_of(names, &known(command))
}

/// Variables that other subcommands read, and that have no effect on the one with this name.
pub fn without_effect(command: &Command, name: &str) -> Vec<String> {
    let servers =
        command.get_subcommands().filter(|sub| ["cluster", "serve"].contains(&sub.get_name()));
    let read = servers.flat_map(known).collect();
    let own = command.find_subcommand(name).map(known).unwrap_or_default();
    without_effect_of(
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()),
        &read,
        &own,
    )
}

fn without_effect_of(
    names: impl Iterator<Item = String>,
    read: &BTreeSet<String>,
    own: &BTreeSet<String>,
) -> Vec<String> {
    let mut without: Vec<String> = names
        .filter(|name| read.contains(name) && !own.contains(name) && !is_of_kubernetes(name))
        .collect();
    without.sort();
    without
}

/// Whether Kubernetes sets this variable for a service that has the name of this program.
fn is_of_kubernetes(name: &str) -> bool {
    name.contains("_SERVICE_") || name.contains("_PORT")
}

fn unknown_of(names: impl Iterator<Item = String>, known: &BTreeSet<String>) -> Vec<String> {
    let mut unknown: Vec<String> = names
        .filter(|name| name.starts_with(PREFIX) && !known.contains(name))
        .filter(|name| !is_of_kubernetes(name))
        .collect();
    unknown.sort();
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_found_and_those_of_kubernetes_are_not() {
        let known = BTreeSet::from(["RAFT_KV_DATA_DIR".to_owned()]);
        let names = ["RAFT_KV_DATADIR", "RAFT_KV_DATA_DIR", "HOME", "RAFT_KV_SERVICE_HOST"];
        let names = names.into_iter().map(str::to_owned);
        assert_eq!(unknown_of(names, &known), ["RAFT_KV_DATADIR"]);
    }

    #[test]
    fn a_variable_of_another_subcommand_is_without_effect() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let read = set(&["RAFT_KV_ID", "RAFT_KV_LOG", "RAFT_KV_PORT"]);
        let own = set(&["RAFT_KV_LOG"]);
        let names = ["RAFT_KV_ID", "RAFT_KV_LOG", "RAFT_KV_PORT", "RAFT_KV_SERVER"];
        let names = names.into_iter().map(str::to_owned);
        assert_eq!(without_effect_of(names, &read, &own), ["RAFT_KV_ID"]);
    }
}
