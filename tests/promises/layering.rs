//! The layer table of `src/lib.rs` is true: no module uses one of a higher layer, and what belongs to the rim stays
//! there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every module's layer, read from the table in the crate's documentation.
fn layers() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut layers = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("//! | ")) {
        let mut cells = line.trim_start_matches("//! |").split('|');
        let layer = cells.next().and_then(|cell| cell.trim().chars().next()?.to_digit(10));
        let (Some(layer), Some(modules)) = (layer, cells.next()) else { continue };
        for module in modules.split("[`").skip(1) {
            layers.insert(module.split('`').next().unwrap().to_owned(), layer);
        }
    }
    assert!(layers.len() > 15, "the layer table of src/lib.rs was not understood");
    layers
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Each source file below `src/` with its module and its code without test items and comments.
fn code() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    sources(&root().join("src"), &mut found);
    let describe = |path: PathBuf| {
        let relative = path.strip_prefix(root().join("src")).unwrap().to_string_lossy().replace('\\', "/");
        let module = relative.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        (relative, module, without_tests(&text))
    };
    found.into_iter().map(describe).filter(|(file, ..)| !is_test_file(file)).collect()
}

/// Files that hold tests only: their `mod` line, or that of the folder `tests/`, is under `#[cfg(test)]`.
fn is_test_file(file: &str) -> bool {
    file.contains("/tests/")
        || file.starts_with("fsx/simulated/")
        || ["tests.rs", "testing.rs", "fuzzing.rs", "realism.rs", "receiver.rs", "check.rs"]
            .iter()
            .any(|name| file.ends_with(name))
}

/// Source code without comments and without the items under `#[cfg(test)]`.
fn without_tests(text: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push(line);
            continue;
        }
        // The item is one line (`mod tests;`), or ends with the brace at the attribute's own indent.
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(indent));
        let is_one_line = lines.next().is_some_and(|item| item.trim_end().ends_with(';'));
        if !is_one_line {
            lines.by_ref().find(|line| *line == closing);
        }
    }
    kept.join("\n")
}

/// Modules named after `crate::` in some code, with `use crate::{a, b}` lists taken apart.
fn used_modules(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for part in code.split("crate::").skip(1) {
        let names = match part.strip_prefix('{') {
            Some(list) => list
                .split('}')
                .next()
                .unwrap()
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect::<Vec<_>>(),
            None => vec![part.to_owned()],
        };
        for name in names {
            used.push(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    used
}

#[test]
fn modules_use_only_their_own_layer_and_those_below() {
    let layers = layers();
    for (file, module, code) in code() {
        let Some(layer) = layers.get(&module) else { continue };
        for used in used_modules(&code) {
            if let Some(other) = layers.get(&used) {
                assert!(other <= layer, "{file} (layer {layer}) uses {used} (layer {other})");
            }
        }
    }
}

#[test]
fn every_module_of_the_crate_is_in_the_layer_table() {
    let layers = layers();
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for line in text.lines() {
        if let Some(module) = line.strip_prefix("pub mod ") {
            let module = module.trim_end_matches(';');
            assert!(layers.contains_key(module), "{module} is in no layer of the table in src/lib.rs");
        }
    }
}

#[test]
fn terminals_environment_clock_and_exit_codes_belong_to_the_rim() {
    let forbidden =
        ["println!", "eprintln!", "process::exit", "env::var", "Utc::now()", "clap::", "indicatif::"];
    for (file, module, code) in code() {
        if module == "cli" || module == "main" || file == "clock.rs" {
            continue;
        }
        for word in forbidden {
            assert!(!code.contains(word), "{file} uses {word}, which belongs to the rim");
        }
    }
}

#[test]
fn operating_systems_are_told_apart_in_one_module() {
    for (file, _, code) in code() {
        let asks = ["cfg(unix)", "cfg(windows)", "cfg(not(unix))", "std::os::unix", "std::os::windows"];
        if file != "platform.rs" {
            for word in asks {
                assert!(!code.contains(word), "{file} uses {word}, which belongs to platform.rs");
            }
        }
    }
}

/// Where files are changed by other means than `fsx`, and why that is right.
const WRITES_ITSELF: [(&str, &str); 4] = [
    ("cli/simulate.rs", "a stream to wherever the user says"),
    ("cli/context.rs", "removes scratch work when it is interrupted"),
    ("cli/bench.rs", "makes a folder for scratch work"),
    ("benchmark/data.rs", "scratch work, and a floor to compare with that is no state"),
];

/// What changes the disk; a file without a name (`tempfile::tempfile`) is no state.
const CHANGES: [&str; 17] = [
    "File::create(",
    "File::create_new(",
    "File::options",
    "OpenOptions",
    "fs::write(",
    "fs::rename(",
    "fs::remove_file(",
    "fs::remove_dir(",
    "fs::remove_dir_all(",
    "fs::create_dir(",
    "fs::create_dir_all(",
    "fs::copy(",
    "fs::hard_link(",
    "fs::set_permissions(",
    "tempfile::Builder",
    "NamedTempFile",
    "platform::sync_dir",
];

#[test]
fn state_is_written_by_fsx_alone() {
    for (file, _, code) in code() {
        if file.starts_with("fsx") || WRITES_ITSELF.iter().any(|(name, _)| *name == file) {
            continue;
        }
        // The layer's own names are those of the standard library with another path before them.
        let code = code.replace("disk::File::create_new(", "");
        for word in CHANGES {
            assert!(!code.contains(word), "{file} uses {word}: state is written by fsx");
        }
    }
}

#[test]
fn the_reader_of_sources_sees_past_test_modules() {
    let text = "mod a;\n#[cfg(test)]\nmod tests;\nuse crate::b;\n#[cfg(test)]\nmod more {\n    use crate::c;\n}\nuse crate::d;";
    assert_eq!(without_tests(text), "mod a;\nuse crate::b;\nuse crate::d;");
}
