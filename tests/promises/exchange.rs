//! Promise: networks go to pytorch-forecasting and come back bit for bit, and what cannot be used is refused by name.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tftctl::model::{Mode, Tft, TftInput};
use tftctl::train::TrainedModel;

use crate::common::{Story, text};

const WEIGHTS: &str = "model.safetensors";
const DESCRIPTION: &str = "hyper_parameters.json";
const PREPROCESSING: &str = "preprocessing.json";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Story {
    /// A small site on 2024-01-08 with one trained model; the outcome of its training.
    fn with_model() -> (Story, Value) {
        let mut story = Story::with_small_fleet();
        story.at("2024-01-08T02:00");
        story.run("window build").exit(0);
        let trained = story.run("train --epochs 1 --resume --json").exit(0).json();
        (story, trained)
    }

    /// A site that has never seen data, and the recorded network `tiny` as an exchange folder `tiny`.
    fn with_tiny() -> Story {
        let mut story = Story::new();
        story.run("init").exit(0);
        story.at("2024-01-08T02:00");
        let golden = root().join("tests/golden/parity/tiny.json");
        story.write("tiny/hyper_parameters.json", &fs::read_to_string(golden).unwrap());
        let tensors = load(&root().join("tests/golden/parity/tiny.safetensors"));
        let weights =
            tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix("param.")?.to_owned(), t.clone())));
        save(&story.path("tiny").join(WEIGHTS), &weights.collect());
        story
    }

    fn json_of(&self, relative: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(relative)).unwrap()).unwrap()
    }
}

