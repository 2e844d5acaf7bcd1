//! A folder of recordings: which pairs there are, and that none is lost.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Fixture;

/// Checks every pair; one line for each.
///
/// - Errors: whatever is wrong with any of them, by name; a file without its partner; no network at all.
pub fn check(folder: &Path) -> Result<Vec<String>> {
    let (mut lines, mut failures, mut n_networks) = (Vec::new(), Vec::new(), 0);
    for name in names(folder)? {
        let checked = Fixture::read(folder, &name).and_then(|fixture| {
            n_networks += usize::from(fixture.json["kind"] != "data");
            fixture.check()
        });
        match checked {
            Ok(line) => lines.push(format!("{name}: {line}")),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(failures.is_empty(), "{} not as recorded\n{}", failures.len(), failures.join("\n"));
    ensure!(n_networks > 0, "no recording of a network");
    Ok(lines)
}

/// The names of all pairs, in their order.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    for entry in std::fs::read_dir(folder).context("list the recordings")? {
        let path = entry?.path();
        let kind = path.extension().and_then(|extension| extension.to_str());
        let Some(place) = ["json", "safetensors"].iter().position(|known| kind == Some(known)) else {
            continue;
        };
        found[place].insert(path.file_stem().context("a name")?.to_string_lossy().into_owned());
    }
    let [json, tensors] = found;
    let single: Vec<&String> = json.symmetric_difference(&tensors).collect();
    ensure!(single.is_empty(), "{single:?} have only one of .json and .safetensors");
    Ok(json)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A folder with a copy of the recording `tiny_init`.
    fn copied() -> TempDir {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parity");
        let folder = TempDir::new().unwrap();
        for file in ["tiny_init.json", "tiny_init.safetensors"] {
            fs::copy(golden.join(file), folder.path().join(file)).unwrap();
        }
        folder
    }

    #[track_caller]
    fn refused(prepare: impl Fn(&Path), expected: &str) {
        let folder = copied();
        prepare(folder.path());
        let message = format!("{:#}", check(folder.path()).unwrap_err());
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }

    /// Replaces a text of the JSON, which must be there.
    fn edit(folder: &Path, from: &str, to: &str) {
        let path = folder.join("tiny_init.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in the recording");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }

    #[test]
    fn nothing_is_passed_over() {
        assert_eq!(check(copied().path()).unwrap().len(), 1);
        let remove = |folder: &Path, file: &str| fs::remove_file(folder.join(file)).unwrap();
        refused(|folder| remove(folder, "tiny_init.json"), "tiny_init");
        refused(|folder| remove(folder, "tiny_init.safetensors"), "tiny_init");
        refused(|folder| edit(folder, r#""kind": "model""#, r#""kind": "video""#), "unknown kind \"video\"");
        refused(|folder| edit(folder, "{", ""), "understand tiny_init.json");
        refused(
            |folder| fs::write(folder.join("tiny_init.safetensors"), "x").unwrap(),
            "read tiny_init.safe",
        );
        let empty = TempDir::new().unwrap();
        assert!(check(empty.path()).unwrap_err().to_string().contains("no recording"));
        assert!(check(&empty.path().join("absent")).is_err());
    }

    #[test]
    fn another_network_than_the_recorded_one_is_noticed() {
        refused(|folder| edit(folder, r#""hidden_size": 8"#, r#""hidden_size": 9"#), "has shape");
        refused(|folder| edit(folder, r#""attention_head_size": 2"#, r#""attention_head_size": 1"#), "shape");
        refused(|folder| edit(folder, "softplus", "relu"), "out.prediction is off by");
        refused(|folder| edit(folder, r#""quantiles": [0.1"#, r#""quantiles": [0.2"#), "loss is off by");
        refused(|folder| edit(folder, r#""reduction": "mean""#, r#""reduction": "none""#), "reduction");
        refused(|folder| edit(folder, r#""dropout""#, r#""drop_out""#), "drop_out");
    }

    #[test]
    fn a_changed_number_is_noticed() {
        for (tensor, expected) in [
            ("param.output_layer.bias", "out.prediction is off"),
            ("grad.output_layer.bias", "grad.output_layer.bias is off"),
            ("grad.lstm_decoder.weight_ih_l0", "grad.lstm_decoder.weight_ih_l0 is off"),
            ("out.encoder_attention", "out.encoder_attention is off"),
            ("loss", "loss is off"),
        ] {
            refused(|folder| scale(folder, tensor, 1.001), expected);
            refused(|folder| scale(folder, tensor, f64::NAN), "tiny_init: ");
        }
        let unused = r#""grad_none": ["output_layer.bias"]"#;
        refused(|folder| edit(folder, r#""grad_none": []"#, unused), "output_layer.bias has a gradient of");
    }

    fn scale(folder: &Path, name: &str, factor: f64) {
        let path = folder.join("tiny_init.safetensors");
        let mut tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
        let scaled = (&tensors[name] * factor).unwrap();
        tensors.insert(name.to_owned(), scaled);
        candle_core::safetensors::save(&tensors, &path).unwrap();
    }
}
