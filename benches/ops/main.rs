//! Every operation of the network and its optimizer, beside its oracle where it has two forms, and beside a plain sgemm
//! of the same products.
//!
//! `cargo bench --bench ops` runs all at hidden sizes 32, 64 and 128; `cargo bench --bench ops -- 'lstm/32'` some.
//! Value and every gradient of the two forms are compared at the size that is timed, before it is timed. The rate that
//! criterion prints is that of the matrix products' arithmetic (Gelem/s are GFLOP/s); `sgemm` does the same products and
//! nothing else on all threads. Operations without products print rows per second.

mod blocks;
mod case;
mod elementwise;

use criterion::{Criterion, criterion_group, criterion_main};

use case::{Case, Widths};

/// Hidden sizes with the width of a real input.
const WIDTHS: [Widths; 3] = [
    Widths { hidden: 32, continuous: 16 },
    Widths { hidden: 64, continuous: 32 },
    Widths { hidden: 128, continuous: 64 },
];

fn all(criterion: &mut Criterion) {
    case::one_tensor_thread();
    let cases: [fn(Widths) -> Case; 12] = [
        blocks::variable_selection,
        blocks::grn,
        blocks::gate_add_norm,
        blocks::linear,
        blocks::lstm,
        blocks::attention,
        elementwise::layer_norm,
        elementwise::dropout,
        elementwise::resample_norm,
        elementwise::softmax,
        elementwise::quantile_loss,
        elementwise::adamw,
    ];
    for case in cases {
        for widths in WIDTHS {
            case(widths).bench(criterion, widths.hidden);
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = all
}
criterion_main!(benches);
