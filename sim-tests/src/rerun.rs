//! Runs cargo again on this crate with `--cfg madsim` added, if the flag was lost.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Set for the second cargo, so that it does not start a third.
const GUARD: &str = "SIM_RERUN";

/// A cargo command on this crate with the flag added, in a target directory of its own. A shared
/// one would be rebuilt with every change of the flags.
///
/// # Panics
/// If this is the second cargo already, and the flag is lost again.
pub fn cargo(subcommand: &str) -> Command {
    assert!(std::env::var_os(GUARD).is_none(), "built without --cfg madsim, although it was given");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| directory.join("../target"), PathBuf::from);
    let mut command = Command::new(env!("CARGO"));
    command.args([subcommand, "--manifest-path"]).arg(directory.join("Cargo.toml"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.env(GUARD, "1").env("CARGO_TARGET_DIR", target.join("sim"));
    // Cargo prefers the encoded variable to the plain one, and both to a configuration.
    let (flags, separator) = match std::env::var("CARGO_ENCODED_RUSTFLAGS") {
        Ok(flags) => (flags, "\u{1f}"),
        Err(_) => (std::env::var("RUSTFLAGS").unwrap_or_default(), " "),
    };
    let variable = if separator == " " { "RUSTFLAGS" } else { "CARGO_ENCODED_RUSTFLAGS" };
    let mut words: Vec<&str> = flags.split(separator).filter(|word| !word.is_empty()).collect();
    words.extend(["--cfg", "madsim"]);
    command.env(variable, words.join(separator));
    command
}

/// Runs the tests of `tests/{name}.rs` again.
///
/// # Panics
/// If they fail.
pub fn tests(name: &str) {
    let status = cargo("test").args(["--test", name, "--", "--nocapture"]).status();
    assert!(status.expect("cargo starts").success(), "layer 2 has failed, see above");
}
