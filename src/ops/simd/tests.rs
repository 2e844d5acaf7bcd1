use super::lanes::{LANES, Lanes};
use super::*;
use crate::ops::random::Key;

fn noise(name: &str, n: usize) -> Vec<f32> {
    let key = Key::new(5).name(name);
    (0..n).map(|i| key.normal(i as u64) as f32).collect()
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&a, &b)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(a) - b).abs();
        assert!(off <= tolerance * (1.0 + b.abs()), "{what} at {i}: {a}, expected {b}");
    }
}

/// Every set gives what the portable one gives, up to rounding; the wide ones agree to the bit.
fn same(what: &str, run: impl Fn(Simd) -> Vec<f32>) -> Vec<f32> {
    let levels = Simd::available();
    let results: Vec<Vec<f32>> = levels.iter().map(|&simd| run(simd)).collect();
    let portable: Vec<f64> = results.last().unwrap().iter().map(|&x| f64::from(x)).collect();
    for (simd, result) in levels.iter().zip(&results) {
        assert_near(result, &portable, 2e-5, &format!("{what} with {}", simd.name()));
    }
    if let [first, second, _] = &results[..] {
        assert_eq!(first, second, "{what}: AVX-512 and AVX2 differ");
    }
    results.into_iter().next().unwrap()
}

#[test]
fn rows_turn_into_tiles_and_back() {
    for (n_rows, width, stride) in [(32, 16, 16), (1, 1, 1), (31, 33, 40), (17, 5, 9), (3, 64, 64)] {
        let rows = noise("rows", n_rows * stride);
        let tile = same("load_rows", |simd| {
            let mut tile = vec![9.0; width * ROWS];
            simd.load_rows(&rows, stride, n_rows, width, &mut tile);
            tile
        });
        for feature in 0..width {
            for row in 0..ROWS {
                let expected = if row < n_rows { rows[row * stride + feature] } else { 0.0 };
                assert_eq!(tile[feature * ROWS + row], expected);
            }
        }
        let back = same("store_rows", |simd| {
            let mut back = vec![7.0; n_rows * stride];
            simd.store_rows(&tile, width, &mut back, stride, n_rows);
            back
        });
        for (i, &value) in back.iter().enumerate() {
            assert_eq!(value, if i % stride < width { rows[i] } else { 7.0 });
        }
    }
}

#[test]
fn products_are_those_of_matrices() {
    for (n_out, n_in) in [(1, 1), (8, 16), (22, 21), (64, 16), (7, 33), (13, 5), (32, 64)] {
        let (weights, x) = (noise("w", n_out * n_in), noise("x", n_in * ROWS));
        let (bias, before) = (noise("b", n_out), noise("y", n_out * ROWS));
        let expected = |start: &dyn Fn(usize, usize) -> f32| -> Vec<f64> {
            let sum = |out: usize, row: usize| -> f64 {
                let term = |i: usize| f64::from(weights[out * n_in + i]) * f64::from(x[i * ROWS + row]);
                f64::from(start(out, row)) + (0..n_in).map(term).sum::<f64>()
            };
            (0..n_out * ROWS).map(|at| sum(at / ROWS, at % ROWS)).collect()
        };
        let run = |init: Init<'_>, matrix: Matrix<'_>| {
            same("product", |simd| {
                let mut y = before.clone();
                simd.product(matrix, (n_out, n_in), &x, init, &mut y);
                y
            })
        };
        let rows = Matrix::rows(&weights, n_in);
        assert_near(&run(Init::Zero, rows), &expected(&|_, _| 0.0), 1e-5, "zero");
        assert_near(&run(Init::Bias(&bias), rows), &expected(&|out, _| bias[out]), 1e-5, "bias");
        let on_top = expected(&|out, row| before[out * ROWS + row]);
        assert_near(&run(Init::Output, rows), &on_top, 1e-5, "output");
        let mut turned = vec![0.0; weights.len()];
        for (i, &w) in weights.iter().enumerate() {
            turned[i % n_in * n_out + i / n_in] = w;
        }
        assert_near(
            &run(Init::Zero, Matrix::columns(&turned, n_out)),
            &expected(&|_, _| 0.0),
            1e-5,
            "columns",
        );
    }
}

