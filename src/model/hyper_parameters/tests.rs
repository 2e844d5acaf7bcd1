//! Both ways of the mapping, and what it refuses.

use super::*;
use crate::model::EmbeddingSize;
use crate::model::Transformation::{self, *};
use crate::model::tests::small_config;

fn written(description: &HyperParameters) -> String {
    serde_json::to_string_pretty(description).unwrap()
}

fn parsed(json: &Value) -> anyhow::Result<HyperParameters> {
    HyperParameters::parse(json.to_string().as_bytes())
}

/// The JSON of the small network, to be changed.
fn json() -> Value {
    let losses =
        QuantileLosses { quantiles: vec![vec![0.1, 0.5, 0.9]; 2], target_weights: Some(vec![1.0, 0.5]) };
    serde_json::from_str(&written(&HyperParameters::of(small_config(), Some(losses)))).unwrap()
}

#[track_caller]
fn round_trip(change: impl FnOnce(&mut HyperParameters)) {
    let mut description = HyperParameters::of(small_config(), None);
    change(&mut description);
    let read = HyperParameters::parse(written(&description).as_bytes()).unwrap();
    assert_eq!(read, description);
}

#[test]
fn what_is_written_reads_back() {
    round_trip(|_| {});
    round_trip(|d| d.config.mask_bias = -1e4);
    round_trip(|d| {
        d.config.share_single_variable_networks = true;
        d.config.causal_attention = false;
        d.config.hidden_continuous_sizes = [("cpu".to_owned(), 7)].into();
        d.config.embedding_paddings = vec!["server".into()];
        d.config.dropout = 1.0 / 3.0;
    });
    round_trip(|d| {
        let all = [Identity, Relu, Softplus, Log, Log1p, Logit, Count, Sqrt];
        (d.config.output_sizes, d.config.output_transformations) = ((1..=all.len()).collect(), all.to_vec());
        let levels = |n| (1..=n).map(|i| f64::from(i) / 10.0).collect();
        let quantiles = (1..=all.len() as u32).map(levels).collect();
        d.loss = Some(QuantileLosses { quantiles, target_weights: None });
    });
    round_trip(|d| {
        (d.config.output_sizes, d.config.output_transformations) = (vec![2], vec![Transformation::Log]);
        d.loss = Some(QuantileLosses { quantiles: vec![vec![0.25, 0.5]], target_weights: None });
        d.without_effect.insert("learning_rate".into(), 0.03.into());
        d.training = Some(serde_json::json!({ "total_epochs": 3 }));
    });
    round_trip(|d| {
        d.config.categorical_groups =
            [("days".to_owned(), vec!["weekday".to_owned(), "holiday".into()])].into();
        d.config.x_categoricals.push("holiday".into());
        d.config.embedding_sizes.push(EmbeddingSize { name: "days".into(), classes: 4, dim: 2 });
    });
}

#[test]
fn tables_keep_their_order() {
    let mut config = small_config();
    config.embedding_sizes.reverse();
    let text = written(&HyperParameters::of(config.clone(), None));
    assert!(text.find("\"weekday\": [") < text.find("\"server\": ["), "{text}");
    assert_eq!(HyperParameters::parse(text.as_bytes()).unwrap().config, config);
    // A writer that sorts its keys says the order in another way.
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["parameter_order"] = serde_json::json!([
        "input_embeddings.embeddings.weekday.weight",
        "input_embeddings.embeddings.server.weight",
    ]);
    assert_eq!(parsed(&json).unwrap().config, config);
}

#[test]
fn arguments_may_stand_at_the_top_and_nulls_mean_the_librarys_defaults() {
    let flat = serde_json::json!({
        "hidden_size": 12, "output_size": 3, "x_reals": ["cpu"], "static_reals": null, "logging_metrics": null,
        "time_varying_reals_encoder": ["cpu"], "learning_rate": 0.01, "output_transformations": ["softplus"],
        "mask_bias": "-inf", "loss": {"class": "QuantileLoss", "quantiles": [0.1, 0.5, 0.9]},
    });
    let description = parsed(&flat).unwrap();
    let config = &description.config;
    assert_eq!((config.hidden_size, config.attention_head_size, config.hidden_continuous_size), (12, 4, 8));
    assert_eq!((config.mask_bias, &config.output_transformations), (-1e9, &vec![Softplus]));
    assert_eq!(description.without_effect["learning_rate"], 0.01);
    assert_eq!(description.assumed, Vec::<String>::new());
}

#[test]
fn an_assumption_is_told() {
    let mut json = json();
    json.as_object_mut().unwrap().remove("output_transformations");
    let description = parsed(&json).unwrap();
    assert_eq!(description.config.output_transformations, [Identity, Identity]);
    assert!(description.assumed[0].contains("output_transformations"));
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Value), expected: &str) {
    let mut json = json();
    change(&mut json);
    let message = format!("{:#}", parsed(&json).unwrap_err());
    assert!(message.contains(expected), "{message:?} does not say {expected:?}");
}

#[test]
fn what_has_no_equivalent_is_refused_by_name() {
    parsed(&json()).unwrap();
    refused(|j| j["constructor"]["n_experts"] = 3.into(), "`n_experts`");
    refused(|j| j["constructor"]["output_transformer"] = "GroupNormalizer".into(), "`output_transformer`");
    refused(
        |j| j["constructor"]["monotone_constraints"] = serde_json::json!({"cpu": 1}),
        "`monotone_constraints`",
    );
    refused(|j| j["constructor"]["mask_bias"] = "low".into(), "`mask_bias`");
    refused(|j| j["constructor"]["hidden_size"] = "many".into(), "`hidden_size`");
    refused(|j| j["constructor"]["embedding_sizes"]["server"] = 5.into(), "`embedding_sizes`");
    refused(|j| j["output_transformations"][1] = "boxcox".into(), "`boxcox`");
    refused(|j| j["output_transformations"][0] = "categorical".into(), "categorical");
    refused(|j| j["output_transformations"] = serde_json::json!([null]), "1 output transformations");
    refused(|j| j["loss"]["class"] = "CrossEntropy".into(), "`CrossEntropy`");
    refused(|j| j["loss"]["reduction"] = "sqrt-mean".into(), "`sqrt-mean`");
    refused(|j| j["loss"]["quantiles"] = serde_json::json!([0.5]), "[1, 1] quantiles");
    refused(|j| j["loss"]["quantiles"] = serde_json::json!([0.5, [0.5]]), "`quantiles`");
    refused(|j| j["loss"]["target_weights"] = serde_json::json!([1.0]), "1 target_weights for 2");
    refused(|j| j["format"] = (FORMAT + 1).into(), "format");
    assert!(HyperParameters::parse(b"{\"hidden_size\": 8").is_err());
}
