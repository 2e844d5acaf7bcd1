//! The weights of a network: named variables in a fixed order.
//!
//! The order is the registration order of [`Layout`], the same in every run, so sums over all parameters (a
//! gradient norm) are reproducible. First values come from a stream per parameter, keyed by seed and name: adding
//! a parameter disturbs no other. Reading and writing files is left to others; they get and give named tensors.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};

use super::config::TftConfig;
use super::layout::{Declaration, Initial, Layout};
use crate::ops::random::Key;

/// Named variables in registration order.
///
/// Cloning copies handles, not values.
#[derive(Clone, Debug)]
pub struct Params {
    entries: Vec<(String, Var)>,
    /// Name or alias to position in `entries`.
    positions: BTreeMap<String, usize>,
    aliases: Vec<(String, String)>,
    recorded: bool,
}

impl Params {
    /// Fresh parameters for a network, the same for the same seed on every machine and device.
    ///
    /// - Errors: the config is not valid; the device is out of memory.
    pub fn init(config: &TftConfig, seed: u64, device: &Device) -> Result<Self> {
        let key = Key::new(seed).name("first values");
        Self::build(&Layout::of(config)?, |declaration| {
            let values = first_values(declaration, key.name(&declaration.name));
            Ok(Var::from_vec(values, declaration.shape.clone(), device)?)
        })
    }

    /// Parameters with the values of `tensors`, as f32 on `device`.
    ///
    /// A tensor may come under its name, under aliases, or both.
    ///
    /// - Errors: a tensor is missing, is not part of this network, has another shape, or differs from its alias;
    ///   the message names it.
    pub fn from_tensors(
        config: &TftConfig,
        tensors: &HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let layout = Layout::of(config)?;
        let params = Self::build(&layout, |declaration| {
            let tensor = find(declaration, &layout, tensors)?;
            let (name, found) = (&declaration.name, tensor.dims());
            let expected = &declaration.shape;
            ensure!(
                found == expected,
                "parameter {name} has shape {found:?}, the network needs {expected:?}"
            );
            fresh_var(tensor, device).with_context(|| format!("read parameter {name}"))
        })?;
        for (name, tensor) in tensors.iter().collect::<BTreeMap<_, _>>() {
            let Some(&position) = params.positions.get(name) else {
                bail!("parameter {name} is not part of this network");
            };
            let (canonical, var) = &params.entries[position];
            ensure!(
                name == canonical || same_values(tensor, var)?,
                "parameter {name} differs from {canonical}, which is the same tensor in this network"
            );
        }
        Ok(params)
    }

    fn build(layout: &Layout, mut value: impl FnMut(&Declaration) -> Result<Var>) -> Result<Self> {
        let mut entries = Vec::with_capacity(layout.declarations().len());
        for declaration in layout.declarations() {
            entries.push((declaration.name.clone(), value(declaration)?));
        }
        let mut positions: BTreeMap<String, usize> =
            entries.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        for (alias, name) in layout.aliases() {
            positions.insert(alias.clone(), positions[name]);
        }
        Ok(Params { entries, positions, aliases: layout.aliases().to_vec(), recorded: true })
    }

    /// Name and variable of every parameter, in registration order, each once.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        self.entries.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// Number of parameter tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none; a network always has some.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of single weights.
    pub fn n_weights(&self) -> usize {
        self.entries.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// The variable of a name or an alias.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.positions.get(name).map(|&position| &self.entries[position].1)
    }

    /// Pairs (alias, name): the other names that an export for pytorch-forecasting has to list.
    pub fn aliases(&self) -> &[(String, String)] {
        &self.aliases
    }

    /// The same weights, read by a network without recording anything for a backward.
    ///
    /// Shares the values: what training writes is seen. For a frozen copy see [`Params::snapshot`].
    pub fn detached(&self) -> Self {
        Params { recorded: false, ..self.clone() }
    }