#[test]
fn live_rows_are_copied_and_others_left_alone() {
    for (width, stride, to_stride) in [(1, 1, 3), (16, 40, 16), (21, 21, 33)] {
        // The last rows do not even exist.
        let rows = noise("rows", 29 * stride + width);
        let live: Vec<f32> = (0..ROWS).map(|row| f32::from(u8::from(row < 30 && row % 3 > 0))).collect();
        let copied = same("copy_rows", |simd| {
            let mut to = vec![7.0; ROWS * to_stride];
            simd.copy_rows(&rows, stride, width, &live, &mut to, to_stride);
            simd.prefetch_rows(&rows, stride, 30, width);
            to
        });
        for (at, &value) in copied.iter().enumerate() {
            let (row, i) = (at / to_stride, at % to_stride);
            let expected = if live[row] > 0.0 && i < width { rows[row * stride + i] } else { 7.0 };
            assert_eq!(value, expected, "row {row}, number {i}");
        }
    }
}

/// The states after a step in plain numbers: gates (input, forget, fresh, output) and the cell before.
fn lstm_step(gates: [f64; 4], before: f64) -> (f64, f64) {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let cell = sigmoid(gates[1]) * before + sigmoid(gates[0]) * gates[2].tanh();
    (cell, sigmoid(gates[3]) * cell.tanh())
}

