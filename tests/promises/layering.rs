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

/// Each source file below `src/` with its module and its code without tests and comments.
fn code() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    sources(&root().join("src"), &mut found);
    let describe = |path: PathBuf| {
        let relative = path.strip_prefix(root().join("src")).unwrap().to_string_lossy().replace('\\', "/");
        let module = relative.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        (relative, module, code.join("\n"))
    };
    found.into_iter().map(describe).collect()
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
        let is_test = file.ends_with("/tests.rs") || file.ends_with("/testing.rs");
        if module == "cli" || module == "main" || file == "clock.rs" || is_test {
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
