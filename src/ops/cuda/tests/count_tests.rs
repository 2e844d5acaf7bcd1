//! How many launches the operations of a training step are: what docs/performance.md tells of them.

use std::sync::Arc;

use super::*;
use crate::ops::cuda::attention::{Attention, Lengths};
use crate::ops::cuda::collapse::{self, Collapse};
use crate::ops::cuda::gate::Gate;
use crate::ops::cuda::grn::Grn;
use crate::ops::cuda::linear::{Linear, Rows};
use crate::ops::cuda::lstm::Lstm;
use crate::ops::cuda::machine::{Arg, Grid};
use crate::ops::cuda::vsn::{Inputs, Vsn};
use crate::ops::vsn::collapse::{Collapsed, TableRows};
use crate::ops::vsn::tests::Case;
use crate::ops::vsn::tile::Sizes;
use crate::ops::vsn::weights::Packed;

/// A machine that only counts.
#[derive(Default)]
struct Counter {
    n: usize,
}

impl Machine for Counter {
    fn alloc(&mut self, len: usize) -> Result<Memory> {
        Ok(Memory { address: 1 << 20, len })
    }

    fn upload(&mut self, words: &[u32]) -> Result<Memory> {
        self.alloc(words.len())
    }

    fn table(&mut self, words: &[u32]) -> Result<Memory> {
        self.alloc(words.len())
    }

    fn shared_bytes(&self) -> usize {
        227 * 1024
    }

    fn launch(&mut self, _kernel: &str, _grid: Grid, _args: &[Arg]) -> Result<()> {
        self.n += 1;
        Ok(())
    }
}

/// Launches of `work`.
fn count(work: impl FnOnce(&mut Counter) -> Result<()>) -> usize {
    let mut counter = Counter::default();
    work(&mut counter).unwrap();
    counter.n
}

fn any(len: usize) -> Memory {
    Memory { address: 1 << 20, len }
}

/// A selection of `n_categoricals` and `n_reals`, forward and backward.
fn selection(n_categoricals: usize, n_reals: usize, n_rows: usize) -> [usize; 2] {
    let built = Case::new(n_categoricals, &vec![16; n_reals], 32).unwrap();
    let packed: Arc<Packed> = built.weights.packed.clone();
    let collapsed = Collapsed::of(&packed, &vec![TableRows::Codes; n_categoricals]);
    let sizes = Sizes { n_groups: 64, n_rows, n_reals: n_reals + 1, n_codes: n_categoricals, hidden: 32 };
    let collapse = Collapse { packed: &packed, collapsed: &collapsed, n_columns: n_categoricals };
    let vsn = Vsn { sizes, collapsed: &collapsed, masks: None };
    let parameters = collapse::Inputs { own: any(packed.n_own), common: any(packed.n_common), codes: any(1) };
    let inputs = |values| Inputs { reals: any(1), codes: any(1), context: any(1), values };
    let forward = count(|machine| {
        let values = collapse.values(machine, parameters)?;
        vsn.forward(machine, inputs(values)).map(|_| ())
    });
    let backward = count(|machine| {
        let values = collapse.values(machine, parameters)?;
        let [_, d_values] = vsn.backward(machine, inputs(values), any(1 << 24), any(1 << 24))?;
        collapse.expand(machine, parameters, d_values).map(|_| ())
    });
    [forward, backward]
}

#[test]
fn operations_are_as_many_launches_as_is_told() {
    assert_eq!(selection(0, 21, 288), [2, 7], "the encoder's variables");
    assert_eq!(selection(2, 2, 1), [2, 10], "categoricals are three more");
    let grn = |n_samples| Grn { n_rows: 24_576, n_samples, n_in: 32, hidden: 32, n_out: 32, mask: None };
    let values = any(1 << 24);
    for (context, n_samples, expected) in [(None, None, [1, 2]), (Some(values), Some(64), [1, 3])] {
        let forward = count(|m| grn(n_samples).forward(m, values, context, values).map(|_| ()));
        let backward = count(|m| grn(n_samples).backward(m, values, context, values, values).map(|_| ()));
        assert_eq!([forward, backward], expected, "a gated residual network");
    }
    let gate = Gate { n_rows: 24_576, n_in: 32, n_out: 32, mask: None };
    assert_eq!(count(|m| gate.forward(m, values, values, values).map(|_| ())), 1);
    assert_eq!(count(|m| gate.backward(m, [values; 3], values).map(|_| ())), 2);
    let lstm = Lstm { batch: 64, n_steps: 288, width: 32, hidden: 32 };
    assert_eq!(count(|m| lstm.forward(m, [values; 3], None).map(|_| ())), 3);
    assert_eq!(count(|m| lstm.backward(m, [values; 3], None, Some(values), values).map(|_| ())), 5);
    let (linear, rows) = (Linear { n_rows: 24_576, n_in: 32, n_out: 32 }, Rows { at: values, stride: 32 });
    assert_eq!(count(|m| linear.forward(m, values, rows, None, rows)), 1);
    let backward =
        |m: &mut Counter| linear.backward(m, rows, rows, rows, None, true)?.parts.sum(m).map(|_| ());
    assert_eq!(count(backward), 2);
    let (history, horizon) = (288, 96);
    let attention = Attention {
        batch: 64,
        history,
        horizon,
        n_heads: 8,
        width: 4,
        scale: 1.0,
        fill: -1e9,
        dropped: None,
    };
    let lengths = Lengths { history: None, future: None };
    assert_eq!(count(|m| attention.forward(m, [values; 3], lengths).map(|_| ())), 2);
    assert_eq!(count(|m| attention.backward(m, [values; 3], lengths, values, values).map(|_| ())), 3);
}
