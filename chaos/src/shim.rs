//! The library that is preloaded into nodes. Each run builds it.
//!
//! It is in C, because it has to replace functions of the C library. Every machine that links Rust
//! programs has a C compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SOURCE: &str = include_str!("shim.c");

/// Builds the library in `dir`. The error is a reason to skip the scenarios that need it.
pub fn build(dir: &Path) -> Result<PathBuf, String> {
    if !cfg!(target_os = "linux") {
        return Err("faults of the disk need LD_PRELOAD, which is Linux's".to_owned());
    }
    let (source, library) = (dir.join("shim.c"), dir.join("libchaos.so"));
    std::fs::write(&source, SOURCE).map_err(|error| format!("{}: {error}", source.display()))?;
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cc cannot be started: {error}"))?;
    if !built.status.success() {
        return Err(format!("cc failed: {}", String::from_utf8_lossy(&built.stderr)));
    }
    Ok(library)
}