#[test]
fn a_step_of_an_lstm_goes_forward_and_back() {
    for n in [1, 5, 16] {
        let tile = n * ROWS;
        let (gates, before) = (noise("gates", 4 * tile), noise("cell", tile));
        let slopes: Vec<Vec<f32>> = ["output", "hidden", "cell"].map(|name| noise(name, tile)).into();
        let live: Vec<f32> = (0..ROWS).map(|row| f32::from(u8::from(row % 5 != 2))).collect();
        // Behind a dead row anything may stand.
        let dead = |at: usize| live[at % ROWS] == 0.0;
        let broken = |values: &[f32]| -> Vec<f32> {
            values.iter().enumerate().map(|(at, &v)| if dead(at) { f32::NAN } else { v }).collect()
        };
        let found = same("lstm", |simd| {
            let mut record = broken(&gates);
            record.resize(5 * tile, 7.0);
            let (mut cell, mut hidden) = (broken(&before), vec![7.0; tile]);
            simd.lstm_forward(&mut record, n, &live, &mut cell, &mut hidden);
            let (mut d_cell, mut d_hidden) = (slopes[2].clone(), slopes[1].clone());
            for at in (0..tile).filter(|&at| dead(at)) {
                (d_cell[at], d_hidden[at]) = (0.0, 0.0);
            }
            let mut d_gates = vec![7.0; 4 * tile];
            let d_states = (&*broken(&slopes[0]), &*d_hidden);
            simd.lstm_backward(&record, n, &live, d_states, &mut d_cell, &mut d_gates);
            [cell, hidden, d_cell, d_gates].concat()
        });
        let mut expected = vec![0.0; 7 * tile];
        for at in (0..tile).filter(|&at| !dead(at)) {
            let inputs = [0, 1, 2, 3].map(|gate| f64::from(gates[gate * tile + at]));
            let cell_before = f64::from(before[at]);
            let loss = |gates: [f64; 4], before: f64| {
                let (cell, hidden) = lstm_step(gates, before);
                cell * f64::from(slopes[2][at]) + hidden * f64::from(slopes[0][at] + slopes[1][at])
            };
            let slope = |shifted: &dyn Fn(f64) -> f64| (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
            (expected[at], expected[tile + at]) = lstm_step(inputs, cell_before);
            expected[2 * tile + at] = slope(&|by| loss(inputs, cell_before + by));
            for gate in 0..4 {
                let shifted = |by| {
                    let mut inputs = inputs;
                    inputs[gate] += by;
                    loss(inputs, cell_before)
                };
                expected[(3 + gate) * tile + at] = slope(&shifted);
            }
        }
        assert_near(&found, &expected, 2e-6, "lstm");
    }
}

#[test]
fn outer_products_and_sums_run_over_the_rows() {
    for (n_out, n_in, stride) in [(1, 1, 1), (16, 16, 16), (64, 16, 20), (22, 21, 21), (13, 40, 48)] {
        let (dy, x) = (noise("dy", n_out * ROWS), noise("x", ROWS * stride));
        let before = noise("dw", n_out * n_in);
        let found = same("outer", |simd| {
            let mut dw = before.clone();
            simd.outer(&dy, &x, stride, (n_out, n_in), &mut dw);
            dw
        });
        let expected: Vec<f64> = (0..n_out * n_in)
            .map(|at| {
                let term = |row: usize| {
                    f64::from(dy[at / n_in * ROWS + row]) * f64::from(x[row * stride + at % n_in])
                };
                f64::from(before[at]) + (0..ROWS).map(term).sum::<f64>()
            })
            .collect();
        assert_near(&found, &expected, 1e-5, "outer");
    }
    for n in [1, 16, 21, 40] {
        let (a, b, one) = (noise("a", n * ROWS), noise("b", n * ROWS), noise("one", ROWS));
        let sums = |factor: &dyn Fn(usize) -> f64| -> Vec<f64> {
            let row_sum = |i: usize| (i * ROWS..(i + 1) * ROWS).map(|at| f64::from(a[at]) * factor(at)).sum();
            (0..n).map(row_sum).collect()
        };
        let run = |what: &str, add: &dyn Fn(Simd, &mut [f32])| {
            same(what, |simd| {
                let mut found = vec![0.0; n];
                add(simd, &mut found);
                found
            })
        };
        assert_near(&run("sums", &|s, to| s.add_row_sums(&a, n, to)), &sums(&|_| 1.0), 1e-5, "sums");
        let dots = sums(&|at| f64::from(b[at]));
        assert_near(&run("dots", &|s, to| s.add_row_dots(&a, &b, n, to)), &dots, 1e-5, "dots");
        let moments = sums(&|at| f64::from(one[at % ROWS]));
        assert_near(&run("moments", &|s, to| s.add_row_moments(&a, &one, n, to)), &moments, 1e-5, "moments");
    }
}

/// What a score weighs beside the largest.
fn weight(score: f32, largest: f32) -> f64 {
    (f64::from(score) - f64::from(largest)).exp2()
}

#[test]
fn a_running_softmax_equals_one_over_all_keys() {
    for (n_keys, per_step, width) in [(1, 1, 1), (7, 3, 5), (32, 32, 4), (70, 32, 16)] {
        let (scores, values) = (noise("scores", n_keys * ROWS), noise("values", n_keys * width));
        let found = same("softmax_more", |simd| {
            let (mut largest, mut sum) = (vec![f32::MIN; ROWS], vec![0.0; ROWS]);
            let (mut y, mut scores) = (vec![0.0; width * ROWS], scores.clone());
            for (scores, values) in scores.chunks_mut(per_step * ROWS).zip(values.chunks(per_step * width)) {
                let n = scores.len() / ROWS;
                simd.softmax_more(scores, n, (&mut largest, &mut sum), &mut y, width);
                simd.product(Matrix::columns(values, width), (width, n), scores, Init::Output, &mut y);
            }
            [largest, sum, y].concat()
        });
        let column = |row: usize| (0..n_keys).map(move |key| key * ROWS + row);
        let largest: Vec<f32> =
            (0..ROWS).map(|row| column(row).map(|at| scores[at]).fold(f32::MIN, f32::max)).collect();
        let sum_of = |row: usize, factor: &dyn Fn(usize) -> f64| -> f64 {
            column(row).map(|at| weight(scores[at], largest[row]) * factor(at / ROWS)).sum()
        };
        let mut expected: Vec<f64> = largest.iter().map(|&x| f64::from(x)).collect();
        expected.extend((0..ROWS).map(|row| sum_of(row, &|_| 1.0)));
        for feature in 0..width {
            let value = |key: usize| f64::from(values[key * width + feature]);
            expected.extend((0..ROWS).map(|row| sum_of(row, &value)));
        }
        assert_near(&found, &expected, 1e-5, "softmax_more");
    }
}

#[test]
fn the_weights_come_back_with_the_gradients_of_their_scores() {
    for n in [1, 5, 32] {
        let (scores, slopes) = (noise("scores", n * ROWS), noise("slopes", n * ROWS));
        let (largest, mean) = (noise("largest", ROWS), noise("mean", ROWS));
        let found = same("softmax_again", |simd| {
            let (mut scores, mut slopes) = (scores.clone(), slopes.clone());
            simd.softmax_again(&mut scores, &mut slopes, n, &largest, &mean);
            [scores, slopes].concat()
        });
        let weights: Vec<f64> =
            scores.iter().enumerate().map(|(at, &score)| weight(score, largest[at % ROWS])).collect();
        let slope = |at: usize| f64::from(slopes[at]) - f64::from(mean[at % ROWS]);
        let back = weights.iter().enumerate().map(|(at, weight)| weight * slope(at));
        assert_near(&found, &weights.iter().copied().chain(back).collect::<Vec<_>>(), 1e-5, "softmax_again");
    }
}

#[test]
fn products_of_rows_run_over_all_tiles() {
    for (n_a, n_b, n_tiles, c_stride) in
        [(1, 1, 1, 1), (32, 4, 3, 4), (30, 4, 2, 32), (7, 5, 2, 6), (8, 16, 4, 16)]
    {
        let (a_stride, b_stride) = (n_a * ROWS + 8, n_b * ROWS);
        let (a, b) = (noise("a", n_tiles * a_stride), noise("b", n_tiles * b_stride));
        let before = noise("c", n_a * c_stride);
        let found = same("row_products", |simd| {
            let mut c = before.clone();
            let tiles = [(&a, n_a, a_stride), (&b, n_b, b_stride)];
            let [a, b] = tiles.map(|(values, n, stride)| Tiles { values, n, stride });
            simd.row_products(a, b, n_tiles, 0.5, &mut c, c_stride);
            c
        });
        let mut expected: Vec<f64> = before.iter().map(|&x| f64::from(x)).collect();
        for (i, j) in (0..n_a).flat_map(|i| (0..n_b).map(move |j| (i, j))) {
            for (tile, row) in (0..n_tiles).flat_map(|tile| (0..ROWS).map(move |row| (tile, row))) {
                let (a, b) = (a[tile * a_stride + i * ROWS + row], b[tile * b_stride + j * ROWS + row]);
                expected[i * c_stride + j] += 0.5 * f64::from(a) * f64::from(b);
            }
        }
        assert_near(&found, &expected, 2e-5, "row_products");
    }
}

#[test]
fn exponentials_are_accurate_to_a_few_roundings() {
    let inputs: Vec<f32> = (-3000..3000).map(|i| i as f32 * 0.01).chain([1e-6, -1e-6, 1e-20, 0.0]).collect();
    let compare = |what: &str, f: &dyn Fn(f64) -> f64, run: &dyn Fn(f32) -> f32, [share, least]: [f64; 2]| {
        for &x in &inputs {
            let (found, expected) = (f64::from(run(x)), f(f64::from(x)));
            let off = (found - expected).abs();
            assert!(off < (share * expected.abs()).max(least), "{what}({x}) = {found}, expected {expected}");
        }
    };
    let check =
        |what: &str, f: &dyn Fn(f64) -> f64, run: &dyn Fn(f32) -> f32| compare(what, f, run, [4e-7, 1e-36]);
    // A gate that is nearly closed is as good as its distance from one that is.
    let gate = |what: &str, run: &dyn Fn(f32) -> f32| {
        compare(what, &|x| 1.0 / (1.0 + (-x).exp()), run, [4e-6, 1e-36]);
        compare(what, &|x| 1.0 / (1.0 + (-x).exp()), run, [0.0, 1.5e-7]);
    };
    // SAFETY: the portable form runs everywhere.
    unsafe {
        let first = |y: Portable| {
            let mut all = [0f32; LANES];
            y.store(all.as_mut_ptr());
            all[3]
        };
        check("exp", &f64::exp, &|x| first(math::exp(Portable::splat(x))));
        check("exp2", &f64::exp2, &|x| first(math::exp2(Portable::splat(x))));
        check("expm1", &f64::exp_m1, &|x| first(math::expm1(Portable::splat(x))));
        check("tanh", &f64::tanh, &|x| first(math::tanh(Portable::splat(x))));
        gate("sigmoid", &|x| first(math::sigmoid(Portable::splat(x))));
        gate("pair", &|x| first(math::sigmoid_pair(Portable::splat(0.5), Portable::splat(x)).1));
        gate("pair's sigmoid", &|x| {
            first(math::sigmoid_and_tanh(Portable::splat(x), Portable::splat(0.5)).0)
        });
        check("pair's tanh", &f64::tanh, &|x| {
            first(math::sigmoid_and_tanh(Portable::splat(-0.5), Portable::splat(x)).1)
        });
    }
}

#[test]
fn a_gate_does_not_know_the_other_rows() {
    for (simd, n) in Simd::available().into_iter().flat_map(|simd| [1, 2, 5, 8].map(|n| (simd, n))) {
        let run = |row: usize| {
            let mut linear = noise("linear", 2 * n * ROWS);
            (0..2 * n).for_each(|feature| linear[feature * ROWS + row] = 0.3 * feature as f32 - 1.0);
            let [mut inverse, skip] = [1, n].map(|n| vec![0.0; n * ROWS]);
            let (mut normal, mut y) = (skip.clone(), skip.clone());
            let norm = (&*vec![1.0; n], &*vec![0.0; n]);
            simd.gated_norm(&mut linear, n, &skip, norm, &mut inverse, (&mut normal, &mut y));
            y
        };
        let before = run(0);
        for other in 1..ROWS {
            let after = run(other);
            let same = |row| (0..n).all(|i| before[i * ROWS + row] == after[i * ROWS + row]);
            assert!((1..ROWS).all(|row| row == other || same(row)), "{n} features with {}", simd.name());
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    let n = 2;
    for simd in Simd::available() {
        // Row 5 is not a number, all others are.
        let nan = |tile: &[f32]| (0..ROWS).all(|row| tile[row].is_nan() == (row == 5));
        let bad = || {
            let mut tile = noise("bad", 2 * n * ROWS);
            for feature in 0..2 * n {
                tile[feature * ROWS + 5] = f32::NAN;
            }
            tile
        };
        let (mut x, mut y, mut inverse) = (bad(), vec![0.0; n * ROWS], vec![0.0; ROWS]);
        simd.elu(&mut x, n);
        assert!(nan(&x), "elu with {}", simd.name());
        let (zeros, norm) = (vec![0.0; n * ROWS], (&[1.0; 2][..], &[0.0; 2][..]));
        simd.gated_norm(&mut bad(), n, &zeros, norm, &mut inverse, (&mut zeros.clone(), &mut y));
        assert!(nan(&y), "gated norm with {}", simd.name());
        let line = Line { slope: &[1.0, -1.0], offset: &[0.5, -0.5], variance: [1.0, 0.5, 0.1] };
        simd.line_norm(line, &bad()[..ROWS], n, norm, &mut inverse, (&mut zeros.clone(), &mut y));
        assert!(nan(&y), "line norm with {}", simd.name());
        simd.softmax(&mut x, n);
        assert!(nan(&x), "softmax with {}", simd.name());
        simd.layer_norm(&mut bad(), n, (&[1.0; 2], &[0.0; 2]), &mut inverse, &mut y);
        assert!(nan(&y), "layer norm with {}", simd.name());
    }
}
