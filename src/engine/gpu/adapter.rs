//! Finding adapters and opening a device on one.

use super::context::Context;
use super::products::{Products, SUBGROUPS};
use crate::engine::{DeviceInfo, DeviceKind, Precision};
use crate::error::{Error, Result};
use crate::tensor::Dtype;
use wgpu::{Backends, DeviceType};

/// An adapter of this machine, for `flap-gpu devices` and for choosing one.
#[derive(Debug, Clone, serde::Serialize)]
pub struct AdapterReport {
    /// The adapter's name.
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: String,
    /// `DiscreteGpu`, `IntegratedGpu`, `VirtualGpu`, `Cpu` (a software driver) or `Other`.
    pub device_type: String,
    /// Driver name and version.
    pub driver: String,
    /// Largest buffer, bytes.
    pub max_buffer_size: u64,
    /// Largest buffer part one kernel can bind, bytes.
    pub max_storage_buffer_binding_size: u64,
    /// Memory shared by a workgroup, bytes.
    pub max_compute_workgroup_storage_size: u32,
    /// Half-precision arithmetic in shaders.
    pub shader_f16: bool,
    /// Subgroup operations in shaders.
    pub subgroups: bool,
    /// Matrix units in shaders, of a kind that products can use: square, f16 by f16 to f32.
    pub cooperative_matrix: bool,
}

/// All adapters that can run compute kernels, the most capable first: discrete, integrated, virtual or unknown, software.
///
/// Vulkan, Metal and DX12, unless the environment variable `WGPU_BACKEND` names others; GL only where those find nothing, because
/// some systems print messages when its library is loaded.
fn adapters() -> Vec<wgpu::Adapter> {
    let backends = Backends::from_env();
    let mut adapters = adapters_of(backends.unwrap_or(Backends::PRIMARY));
    if adapters.is_empty() && backends.is_none() {
        adapters = adapters_of(Backends::GL);
    }
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        // Some drivers give the memory that an integrated GPU was born with as all of it; another backend's may give more.
        DeviceType::IntegratedGpu if device_memory(adapter).is_none_or(|bytes| bytes >= LEAST_SHARED) => 1,
        DeviceType::IntegratedGpu => 2,
        DeviceType::VirtualGpu | DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    adapters
}

fn adapters_of(backends: Backends) -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    let mut adapters = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends));
    adapters.retain(|a| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS));
    adapters
}

fn is_software(adapter: &wgpu::Adapter) -> bool {
    adapter.get_info().device_type == DeviceType::Cpu
}

/// Reports of all adapters, in the order that `gpu:N` counts.
#[must_use]
pub fn list() -> Vec<AdapterReport> {
    adapters().iter().map(report).collect()
}

fn report(adapter: &wgpu::Adapter) -> AdapterReport {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    AdapterReport {
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        name: info.name,
        backend: info.backend.to_str().to_string(),
        device_type: format!("{:?}", info.device_type),
        max_buffer_size: limits.max_buffer_size,
        max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
        max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
        shader_f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        cooperative_matrix: !matrix_units(adapter).is_empty(),
    }
}

/// Which adapter to open.
#[derive(Debug, Clone, Copy)]
pub enum AdapterChoice<'a> {
    /// The most capable real GPU that works; none if there is only a software driver.
    RealGpu,
    /// The adapter at this place of [`list`].
    Index(usize),
    /// The first adapter whose name contains this, upper and lower case alike.
    Name(&'a str),
}

/// An opened device.
pub(super) struct Opened {
    pub context: Context,
    pub info: DeviceInfo,
    /// Whether it has a memory of its own.
    pub is_card: bool,
    /// Ways to multiply, in the order to be tried; at least one.
    pub products: Vec<Products>,
}

/// Storage buffers of the kernels that have the most, those on matrix units apart: where there are any, more can be bound.
const MOST_BUFFERS: u32 = 5;

/// Kernels count in 32 bits. Metal would bind all of its memory.
const MOST_BINDING_BYTES: u64 = (4 << 30) - 16;

/// The products on matrix units: their side, least bytes of workgroup memory, and the smallest subgroups whose registers hold what is staged.
const UNIT_KERNELS: [(u32, u32, u32); 2] = [(8, 11_776, 8), (16, 25_600, 32)];

/// Sides of the matrix units that multiply f16 by f16 to f32, each with the sizes of the subgroups that may share one: a driver may
/// choose among several.
fn matrix_units(adapter: &wgpu::Adapter) -> Vec<(usize, u32)> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let info = adapter.get_info();
    let subgroup_sizes = match info.backend {
        // Metal tells a range, but every GPU with matrix units has this size.
        wgpu::Backend::Metal => 32..=32,
        _ => info.subgroup_min_size..=info.subgroup_max_size,
    };
    let features = adapter.features();
    if !features.contains(matrix_features()) {
        return Vec::new();
    }
    let properties = adapter.cooperative_matrix_properties().into_iter();
    let square = properties.filter(|p| p.m_size == p.n_size && p.n_size == p.k_size && p.ab_type == F16 && p.cr_type == F32);
    let sides: Vec<u32> = square.map(|p| p.m_size).collect();
    let limits = adapter.limits();
    let memory = limits.max_compute_workgroup_storage_size;
    let kernels = UNIT_KERNELS.into_iter().filter(|&(side, bytes, _)| sides.contains(&side) && bytes <= memory);
    let sizes = |least: u32| [8, 16, 32, 64].into_iter().filter(move |&size| size >= least);
    let units = kernels.flat_map(|(side, _, least)| sizes(least).map(move |size| (side as usize, size)));
    let fits = |size: u32| SUBGROUPS * size <= limits.max_compute_invocations_per_workgroup && subgroup_sizes.contains(&size);
    units.filter(|&(_, size)| fits(size)).collect()
}

