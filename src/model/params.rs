//! The weights of a network: named tensors in a fixed order, in blocks that operations read as they lie.
//!
//! Names, shapes and their order are those of [`Layout`]; the variables are its blocks, one vector of values each, and
//! a named tensor is a view into one. So a backward has one gradient per block, and an optimizer works on a few long
//! vectors. First values come from a stream per parameter, keyed by seed and name: adding a parameter disturbs no other.
//! Reading and writing files is left to others; they get and give named tensors.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::config::TftConfig;
use super::layout::{Declaration, Initial, Layout};
use crate::ops::random::Key;

/// Named tensors in registration order.
///
/// Cloning copies handles, not values.
#[derive(Clone, Debug)]
pub struct Params {
    blocks: Vec<Block>,
    entries: Vec<Entry>,
    /// Name or alias to position in `entries`.
    positions: BTreeMap<String, usize>,
    aliases: Vec<(String, String)>,
    recorded: bool,
}

/// Values that lie together.
#[derive(Clone, Debug)]
pub struct Block {
    pub name: String,
    /// `[n]` f32.
    pub var: Var,
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    place: Place,
    /// The values, not recorded.
    view: Tensor,
}

/// Where a named tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of its block.
    pub block: usize,
    pub range: Range<usize>,
    pub shape: Vec<usize>,
}

impl Place {
    /// The tensor, of its block's values (or of as many others).
    pub fn view(&self, block: &Tensor) -> candle_core::Result<Tensor> {
        block.narrow(0, self.range.start, self.range.len())?.reshape(self.shape.as_slice())
    }
}

impl Params {
    /// Fresh parameters for a network, the same for the same seed on every machine and device.
    ///
    /// - Errors: the config is not valid; the device is out of memory.
    pub fn init(config: &TftConfig, seed: u64, device: &Device) -> Result<Self> {
        let key = Key::new(seed).name("first values");
        Self::build(&Layout::of(config)?, device, |declaration| {
            Ok(first_values(declaration, key.name(&declaration.name)))
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
        let params = Self::build(&layout, device, |declaration| {
            let tensor = find(declaration, &layout, tensors)?;
            let (name, found) = (&declaration.name, tensor.dims());
            let expected = &declaration.shape;
            ensure!(
                found == expected,
                "parameter {name} has shape {found:?}, the network needs {expected:?}"
            );
            host_values(tensor).with_context(|| format!("read parameter {name}"))
        })?;
        for (name, tensor) in tensors.iter().collect::<BTreeMap<_, _>>() {
            let Some(&position) = params.positions.get(name) else {
                bail!("parameter {name} is not part of this network");
            };
            let Entry { name: canonical, view, .. } = &params.entries[position];
            ensure!(
                name == canonical || same_values(tensor, view)?,
                "parameter {name} differs from {canonical}, which is the same tensor in this network"
            );
        }
        Ok(params)
    }

    /// Parameters of a layout, with the values that are given for each declaration, in their order.
    pub(crate) fn build(
        layout: &Layout,
        device: &Device,
        mut values: impl FnMut(&Declaration) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let (declarations, ranges) = (layout.declarations(), layout.ranges());
        let mut of_blocks = vec![Vec::new(); layout.blocks().len()];
        for (declaration, range) in declarations.iter().zip(&ranges) {
            let block: &mut Vec<f32> = &mut of_blocks[declaration.block];
            block.resize(block.len().max(range.end), 0.0);
            block[range.clone()].copy_from_slice(&values(declaration)?);
        }
        let mut blocks = Vec::with_capacity(of_blocks.len());
        for (name, values) in layout.blocks().iter().zip(of_blocks) {
            let n = values.len();
            blocks.push(Block { name: name.clone(), var: Var::from_vec(values, n, device)? });
        }
        let mut entries = Vec::with_capacity(declarations.len());
        for (declaration, range) in declarations.iter().zip(ranges) {
            let Declaration { name, shape, block, .. } = declaration;
            let place = Place { block: *block, range, shape: shape.clone() };
            let view = place.view(&blocks[*block].var.as_detached_tensor())?;
            entries.push(Entry { name: name.clone(), place, view });
        }
        let mut positions: BTreeMap<String, usize> =
            entries.iter().enumerate().map(|(i, entry)| (entry.name.clone(), i)).collect();
        for (alias, name) in layout.aliases() {
            positions.insert(alias.clone(), positions[name]);
        }
        Ok(Params { blocks, entries, positions, aliases: layout.aliases().to_vec(), recorded: true })
    }

    /// Name and values of every parameter, in registration order, each once. Nothing of them is recorded, and what
    /// training writes is seen.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|entry| (entry.name.as_str(), &entry.view))
    }

    /// Name and place of every parameter, in registration order.
    pub fn places(&self) -> impl ExactSizeIterator<Item = (&str, &Place)> {
        self.entries.iter().map(|entry| (entry.name.as_str(), &entry.place))
    }

    /// The variables.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
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
        self.blocks.iter().map(|block| block.var.elem_count()).sum()
    }