fn load(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn save(path: &Path, tensors: &HashMap<String, Tensor>) {
    candle_core::safetensors::save(tensors, path).unwrap();
}

#[test]
fn a_model_goes_out_and_comes_back_bit_for_bit() {
    let (story, trained) = Story::with_model();
    let exported = story.run("models export --to pytorch-forecasting out --json").exit(0).json();
    assert_eq!(exported["model_id"], trained["model_id"]);
    assert_eq!(story.names("out"), [DESCRIPTION, WEIGHTS, PREPROCESSING]);
    let imported = story.run("models import --from pytorch-forecasting out --json").exit(0).json();
    assert_eq!(imported["weights_sha256"], trained["weights_sha256"]);
    assert_eq!((&imported["has_preprocessing"], &imported["warnings"]), (&json!(true), &json!([])));
    let (old, new) = (trained["model_id"].as_str().unwrap(), imported["model_id"].as_str().unwrap());
    assert_eq!(new, format!("{old}_1"));
    for file in [WEIGHTS, PREPROCESSING, "config.json"] {
        let bytes = |id: &str| fs::read(story.path("models").join(id).join(file)).unwrap();
        assert!(bytes(old) == bytes(new), "{file} changed on its way");
    }
    // What it is known to have seen comes along, its lineage is its own.
    assert_eq!(imported["trained_until"], trained["trained_until"]);
    assert_eq!((&imported["total_epochs"], &imported["is_trained_until_known"]), (&json!(1), &json!(true)));
    assert_eq!(imported["source_model"], old);
    let manifest = story.json_of(&format!("models/{new}/manifest.json"));
    assert!(manifest["lineage"].as_str().unwrap().starts_with("import-") && manifest["parent"].is_null());
    story.run("models show").exit(0).stdout("from pytorch-forecasting, with preprocessing");
    // A second way out has the same weights and description.
    story
        .run(&format!("models export --to pytorch-forecasting {new} again"))
        .exit(0)
        .stdout("with preprocessing");
    let bytes = |dir: &str| fs::read(story.path(dir).join(WEIGHTS)).unwrap();
    assert!(bytes("out") == bytes("again"));
    let description = |dir: &str| story.json_of(&format!("{dir}/{DESCRIPTION}"));
    for key in ["constructor", "loss", "output_transformations"] {
        assert_eq!(description("out")[key], description("again")[key]);
    }
}

#[test]
fn an_imported_model_is_examined_promoted_forecast_with_and_trained_from() {
    let (story, trained) = Story::with_model();
    story.run("models export --to pytorch-forecasting out").exit(0);
    let imported = story.run("models import --from pytorch-forecasting out --json").exit(0).json();
    let id = imported["model_id"].as_str().unwrap();
    let exams = [&trained["model_id"], &imported["model_id"]].map(|id| {
        let verdict = story.run(&format!("validate {} --json", id.as_str().unwrap())).json();
        let checks = verdict["checks"].as_array().unwrap().clone();
        let check = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap()["passed"].clone();
        assert_eq!((check("loads"), check("unseen_holdout")), (json!(true), json!(true)));
        verdict["loss"].as_f64().unwrap()
    });
    assert_eq!(exams[0], exams[1]);
    story.run(&format!("promote {id} --force --reason testing")).exit(0);
    let forecast = story.run("predict --json").exit(0).json();
    assert_eq!(forecast["model_id"], id);
    let next = story.run(&format!("train --epochs 1 --from {id} --json")).exit(0).json();
    assert_eq!((&next["parent"], &next["total_epochs"]), (&json!(id), &json!(2)));
    assert_eq!(next["lineage"], imported["lineage"]);
    assert_eq!(next["total_steps"].as_u64(), trained["total_steps"].as_u64().map(|steps| 2 * steps));
}

#[test]
fn what_an_unknown_past_may_have_seen_is_no_exam() {
    let (story, _) = Story::with_model();
    story.run("models export --to pytorch-forecasting out").exit(0);
    let mut description = story.json_of("out/hyper_parameters.json");
    description.as_object_mut().unwrap().remove("training");
    story.write("out/hyper_parameters.json", &description.to_string());
    let imported = story.run("models import --from pytorch-forecasting out --json").exit(0);
    let warned = imported.json();
    assert!(imported.stderr.contains("until when"), "{}", imported.stderr);
    assert_eq!(warned["trained_until"], "2024-01-08T02:00:00Z");
    assert_eq!((&warned["total_epochs"], &warned["is_trained_until_known"]), (&json!(0), &json!(false)));
    story.run("validate").exit(3).stdout("this exam proves nothing");
    story.run("promote").exit(3);
}

#[test]
fn a_recorded_network_comes_in_with_its_description_as_it_stands_and_goes_out_with_every_alias() {
    let story = Story::with_tiny();
    let ran = story.run("models import --from pytorch-forecasting tiny --json").exit(0);
    let imported = ran.json();
    assert_eq!(imported["has_preprocessing"], false);
    assert_eq!(imported["n_weights"], 5703);
    story.run("validate").exit(2).stderr("without vocabulary and scalers");
    let foreign: Vec<&str> =
        imported["foreign_inputs"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(foreign, ["server", "ram_gb", "cores", "hour_sin", "hour_cos", "cpu_system_pct"]);
    assert!(ran.stderr.contains("no columns for server, ram_gb, cores"), "{}", ran.stderr);
    let exported = story.run("models export --to pytorch-forecasting out --json").exit(0).json();
    let recorded = story.json_of("tiny/hyper_parameters.json");
    let aliases = recorded["aliases"].as_object().unwrap();
    assert_eq!(exported["n_aliases"], aliases.len());
    let (given, written) = (load(&story.path("tiny").join(WEIGHTS)), load(&story.path("out").join(WEIGHTS)));
    let names = |tensors: &HashMap<String, Tensor>| tensors.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&given), names(&written));
    assert!(aliases.keys().all(|alias| written.contains_key(alias)));
    let bits = |t: &Tensor| {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    for (name, tensor) in &given {
        assert_eq!((tensor.dims(), bits(tensor)), (written[name].dims(), bits(&written[name])), "{name}");
    }
    let description = story.json_of("out/hyper_parameters.json");
    for (argument, value) in recorded["constructor"].as_object().unwrap() {
        assert_eq!(&description["constructor"][argument], value, "{argument}");
    }
    assert_eq!(description["loss"]["quantiles"], recorded["loss"]["quantiles"]);
}

#[test]
fn without_preprocessing_everything_that_needs_it_says_so() {
    let (story, _) = Story::with_model();
    let tiny = Story::with_tiny();
    let folder = text(tiny.path("tiny"));
    let imported =
        story.run(&format!("models import --from pytorch-forecasting {folder} --json")).exit(0).json();
    let id = imported["model_id"].as_str().unwrap();
    let sentence = format!("{id} was imported without vocabulary and scalers (preprocessing.json)");
    for command in ["validate", "promote", "promote --dry-run", "promote --force --reason testing"] {
        story.run(&format!("{command} {id}")).exit(2).stderr(&sentence);
    }
    story.run(&format!("predict --model {id}")).exit(2).stderr(&sentence);
    story.run(&format!("train --from {id}")).exit(2).stderr(&sentence);
    assert!(!story.path("models").join(id).join("validation.json").exists());
    story
        .run("models show")
        .exit(0)
        .stdout("from pytorch-forecasting, without preprocessing")
        .stdout("train loss      -");
    story.run("models list").exit(0).stdout("no preprocessing");
}

/// Imports `tiny` with changed tensors or description: a failure that names `expected`, and no model.
#[track_caller]
fn refused(change: impl FnOnce(&mut HashMap<String, Tensor>, &mut Value), expected: &str) {
    let story = Story::with_tiny();
    let weights = story.path("tiny").join(WEIGHTS);
    let (mut tensors, mut description) = (load(&weights), story.json_of("tiny/hyper_parameters.json"));
    change(&mut tensors, &mut description);
    save(&weights, &tensors);
    story.write("tiny/hyper_parameters.json", &description.to_string());
    story.run("models import --from pytorch-forecasting tiny").exit(1).stderr(expected);
    assert_eq!(story.names("models"), Vec::<String>::new());
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let (name, alias) = ("prescalers.cores.bias", "static_variable_selection.prescalers.cores.bias");
    refused(
        |t, _| t.retain(|found, _| !found.starts_with("lstm_encoder.bias_hh")),
        "parameter lstm_encoder.bias_hh_l0 is missing",
    );
    refused(
        |t, _| drop(t.insert("lstm_encoder.bias_hh_l1".into(), t[name].clone())),
        "parameter lstm_encoder.bias_hh_l1 is not part of this network",
    );
    refused(
        |t, _| drop(t.insert("w".to_owned() + "_h", t[name].clone())),
        "parameter w_h is not part of this network",
    );
    refused(
        |t, _| drop(t.insert("output_layer.bias".into(), t[name].clone())),
        "parameter output_layer.bias has shape [4], the network needs [3]",
    );
    refused(
        |t, _| drop(t.insert(alias.into(), (&t[alias] + 1e-6).unwrap())),
        &format!("parameter {alias} differs from {name}"),
    );
    refused(
        |t, _| {
            drop(t.insert(
                "output_layer.bias".into(),
                Tensor::new(&[0f32, f32::NAN, 0.0], &Device::Cpu).unwrap(),
            ))
        },
        "parameter output_layer.bias holds a value that is not finite",
    );
    refused(|_, json| json["constructor"]["n_experts"] = 2.into(), "`n_experts` has no equivalent");
    refused(|_, json| json["output_transformations"][0] = "boxcox".into(), "`boxcox` has no equivalent");
    refused(|_, json| json["training"] = json!({"trained_until": "tomorrow"}), "`training`");
    refused(|_, json| json["constructor"]["hidden_size"] = 9.into(), "has shape");
}

#[test]
fn a_preprocessing_of_another_network_is_refused_by_name() {
    let (story, _) = Story::with_model();
    story.run("models export --to pytorch-forecasting out").exit(0);
    let n_models = story.names("models").len();
    let whole = story.json_of("out/preprocessing.json");
    let with = |change: &dyn Fn(&mut Value), expected: &str| {
        let mut changed = whole.clone();
        change(&mut changed);
        story.write("out/preprocessing.json", &changed.to_string());
        story.run("models import --from pytorch-forecasting out").exit(1).stderr(expected);
        assert_eq!(story.names("models").len(), n_models);
    };
    with(&|p| p["targets"] = json!(["cpu_user_pct"]), "`mem_used_pct_center`");
    with(&|p| p["encoder_length"] = 25.into(), "max_encoder_length is 24");
    with(&|p| drop(p["vocabulary"]["servers"].as_array_mut().unwrap().pop()), "do not fit together");
    with(&|p| p["quantiles"][0] = 0.03.into(), "the loss has the quantiles");
    with(&|p| p["format"] = 99.into(), "a newer one wrote it");
}

#[test]
fn folders_that_are_not_there_or_not_empty_touch_nothing() {
    let story = Story::with_tiny();
    story.run("models import --from pytorch-forecasting nowhere").exit(2).stderr("nowhere");
    story.run("models import --from keras tiny").exit(2).stderr("pytorch-forecasting");
    story.run("models export --to pytorch-forecasting out").exit(2).stderr("no model");
    story.run("models import --from pytorch-forecasting tiny").exit(0);
    story.run("models export --to pytorch-forecasting tiny").exit(2).stderr("not empty");
    story.run("models export --to pytorch-forecasting tiny/model.safetensors").exit(2).stderr("not empty");
    story.run("models export --to pytorch-forecasting tft_model_20200101_000000 out").exit(2);
    assert!(!story.path("out").exists());
    let held = tftctl::fsx::Lock::acquire(&story.path("state/site.lock"), "pid 1 `nightly`").unwrap();
    story.run("models import --from pytorch-forecasting tiny").exit(5);
    story.run("models export --to pytorch-forecasting out").exit(0);
    drop(held);
}

/// The Python in `PF_PYTHON`, which has pytorch-forecasting, or `None` with a printed line.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("PF_PYTHON").map(PathBuf::from);
    if python.is_none() {
        println!("skipped: PF_PYTHON names no Python with pytorch-forecasting");
    }
    python
}

