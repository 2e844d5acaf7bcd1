//! A CUDA device as a [`Machine`]: candle's memory and stream, the kernels from their PTX.
//!
//! Everything runs on candle's stream of the device, in the order of the calls, so that nothing waits on the host and
//! what an operation has allocated can be given back while its kernels are still to run.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError, RwLock};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::cudarc::driver::result::memcpy_htod_async;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute, CUfunction_attribute, CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaGraph, CudaSlice, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId};
use candle_core::{
    CudaDevice, CudaStorage, DType, Device, DeviceLocation, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::machine::{Arg, Grid, Machine, Memory};
use crate::precision::Precision;

/// The kernels, as the driver compiles them for the device at hand.
struct Kernels {
    module: &'static str,
    /// Empty where no GPU that the program was built for has the precision.
    ptx: &'static str,
}

macro_rules! kernels {
    ($precision:literal) => {
        Kernels {
            module: concat!("tftctl_", $precision),
            ptx: include_str!(concat!(env!("OUT_DIR"), "/kernels_", $precision, ".ptx")),
        }
    };
}

/// In the order of [`Precision::ALL`].
static KERNELS: [Kernels; 3] = [kernels!("float32"), kernels!("tf32"), kernels!("bf16")];

/// What devices were told to multiply in.
static PRECISIONS: LazyLock<RwLock<HashMap<DeviceId, Precision>>> = LazyLock::new(RwLock::default);

/// Whether GPUs have fused forms in this program.
pub const IS_ENABLED: bool = true;

/// Shared memory that a block has without asking.
const SHARED_BYTES: usize = 48 * 1024;

/// What [`Machine::table`] has sent, by device and content. There are as many as sizes that a program works with.
static TABLES: LazyLock<Mutex<HashMap<TableKey, CudaSlice<f32>>>> = LazyLock::new(Mutex::default);

type TableKey = (DeviceLocation, Vec<u32>);

struct OnDevice {
    device: CudaDevice,
    kernels: &'static Kernels,
    shared_bytes: usize,
    /// What the operation has allocated, by address.
    owned: HashMap<u64, CudaSlice<f32>>,
}

impl OnDevice {
    fn new(device: &CudaDevice) -> Result<Self> {
        let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared_bytes = device.cuda_stream().context().attribute(most).map_err(failed)? as usize;
        let kernels = &KERNELS[precision_of(device) as usize];
        Ok(OnDevice { device: device.clone(), kernels, shared_bytes, owned: HashMap::new() })
    }

    fn own(&mut self, slice: CudaSlice<f32>, len: usize) -> Memory {
        let address = slice.device_ptr(&self.device.cuda_stream()).0;
        self.owned.insert(address, slice);
        Memory { address, len }
    }

    /// A whole allocation as the storage of a tensor.
    fn take(&mut self, memory: Memory) -> Result<CudaStorage> {
        match self.owned.remove(&memory.address) {
            Some(slice) => Ok(CudaStorage::wrap_cuda_slice(slice, self.device.clone())),
            None => bail!("a result that is no allocation of its own"),
        }
    }
}

impl Machine for OnDevice {
    fn alloc(&mut self, len: usize) -> Result<Memory> {
        // SAFETY: kernels write what is read of it; there are no bits that are no number.
        let slice = unsafe { self.device.alloc::<f32>(len.max(1))? };
        Ok(self.own(slice, len))
    }

    fn upload(&mut self, words: &[u32]) -> Result<Memory> {
        // Words travel as the numbers with the same bits: memory is of one kind.
        let bits: Vec<f32> = words.iter().map(|&word| f32::from_bits(word)).collect();
        let slice = self.device.clone_htod(&bits)?;
        Ok(self.own(slice, words.len()))
    }

    fn table(&mut self, words: &[u32]) -> Result<Memory> {
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.device.location(), words.to_vec());
        if !tables.contains_key(&key) {
            let bits: Vec<f32> = words.iter().map(|&word| f32::from_bits(word)).collect();
            let slice = self.device.clone_htod(&bits)?;
            // Another thread has a stream of its own, and may be the next to read it.
            self.device.cuda_stream().synchronize().map_err(failed)?;
            tables.insert(key.clone(), slice);
        }
        let Some(slice) = tables.get(&key) else { bail!("a table that was just made") };
        let address = slice.device_ptr(&self.device.cuda_stream()).0;
        Ok(Memory { address, len: words.len() })
    }

    fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    fn launch(&mut self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<()> {
        let function = self.device.get_or_load_custom_func(kernel, self.kernels.module, self.kernels.ptx)?;
        let shared_bytes = 4 * grid.shared;
        if shared_bytes > SHARED_BYTES {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, shared_bytes as i32).map_err(failed)?;
        }
        let config = LaunchConfig {
            grid_dim: (grid.blocks.0 as u32, grid.blocks.1 as u32, 1),
            block_dim: (grid.threads as u32, 1, 1),
            shared_mem_bytes: shared_bytes as u32,
        };
        let mut builder = function.builder();
        for arg in args {
            match arg {
                Arg::Address(address) => builder.arg(address),
                Arg::Int(n) => builder.arg(n),
                Arg::Word(word) => builder.arg(word),
                Arg::Real(x) => builder.arg(x),
            };
        }
        // SAFETY: kinds, number and order of the arguments, and that no thread leaves its memory, are what the tests
        // check on the emulation, whose launches are these.
        unsafe { builder.launch(config) }.map_err(failed)?;
        Ok(())
    }
}

