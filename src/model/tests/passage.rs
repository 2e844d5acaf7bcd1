//! A pass that nothing is recorded of takes short cuts: rows go through several blocks at once, second layers and gates are
//! one matrix. Its forecasts are those of the long way.

use super::*;

/// Without the weights of the attention (rows through all blocks) and with them (block by block) on the same detached
/// parameters: the same bits. With a record of the graph (nothing merged): the same but for rounding.
#[track_caller]
fn case(config: &TftConfig, input: &TftInput) {
    let params = Params::init(config, 11, &Device::Cpu).unwrap();
    let short = forward(config, &params.detached(), input, Mode::Eval);
    let long = forward(config, &params.detached(), input, Mode::Explain);
    let recorded = forward(config, &params, input, Mode::Eval);
    assert!(!short.prediction[0].track_op() && recorded.prediction[0].track_op());
    for ((short, long), recorded) in short.prediction.iter().zip(&long.prediction).zip(&recorded.prediction) {
        assert_eq!(short.dims(), long.dims());
        assert_eq!(values(short), values(long), "a row that goes its way at once");
        assert_close(&values(short), &values(recorded), 2e-6);
    }
}

#[test]
fn forecasts_are_those_of_the_long_way() {
    let fleet = fleet_config();
    case(&fleet, &batch(&fleet, 5, 37, 33));
    let config = small_config();
    for (n_samples, length, horizon) in [(1, 6, 1), (3, 6, 4), (40, 5, 3)] {
        let mut input = batch(&config, n_samples, length, horizon);
        case(&config, &input);
        for (sample, steps) in input.encoder_lengths.iter_mut().enumerate() {
            *steps = sample % (length + 1);
        }
        case(&config, &input);
        input.encoder_lengths.fill(0);
        case(&config, &input);
    }
    case(&config, &batch(&config, 3, 0, 4));
    let mut wide = small_config();
    (wide.hidden_size, wide.hidden_continuous_size, wide.attention_head_size) = (36, 40, 3);
    case(&wide, &batch(&wide, 2, 6, 5));
    let mut causal = small_config();
    (causal.causal_attention, causal.lstm_layers) = (!causal.causal_attention, 2);
    case(&causal, &batch(&causal, 3, 6, 5));
}
