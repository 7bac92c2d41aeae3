//! Runs every golden script in `scripts/`: one story per file, in the commands listed in
//! `harness/script.rs`. A script fails if the nodes' output differs from the expected one.
//!
//! To write the new output into the files, run `UPDATE_GOLDENFILES=1 cargo test -p quorate-core
//! --test scripts`. Review it before you commit it: a golden script only proves that somebody has
//! checked it.

mod harness;

use std::path::Path;
use test_each_file::test_each_path;

test_each_path! { in "./raft/tests/scripts" as script => run }

fn run(path: &Path) {
    if let Err(error) = goldenscript::run(&mut harness::Script::default(), path) {
        panic!("{}: {error}", path.display());
    }
}
