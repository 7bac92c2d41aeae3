//! Finds the `raft-kv` binary, or builds it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

/// The crates whose sources decide whether the binary is up to date.
const CRATES: [&str; 6] = ["kv", "node", "driver", "transport-http", "storage", "raft"];

/// The binary of this workspace, built in the profile of the running program. A binary that is
/// newer than its sources is used as it is: cargo would build it again each time, with the features
/// that it has without the rest of the workspace.
pub fn find() -> Result<PathBuf, String> {
    let profile_dir = profile_dir().ok_or("this program has no path")?;
    let path = profile_dir.join("raft-kv");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Ok(built) = path.metadata().and_then(|metadata| metadata.modified())
        && CRATES.iter().all(|name| is_before(&workspace.join(name).join("src"), built))
    {
        return Ok(path);
    }
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target_dir = profile_dir.parent().ok_or("this program has no target directory")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--package",
            "quorate-kv",
            "--bin",
            "raft-kv",
            "--profile",
            profile,
        ])
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

/// Whether everything in a directory was last changed before `time`.
fn is_before(dir: &Path, time: SystemTime) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().all(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => is_before(&path, time),
            false => path.metadata().and_then(|m| m.modified()).is_ok_and(|at| at <= time),
        }
    })
}

/// The directory of the profile, such as `target/debug`. This program is in it, or one level below
/// if it is a test.
fn profile_dir() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let dir = program.parent()?;
    Some(if dir.ends_with("deps") { dir.parent()?.to_owned() } else { dir.to_owned() })
}