/// Launches that were recorded, to be started as one.
pub struct Graph(CudaGraph);

impl Graph {
    /// Starts them behind what was launched before.
    pub fn launch(&self) -> Result<()> {
        self.0.launch().map_err(failed)
    }
}

/// Runs `work` with small uploads remembered by their content: one that was made before is not made again. While recording
/// there can be no other.
pub fn remembering<R>(device: &Device, work: impl FnOnce() -> Result<R>) -> Result<R> {
    let Device::Cuda(device) = device else { bail!("launches are recorded on a GPU alone") };
    let _remembering = device.enable_cuda_graph_htod_cache();
    work()
}

/// Records the launches of `work`, which has run on this thread under [`remembering`] before. Nothing of it runs yet.
///
/// - Errors: `work` waits for the device, uploads something new, or fails. Nothing has happened then.
pub fn record(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
    remembering(device, || {
        let Device::Cuda(device) = device else { bail!("launches are recorded on a GPU alone") };
        let stream = device.cuda_stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(failed)?;
        let worked = work();
        // Ended after a failure, too: else the stream would never run anything again.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).map_err(failed);
        worked?;
        match graph? {
            Some(graph) => Ok(Graph(graph)),
            None => bail!("CUDA: nothing was recorded"),
        }
    })
}

/// Writes words over a tensor of u32, behind what was launched before.
pub fn write(tensor: &Tensor, words: &[u32]) -> Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("words for a tensor of another device") };
    let memory = memory_of(storage, layout)?;
    if memory.len != words.len() {
        bail!("{} words for {} places", words.len(), memory.len);
    }
    let stream = storage.device.cuda_stream();
    // SAFETY: so many words lie there; the driver takes a copy of what is no pinned memory before it returns.
    unsafe { memcpy_htod_async(memory.address, words, stream.cu_stream()) }.map_err(failed)
}

/// Where a tensor lies, for launches that outlive this call: whoever keeps the address keeps the tensor.
pub fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => Ok(memory_of(storage, layout)?.address),
        _ => bail!("the address of a tensor of another device"),
    }
}

/// A result of words as a tensor of u32.
pub fn words(storage: CudaStorage, shape: impl Into<Shape>) -> Result<Tensor> {
    let device = storage.device.clone();
    let CudaStorageSlice::F32(slice) = storage.slice else { bail!("words that are no 32-bit numbers") };
    let len = slice.len();
    // SAFETY: the same memory, whose owner has let it go; any bits are a u32.
    let slice = unsafe { device.cuda_stream().upgrade_device_ptr::<u32>(slice.leak(), len) };
    Ok(super::tensor(CudaStorage::wrap_cuda_slice(slice, device), shape))
}

