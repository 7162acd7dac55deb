//! Finding adapters and opening a device on one.

use super::context::Context;
use crate::engine::DeviceInfo;
use crate::error::{Error, Result};
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
    /// Matrix units in shaders.
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
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu | DeviceType::Other => 2,
        DeviceType::Cpu => 3,
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
        cooperative_matrix: features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    }
}

/// Which adapter to open.
#[derive(Debug, Clone, Copy)]
pub enum AdapterChoice<'a> {
    /// The most capable real GPU; none if there is only a software driver.
    RealGpu,
    /// The adapter at this place of [`list`].
    Index(usize),
    /// The first adapter whose name contains this, upper and lower case alike.
    Name(&'a str),
}

/// Opens a device, or `None` if no adapter fits the choice.
pub(super) fn open(choice: AdapterChoice<'_>) -> Result<Option<(Context, DeviceInfo)>> {
    let mut found = adapters().into_iter();
    let adapter = match choice {
        AdapterChoice::RealGpu => found.find(|a| !is_software(a)),
        AdapterChoice::Index(index) => found.nth(index),
        AdapterChoice::Name(part) => found.find(|a| a.get_info().name.to_lowercase().contains(&part.to_lowercase())),
    };
    let Some(adapter) = adapter else { return Ok(None) };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("flap-gpu"),
        required_limits: adapter.limits(),
        memory_hints: wgpu::MemoryHints::Performance,
        ..Default::default()
    };
    let opened = pollster::block_on(adapter.request_device(&descriptor));
    let info = adapter.get_info();
    let (device, queue) = opened.map_err(|e| Error::Device { operation: format!("opening {}", info.name), message: e.to_string() })?;
    let limits = adapter.limits();
    let device_info = DeviceInfo {
        kind: "gpu",
        name: info.name.clone(),
        backend: info.backend.to_str().to_string(),
        default_batch_tokens: if is_software(&adapter) { 512 } else { 4096 },
        max_binding_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
    };
    Ok(Some((Context::new(device, queue, limits), device_info)))
}
