//! The rows of a collapsed table: what a categorical's vectors become before they are looked up, and the way back.

use super::collapse::{CollapsedCategorical, dot, gates};
use super::weights::{PackedCategorical, Parameters};
use crate::ops::layer_norm::EPSILON;
use crate::ops::stretch::Stretch;

/// A categorical's processed vectors: `LN(gate * stretch(row))` for every row of its table.
pub struct Rows {
    /// Before weight and bias of the norm.
    normal: Vec<f32>,
    inverse: Vec<f32>,
    pub output: Vec<f32>,
    width: usize,
    hidden: usize,
}

impl Rows {
    pub fn of(
        categorical: &CollapsedCategorical,
        source: &PackedCategorical,
        parameters: Parameters<'_>,
    ) -> Self {
        let resample = &source.resample;
        let (width, hidden) = (source.table.shape[1], resample.mask.shape[0]);
        let stretch = Stretch::new(width, hidden);
        let gates = gates(parameters.at(&resample.mask.range));
        let [weight, bias] = [0, 1].map(|i| parameters.at(&resample.norm[i].range));
        let mut rows = Rows { normal: Vec::new(), inverse: Vec::new(), output: Vec::new(), width, hidden };
        for row in 0..categorical.n_codes {
            let row = parameters.at(&categorical.row(source, row));
            let raw: Vec<f32> = stretch.apply(row).iter().zip(&gates).map(|(x, gate)| x * gate.0).collect();
            let mean = raw.iter().sum::<f32>() / hidden as f32;
            let variance = raw.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / hidden as f32;
            let inverse = 1.0 / (variance + EPSILON as f32).sqrt();
            rows.inverse.push(inverse);
            for (i, x) in raw.iter().enumerate() {
                let normal = (x - mean) * inverse;
                rows.normal.push(normal);
                rows.output.push(normal * weight[i] + bias[i]);
            }
        }
        rows
    }

    /// Adds the gradients of table, mask and norm, from that of the vectors.
    pub fn expand(
        &self,
        (categorical, source): (&CollapsedCategorical, &PackedCategorical),
        parameters: Parameters<'_>,
        d_output: &[f32],
        expanded: &mut [f32],
    ) {
        let (resample, hidden) = (&source.resample, self.hidden);
        let stretch = Stretch::new(self.width, hidden);
        let gates = gates(parameters.at(&resample.mask.range));
        let weight = parameters.at(&resample.norm[0].range);
        for (code, dy) in d_output.chunks_exact(hidden).enumerate() {
            let normal = &self.normal[code * hidden..(code + 1) * hidden];
            let slopes: Vec<f32> = dy.iter().zip(weight).map(|(d, w)| d * w).collect();
            let mean = slopes.iter().sum::<f32>() / hidden as f32;
            let moment = dot(&slopes, normal) / hidden as f32;
            for i in 0..hidden {
                expanded[resample.norm[0].range.start + i] += dy[i] * normal[i];
                expanded[resample.norm[1].range.start + i] += dy[i];
            }
            let place = categorical.row(source, code);
            let stretched = stretch.apply(parameters.at(&place));
            let raw = |i: usize| (slopes[i] - mean - normal[i] * moment) * self.inverse[code];
            let mut d_stretched = vec![0f32; hidden];
            for i in 0..hidden {
                expanded[resample.mask.range.start + i] += raw(i) * stretched[i] * gates[i].1;
                d_stretched[i] = raw(i) * gates[i].0;
            }
            stretch.add_back(&d_stretched, &mut expanded[place]);
        }
    }
}
