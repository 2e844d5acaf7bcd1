//! What the README says in tables is what the program does.

use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_exit_code_table_is_the_one_in_code() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for (exit, meaning) in tftctl::error::Exit::TABLE {
        let row = format!("| {} | {meaning} |", exit.code());
        assert!(readme.contains(&row), "README.md lacks the row {row}");
    }
}

#[test]
fn ci_runs_the_command_of_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(readme.contains("scripts/check-all") && ci.contains("scripts/check-all"));
}