/// From here on the matrix products of fused operations on `device`, and on its clones, multiply in `precision`. A device
/// that is opened, be it another time, begins with float32.
///
/// - Errors: the CPU; a program that was built for GPUs without such a precision.
pub fn set_precision(device: &Device, precision: Precision) -> Result<()> {
    let Device::Cuda(device) = device else { bail!("{precision} is for GPUs") };
    if KERNELS[precision as usize].ptx.is_empty() {
        bail!("this program was built for GPUs that have no {precision} (CUDA_COMPUTE_CAP below 80)");
    }
    PRECISIONS.write().unwrap_or_else(PoisonError::into_inner).insert(device.id(), precision);
    Ok(())
}

/// What matrix products of fused operations multiply in.
pub fn precision(device: &Device) -> Precision {
    match device {
        Device::Cuda(device) => precision_of(device),
        _ => Precision::Float32,
    }
}

fn precision_of(device: &CudaDevice) -> Precision {
    let precisions = PRECISIONS.read().unwrap_or_else(PoisonError::into_inner);
    precisions.get(&device.id()).copied().unwrap_or_default()
}

/// Memory that a device has left, in bytes; `None` for the CPU.
pub fn free_bytes(device: &Device) -> Result<Option<usize>> {
    let Device::Cuda(device) = device else { return Ok(None) };
    Ok(Some(device.cuda_stream().context().mem_get_info().map_err(failed)?.0))
}

fn failed(error: impl std::fmt::Display) -> candle_core::Error {
    candle_core::Error::Msg(format!("CUDA: {error}"))
}

/// The contiguous values, f32 or u32, of an operation's argument.
fn memory_of(storage: &CudaStorage, layout: &Layout) -> Result<Memory> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a fused operation needs contiguous values");
    };
    let stream = storage.device.cuda_stream();
    let address = match storage.dtype() {
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        _ => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
    };
    Ok(Memory { address: address + 4 * start as u64, len: end - start })
}

/// Runs the launches of an operation over its arguments; what it returns become storages.
pub fn forward<const N: usize, const M: usize>(
    args: [(&CudaStorage, &Layout); N],
    work: impl FnOnce(&mut dyn Machine, [Memory; N]) -> Result<[Memory; M]>,
) -> Result<[CudaStorage; M]> {
    let mut machine = OnDevice::new(&args[0].0.device)?;
    let mut inputs = [Memory { address: 0, len: 0 }; N];
    for (input, (storage, layout)) in inputs.iter_mut().zip(args) {
        *input = memory_of(storage, layout)?;
    }
    let outputs = work(&mut machine, inputs)?;
    let storages = outputs.map(|memory| machine.take(memory)).into_iter().collect::<Result<Vec<_>>>()?;
    storages.try_into().map_err(|_| candle_core::Error::Msg("as many storages as results".to_owned()))
}

/// Runs launches that change contiguous tensors where they lie, and return nothing.
///
/// Locks keep candle from handing the same memory to someone else on the host; on the device the order of the stream does.
pub fn in_place(
    tensors: &[&Tensor],
    work: impl FnOnce(&mut dyn Machine, &[Memory]) -> Result<()>,
) -> Result<()> {
    let guards: Vec<_> = tensors.iter().map(|tensor| tensor.storage_and_layout()).collect();
    let (mut memories, mut machine) = (Vec::with_capacity(guards.len()), None);
    for (storage, layout) in &guards {
        let Storage::Cuda(storage) = &**storage else {
            bail!("a step on a GPU got a tensor of another device")
        };
        memories.push(memory_of(storage, layout)?);
        if machine.is_none() {
            machine = Some(OnDevice::new(&storage.device)?);
        }
    }
    match &mut machine {
        Some(machine) => work(machine, &memories),
        None => Ok(()),
    }
}

/// [`forward`] over contiguous tensors.
pub fn over<const N: usize, const M: usize>(
    args: [&Tensor; N],
    work: impl FnOnce(&mut dyn Machine, [Memory; N]) -> Result<[Memory; M]>,
) -> Result<[CudaStorage; M]> {
    let guards = args.map(Tensor::storage_and_layout);
    let mut pairs = Vec::with_capacity(N);
    for (storage, layout) in &guards {
        match &**storage {
            Storage::Cuda(storage) => pairs.push((storage, *layout)),
            _ => bail!("a fused operation of a GPU got a tensor of another device"),
        }
    }
    forward(pairs.try_into().map_err(|_| candle_core::Error::Msg("as many arguments".to_owned()))?, work)
}
