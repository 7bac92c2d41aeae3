//! Runs the tests of the Python client against the program of this build.
//!
//! They need python3 with `venv`, and `httptools`, `requests`, `pytest`, `flit_core` and `mypy`
//! from the network or a cache of pip. If these are not available, the tests are skipped with a
//! message.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn the_python_clients_tests_pass() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/python");
    let python = match python_with_pytest(Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(python) => python,
        Err(why) => {
            eprintln!("SKIPPED: the Python client was not tested: {why}");
            return;
        }
    };
    let status = Command::new(python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .current_dir(&package)
        .env("PYTHONPATH", &package)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("RAFT_KV_BIN", env!("CARGO_BIN_EXE_raft-kv"))
        .status()
        .unwrap();
    assert!(status.success(), "the Python client's tests failed: see above");
}

/// A Python with the required packages: that of the system, or else a virtual environment in the
/// target folder.
fn python_with_pytest(folder: &Path) -> Result<PathBuf, String> {
    let system = PathBuf::from("python3");
    if has_what_is_needed(&system) {
        return Ok(system);
    }
    let ours = folder.join("python");
    let python = ours.join("bin/python");
    if !has_what_is_needed(&python) {
        run(Command::new(&system).args(["-m", "venv"]).arg(&ours))?;
        run(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "-q",
            "httptools",
            "requests",
            "pytest",
            "flit_core",
            "mypy",
            "types-requests",
        ]))?;
    }
    Ok(python)
}

fn has_what_is_needed(python: &Path) -> bool {
    let import = "import flit_core, httptools, mypy, pytest, requests, sys; \
                  sys.exit(sys.version_info < (3, 8))";
    run(Command::new(python).args(["-c", import])).is_ok()
}

fn run(command: &mut Command) -> Result<(), String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
