//! What the network promises as a whole, and small networks for the tests of its parts.

use super::*;

/// A small network with every kind of variable.
pub(crate) fn small_config() -> TftConfig {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
    TftConfig {
        hidden_size: 8,
        attention_head_size: 2,
        hidden_continuous_size: 4,
        max_encoder_length: 6,
        embedding_sizes: vec![
            EmbeddingSize { name: "server".into(), classes: 5, dim: 3 },
            EmbeddingSize { name: "weekday".into(), classes: 7, dim: 4 },
        ],
        static_categoricals: names(&["server"]),
        static_reals: names(&["cores"]),
        time_varying_categoricals_encoder: names(&["weekday"]),
        time_varying_categoricals_decoder: names(&["weekday"]),
        time_varying_reals_encoder: names(&["hour", "cpu", "mem"]),
        time_varying_reals_decoder: names(&["hour"]),
        x_reals: names(&["cores", "hour", "cpu", "mem"]),
        x_categoricals: names(&["server", "weekday"]),
        output_sizes: vec![3, 3],
        output_transformations: vec![Transformation::Identity, Transformation::Softplus],
        ..TftConfig::default()
    }
}