    /// The values of a name or an alias, as in [`Params::iter`].
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.positions.get(name).map(|&position| &self.entries[position].view)
    }

    /// Writes other values into a parameter.
    ///
    /// - Errors: no such parameter, or another shape.
    pub fn set(&self, name: &str, values: &Tensor) -> Result<()> {
        let view = self.get(name).with_context(|| format!("no parameter {name}"))?;
        let (found, expected) = (values.dims(), view.dims());
        ensure!(found == expected, "values of shape {found:?} for parameter {name} of shape {expected:?}");
        Ok(view.slice_set(&values.detach().contiguous()?, 0, 0)?)
    }

    /// A parameter's part of the gradient of its block; `None` where no parameter of that had a part in the loss.
    ///
    /// - Errors: no such parameter.
    pub fn gradient(&self, grads: &GradStore, name: &str) -> Result<Option<Tensor>> {
        let place = self.place(name)?;
        let of_block = grads.get(self.blocks[place.block].var.as_tensor());
        Ok(of_block.map(|grad| place.view(grad)).transpose()?)
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
        self.iter().map(|(name, values)| Ok((name.to_owned(), values.copy()?))).collect()
    }

    fn place(&self, name: &str) -> Result<&Place> {
        let position = *self.positions.get(name).with_context(|| format!("no parameter {name}"))?;
        Ok(&self.entries[position].place)
    }

    /// A block's values, recorded if those of these parameters are.
    pub(super) fn block(&self, number: usize) -> Tensor {
        let var = &self.blocks[number].var;
        if self.recorded { var.as_tensor().clone() } else { var.as_detached_tensor() }
    }

    /// [`Scope::packed`], of full names.
    pub(super) fn packed(&self, first: &str, last: &str) -> Result<Tensor> {
        let (from, to) = (self.place(first)?, self.place(last)?);
        let (start, end) = (from.range.start, to.range.end);
        ensure!(from.block == to.block && start < end, "parameters from {first} to {last} lie apart");
        let block = self.block(from.block);
        Ok(if (start, end) == (0, block.elem_count()) {
            block
        } else {
            block.narrow(0, start, end - start)?
        })
    }

    /// The parameters whose names start with `prefix`.
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

    /// Whether the scope has this parameter.
    pub fn has(&self, name: &str) -> bool {
        self.params.get(&format!("{}.{name}", self.prefix)).is_some()
    }

    /// Where a parameter lies.
    ///
    /// - Errors: the scope has no such parameter.
    pub fn place(&self, name: &str) -> Result<&Place> {
        self.params.place(&format!("{}.{name}", self.prefix))
    }

    /// A handle to the parameter's values.
    ///
    /// - Errors: the scope has no such parameter.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let place = self.place(name)?;
        Ok(place.view(&self.params.block(place.block))?)
    }

    /// Handles to the values from the first parameter to the last, as they lie in their block: the block itself if they
    /// are all of it.
    ///
    /// - Errors: the scope has no such parameters; they are not of one block, or not in this order.
    pub fn packed(&self, first: &str, last: &str) -> Result<Tensor> {
        let (first, last) = (format!("{}.{first}", self.prefix), format!("{}.{last}", self.prefix));
        self.params.packed(&first, &last)
    }
}

fn first_values(declaration: &Declaration, key: Key) -> Vec<f32> {
    let n = declaration.n_weights();
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

/// A tensor's values, in f32.
fn host_values(tensor: &Tensor) -> Result<Vec<f32>> {
    let values = tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(values.flatten_all()?.to_vec1()?)
}

/// Bit by bit: copies of one tensor are the same also where they hold a NaN.
fn same_values(a: &Tensor, b: &Tensor) -> Result<bool> {
    let bits =
        |x: &Tensor| -> Result<Vec<u32>> { Ok(host_values(x)?.into_iter().map(f32::to_bits).collect()) };
    Ok(a.dims() == b.dims() && bits(a)? == bits(b)?)
}