    /// A copy of all values, in registration order, that later training leaves alone.
    pub fn snapshot(&self) -> Result<Vec<(String, Tensor)>> {
        self.iter().map(|(name, var)| Ok((name.to_owned(), var.as_detached_tensor().copy()?))).collect()
    }

    /// Puts another tensor, possibly of another length, in the place of a parameter: how a table grows a row.
    ///
    /// Networks built before keep the old one; build them anew from a config with the new size.
    ///
    /// - Errors: no such parameter; `tensor` differs from it in more than its first dimension.
    pub fn replace(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let position = *self.positions.get(name).with_context(|| format!("no parameter {name}"))?;
        let old = &self.entries[position].1;
        let (found, expected) = (tensor.dims(), old.dims());
        let fits = found.len() == expected.len() && found.get(1..) == expected.get(1..);
        ensure!(fits, "parameter {name} of shape {expected:?} cannot become {found:?}");
        let var = fresh_var(tensor, old.device())?;
        self.entries[position].1 = var;
        Ok(())
    }

    /// The parameters of the block called `prefix`.
    pub fn scope(&self, prefix: impl Into<String>) -> Scope<'_> {
        Scope { params: self, prefix: prefix.into() }
    }
}

/// The parameters whose names start with a prefix and a dot.
#[derive(Clone)]
pub struct Scope<'a> {
    params: &'a Params,
    prefix: String,
}

impl Scope<'_> {
    /// The scope of a part.
    pub fn at(&self, name: &str) -> Self {
        Scope { params: self.params, prefix: format!("{}.{name}", self.prefix) }
    }

    /// Whether the block has this parameter.
    pub fn has(&self, name: &str) -> bool {
        self.params.get(&format!("{}.{name}", self.prefix)).is_some()
    }

    /// A handle to the parameter's values.
    ///
    /// - Errors: the block has no such parameter.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let name = format!("{}.{name}", self.prefix);
        let var = self.params.get(&name).with_context(|| format!("no parameter {name}"))?;
        Ok(if self.params.recorded { var.as_tensor().clone() } else { var.as_detached_tensor() })
    }
}

fn first_values(declaration: &Declaration, key: Key) -> Vec<f32> {
    let n = declaration.shape.iter().product::<usize>();
    let draw = |value: &dyn Fn(u64) -> f64| (0..n as u64).map(|i| value(i) as f32).collect();
    match declaration.initial {
        Initial::Zeros => vec![0.0; n],
        Initial::Ones => vec![1.0; n],
        Initial::Normal(deviation) => draw(&|i| deviation * key.normal(i)),
        Initial::Uniform(bound) => draw(&|i| bound * (2.0 * key.uniform(i) - 1.0)),
        Initial::PaddedEmbedding => {
            let width = (n / declaration.shape[0]) as u64;
            draw(&|i| if i < width { 0.0 } else { key.normal(i) })
        }
    }
}

/// The tensor given for a parameter, under its own name or the first of its aliases.
fn find<'a>(
    declaration: &Declaration,
    layout: &Layout,
    tensors: &'a HashMap<String, Tensor>,
) -> Result<&'a Tensor> {
    let name = &declaration.name;
    let aliases = layout.aliases().iter().filter(|(_, target)| target == name).map(|(alias, _)| alias);
    std::iter::once(name)
        .chain(aliases)
        .find_map(|name| tensors.get(name))
        .with_context(|| format!("parameter {name} is missing"))
}

/// A variable with its own copy of the values, in f32.
fn fresh_var(tensor: &Tensor, device: &Device) -> Result<Var> {
    let values = tensor.detach().to_device(device)?.to_dtype(DType::F32)?.force_contiguous()?;
    Ok(Var::from_tensor(&values)?)
}

/// Bit by bit: copies of one tensor are the same also where they hold a NaN.
fn same_values(a: &Tensor, b: &Tensor) -> Result<bool> {
    let bits = |x: &Tensor| -> Result<Vec<u32>> {
        let values = x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?;
        Ok(values.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
    };
    Ok(a.dims() == b.dims() && bits(a)? == bits(b)?)
}
