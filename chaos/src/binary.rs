//! Finds the `raft-kv` binary, or builds it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The binary of this workspace, built in the profile of the program that runs. Cargo decides
/// whether there is anything to do; where there is no cargo, the binary next to this program counts.
pub fn find() -> Result<PathBuf, String> {
    let profile_dir = profile_dir().ok_or("this program has no path")?;
    let path = profile_dir.join("raft-kv");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target_dir = profile_dir.parent().ok_or("this program has no target directory")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "kv", "--bin", "raft-kv", "--profile", profile])
        .current_dir(workspace)
        .env("CARGO_TARGET_DIR", target_dir)
        .stdin(Stdio::null())
        .status();
    match built {
        Ok(status) if status.success() => Ok(path),
        Ok(status) => Err(format!("building raft-kv failed: {status}")),
        Err(_) if path.exists() => Ok(path),
        Err(error) => Err(format!(
            "{}: not there, and cargo cannot be started to build it: {error}; give --binary",
            path.display()
        )),
    }
}

/// `target/debug` or its like: this program is in it, or one level below as a test.
fn profile_dir() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let dir = program.parent()?;
    Some(if dir.ends_with("deps") { dir.parent()?.to_owned() } else { dir.to_owned() })
}