/// Runs `scripts/lightning-checkpoint`, which must end well.
#[track_caller]
fn script(python: &Path, story: &Story, args: &[&str]) -> String {
    let script = root().join("scripts/lightning-checkpoint");
    let ran: Output = Command::new(python)
        .arg(script)
        .args(args)
        .current_dir(story.path("."))
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{args:?}: {stdout}{stderr}");
    format!("{stdout}{stderr}")
}

/// Repeatable numbers between -2 and 2.
fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed) * 7919 % 4001) as f32 - 2000.0) / 1000.0).collect()
}

/// A batch for a model, what the model makes of it, in the layout of the recordings.
fn record_batch(dir: &Path, out: &Path) {
    let model = TrainedModel::read(dir, &Device::Cpu).unwrap();
    let config = &model.config;
    let (n, n_encoder, n_decoder) = (5, config.max_encoder_length, model.preprocessing.horizon);
    let reals = |steps: usize, seed| {
        let n_reals = config.x_reals.len();
        Tensor::from_vec(noise(n * steps * n_reals, seed), (n, steps, n_reals), &Device::Cpu).unwrap()
    };
    let classes: Vec<u32> = config.embedding_sizes.iter().map(|table| table.classes as u32).collect();
    let codes = |steps: usize| {
        let codes =
            (0..n * steps * classes.len()).map(|i| (i / classes.len()) as u32 % classes[i % classes.len()]);
        Tensor::from_vec(codes.collect(), (n, steps, classes.len()), &Device::Cpu).unwrap()
    };
    let scale = Tensor::from_vec([0f32, 1.0].repeat(n), (n, 2), &Device::Cpu).unwrap();
    let input = TftInput {
        encoder_cont: reals(n_encoder, 1),
        decoder_cont: reals(n_decoder, 2),
        encoder_cat: codes(n_encoder),
        decoder_cat: codes(n_decoder),
        encoder_lengths: vec![n_encoder; n],
        decoder_lengths: vec![n_decoder; n],
        target_scale: vec![scale; config.output_sizes.len()],
    };
    let output = Tft::new(config, &model.params).unwrap().forward(&input, &Mode::Eval).unwrap();
    let lengths = |steps: usize| Tensor::new(vec![steps as i64; n], &Device::Cpu).unwrap();
    let mut tensors: HashMap<String, Tensor> = [
        ("in.encoder_cont", input.encoder_cont.clone()),
        ("in.decoder_cont", input.decoder_cont.clone()),
        ("in.encoder_cat", input.encoder_cat.clone()),
        ("in.decoder_cat", input.decoder_cat.clone()),
        ("in.encoder_lengths", lengths(n_encoder)),
        ("in.decoder_lengths", lengths(n_decoder)),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .into();
    for (i, (scale, prediction)) in input.target_scale.iter().zip(&output.prediction).enumerate() {
        tensors.insert(format!("in.target_scale.{i}"), scale.clone());
        tensors.insert(format!("out.prediction.{i}"), prediction.detach());
    }
    save(out, &tensors);
}

#[test]
fn the_library_loads_a_model_of_ours_strictly_and_forecasts_the_same() {
    let Some(python) = python() else { return };
    let (story, trained) = Story::with_model();
    story.run("models export --to pytorch-forecasting out").exit(0);
    record_batch(Path::new(trained["model_dir"].as_str().unwrap()), &story.path("batch.safetensors"));
    let told = script(&python, &story, &["check", "out", "--against", "batch.safetensors"]);
    println!("{told}");
    script(&python, &story, &["to-checkpoint", "out", "ours.ckpt"]);
    script(&python, &story, &["to-folder", "ours.ckpt", "back"]);
    let imported = story.run("models import --from pytorch-forecasting back --json").exit(0).json();
    assert_eq!(imported["weights_sha256"], trained["weights_sha256"]);
    assert_eq!(imported["total_epochs"], 1);
    assert_eq!(story.json_of("back/preprocessing.json"), story.json_of("out/preprocessing.json"));
    story.run(&format!("predict --model {}", imported["model_id"].as_str().unwrap())).exit(0);
}

#[test]
fn recorded_lightning_checkpoints_pass_through() {
    let Some(python) = python() else { return };
    let folder = std::env::var_os("TFTCTL_PARITY_DIR").map_or(root().join("../shared/parity"), PathBuf::from);
    let entries = fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let checkpoints: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "ckpt")).collect();
    if checkpoints.is_empty() {
        println!("skipped: no recorded checkpoint in {}", folder.display());
    }
    for checkpoint in checkpoints {
        let story = Story::with_tiny();
        let told = script(&python, &story, &["to-folder", &text(&checkpoint), "theirs"]);
        assert!(told.contains("no preprocessing.json: "), "{told}");
        story.run("models import --from pytorch-forecasting theirs").exit(0).stdout("without preprocessing");
        story.run("models export --to pytorch-forecasting back").exit(0);
        let recording = checkpoint.with_extension("safetensors");
        println!("{}", script(&python, &story, &["check", "back", "--against", &text(&recording)]));
        // What the library trained with is kept for the way back.
        let (given, kept) =
            (story.json_of("theirs/hyper_parameters.json"), story.json_of("back/hyper_parameters.json"));
        for (argument, value) in
            given["constructor"].as_object().unwrap().iter().filter(|(_, value)| !value.is_null())
        {
            if argument != "monotone_constraints" {
                assert_eq!(&kept["constructor"][argument], value, "{argument}");
            }
        }
    }
}