/// What of a machine's memory an integrated GPU may take in any case.
const LEAST_SHARED: u64 = 2 << 30;

/// Bytes that a device can allocate as its own, where its backend can be asked.
fn device_memory(adapter: &wgpu::Adapter) -> Option<u64> {
    #[cfg(not(target_vendor = "apple"))]
    // SAFETY: the raw handles are only asked for the sizes of heaps, and live as long as the adapter.
    unsafe {
        const DEVICE_LOCAL: u32 = 1;
        let vulkan = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = vulkan.shared_instance().raw_instance();
        let memory = instance.get_physical_device_memory_properties(vulkan.raw_physical_device());
        let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
        heaps.iter().filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
    }
    #[cfg(target_vendor = "apple")]
    {
        // Vulkan is not compiled in there.
        let _ = adapter;
        None
    }
}

/// Bytes of the machine's memory, which an integrated GPU shares.
fn machine_memory() -> u64 {
    let memory = sysinfo::MemoryRefreshKind::nothing().with_ram();
    sysinfo::System::new_with_specifics(sysinfo::RefreshKind::nothing().with_memory(memory)).total_memory()
}

fn matrix_features() -> wgpu::Features {
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP
}

/// The adapters that a choice means, the most capable first.
pub(super) fn find(choice: AdapterChoice<'_>) -> Vec<wgpu::Adapter> {
    let found = adapters().into_iter();
    match choice {
        AdapterChoice::RealGpu => found.filter(|a| !is_software(a)).collect(),
        AdapterChoice::Index(index) => found.skip(index).take(1).collect(),
        AdapterChoice::Name(part) => found.filter(|a| a.get_info().name.to_lowercase().contains(&part.to_lowercase())).take(1).collect(),
    }
}

/// Opens a device. Its matrix units are used only if they may be.
pub(super) fn open(adapter: &wgpu::Adapter, precision: Precision, with_matrix_units: bool) -> Result<Opened> {
    let (info, mut limits) = (adapter.get_info(), adapter.limits());
    limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(MOST_BINDING_BYTES);
    let buffers = limits.max_storage_buffers_per_shader_stage;
    if buffers < MOST_BUFFERS {
        return Err(Error::Unsupported(format!("{} binds {buffers} buffers at once, of the {MOST_BUFFERS} that kernels need", info.name)));
    }
    let shader_f16 = adapter.features().contains(wgpu::Features::SHADER_F16);
    let units = if with_matrix_units { matrix_units(adapter) } else { Vec::new() };
    let products = Products::choose(precision, !is_software(adapter), shader_f16, &units, &info.name)?;
    let required_features = match products[0] {
        Products::F32 => wgpu::Features::empty(),
        Products::F16 => wgpu::Features::SHADER_F16,
        Products::Cooperative { .. } => matrix_features(),
    };
    let on_matrix_units = matches!(products[0], Products::Cooperative { .. });
    let experimental_features = if on_matrix_units {
        // SAFETY: the one experimental feature in use is cooperative matrices, in kernels that the tests run case by case.
        unsafe { wgpu::ExperimentalFeatures::enabled() }
    } else {
        wgpu::ExperimentalFeatures::disabled()
    };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("flap-gpu"),
        required_features,
        required_limits: limits.clone(),
        experimental_features,
        // Buffers are used again: how they are allocated matters little, how much more than them is.
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    let failed = |e: wgpu::RequestDeviceError| Error::Device { operation: format!("opening {}", info.name), message: e.to_string() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(failed)?;
    // The rest is for a desktop, and for the driver.
    let of_device = device_memory(adapter).map(|bytes| bytes / 4 * 3);
    let memory_budget = match info.device_type {
        DeviceType::DiscreteGpu => of_device,
        DeviceType::IntegratedGpu => Some((machine_memory() / 4).max(LEAST_SHARED).min(of_device.unwrap_or(u64::MAX))),
        _ => None,
    };
    let memory_budget = memory_budget.unwrap_or(4 << 30);
    let device_info = DeviceInfo {
        kind: DeviceKind::Gpu,
        name: info.name.clone(),
        backend: info.backend.to_str().to_string(),
        operands: if products[0] == Products::F32 { Dtype::F32 } else { Dtype::F16 },
        default_batch_tokens: if is_software(adapter) { 512 } else { 4096 },
        memory_budget,
        staging_bytes: Some(products[0].staging_bytes(memory_budget)),
        max_binding_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
    };
    let is_card = info.device_type == DeviceType::DiscreteGpu;
    Ok(Opened { context: Context::new(device, queue, limits, memory_budget), info: device_info, is_card, products })
}
