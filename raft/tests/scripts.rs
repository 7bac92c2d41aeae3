//! Runs every golden script in `scripts/`: one story a file, written in the commands that
//! `harness/script.rs` lists. A script fails when what the nodes do differs from what it says.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p quorate-core --test scripts` writes the new output into the files. It
//! is to be read before it is believed: a golden script proves only that somebody looked.

mod harness;

use std::path::Path;
use test_each_file::test_each_path;

test_each_path! { in "./raft/tests/scripts" as script => run }

fn run(path: &Path) {
    if let Err(error) = goldenscript::run(&mut harness::Script::default(), path) {
        panic!("{}: {error}", path.display());
    }
}
