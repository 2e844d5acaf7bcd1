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

#[test]
fn no_document_has_a_gap_left_to_fill() {
    let mut documents = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    documents.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for path in documents {
        let text = fs::read_to_string(&path).unwrap();
        let is_gap =
            |line: &&str| line.contains('_') && line.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        assert_eq!(text.lines().find(is_gap), None, "{}", path.display());
    }
}
