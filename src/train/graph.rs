//! A whole training step as one launch: gather, forward, backward, decision and optimizer, recorded once on a GPU.
//!
//! What differs from step to step (samples, the key of the masks, the learning rate) lies in memory that is written before
//! each launch; everything else is the same launches on the same memory. The first step runs as it is, so that nothing has
//! to be loaded or sent while the second is recorded. **No GPU has run this yet.**

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::ema::Ema;
use super::step::{Learner, PlanAddresses, Taken};
use crate::dataset::{Resident, SampleKey};
use crate::ops::cuda;
use crate::ops::cuda::adamw::PLAN_WORDS;
use crate::ops::dropout::key_of_step;

/// Words in front of the samples: the key of the masks, and the plan of the step.
const HEAD_WORDS: usize = 2 + PLAN_WORDS;

/// The steps of batches of one size out of one window.
pub struct GraphedStep {
    device: Device,
    n_samples: usize,
    /// Key, plan and samples, u32.
    words: Tensor,
    /// What the last step told.
    told: Tensor,
    has_run: bool,
    graph: Option<cuda::Graph>,
}

/// What a step is of.
pub struct Numbers<'a> {
    pub keys: &'a [SampleKey],
    pub seed: u64,
    /// Of the batch.
    pub number: u64,
    pub learning_rate: f64,
}

impl GraphedStep {
    /// For batches of `n_samples`.
    pub fn new(learner: &Learner, n_samples: usize, device: &Device) -> Result<Self> {
        let words = Tensor::zeros(HEAD_WORDS + 2 * n_samples, DType::U32, device)?;
        let told = Tensor::zeros(learner.n_told(), DType::F32, device)?;
        Ok(Self { device: device.clone(), n_samples, words, told, has_run: false, graph: None })
    }

    /// One step.
    ///
    /// - Errors: it cannot be recorded; nothing has moved then. Or the device fails.
    pub fn run(
        &mut self,
        learner: &mut Learner,
        resident: &Resident,
        numbers: &Numbers<'_>,
        is_stranger: impl Fn(usize) -> bool,
        ema: Option<(&mut Ema, f64)>,
    ) -> Result<Taken> {
        let decay = ema.as_ref().map_or(0.0, |(_, decay)| *decay);
        let key = key_of_step(numbers.seed, numbers.number).number_of_stream();
        let mut words = vec![key as u32, (key >> 32) as u32];
        words.extend(learner.optimizer.plan_words(numbers.learning_rate, decay));
        words.extend(resident.samples(numbers.keys, is_stranger)?);
        cuda::write(&self.words, &words)?;
        let start = cuda::address(&self.words)?;
        let at = PlanAddresses { key: start, plan: start + 8 };
        let (n_samples, told) = (self.n_samples, &self.told);
        let mut step = || -> Result<()> {
            let batch = resident.gather(start + 4 * HEAD_WORDS as u64, n_samples)?;
            let mean = ema.as_ref().map(|(ema, decay)| ema.mean(*decay));
            learner.planned_step(&batch, at, told, mean)
        };
        let work = || step().map_err(candle_core::Error::msg);
        match &self.graph {
            Some(graph) => graph.launch()?,
            None if self.has_run => {
                let graph = cuda::record(&self.device, work).context("record a training step")?;
                graph.launch()?;
                self.graph = Some(graph);
            }
            None => {
                cuda::remembering(&self.device, work)?;
                self.has_run = true;
            }
        }
        Ok(Taken::OnDevice(self.told.copy()?))
    }
}
