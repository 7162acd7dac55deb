//! Every kernel is valid WGSL and can be written for Vulkan (SPIR-V), Metal (MSL), DX12 (HLSL) and, but for f16 and matrix units, GL (GLSL),
//! and its workgroups and bindings fit what all of them offer.

use flap_gpu::engine::gpu::Kernel;
use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use std::ffi::OsStr;
use std::process::Command;

/// Workgroup memory that Metal and DX12 give every kernel.
const WORKGROUP_BYTES: u32 = 32 << 10;
/// What some kernels ask of an adapter; the engine runs them only where it is there.
const CAPABILITIES: Capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32
    .union(Capabilities::SHADER_FLOAT16)
    .union(Capabilities::SUBGROUP)
    .union(Capabilities::COOPERATIVE_MATRIX);
const WORKGROUP_THREADS: u32 = 256;
/// Storage buffers that the engine asks of every adapter, and of those with matrix units.
const STORAGE_BUFFERS: usize = 5;
const STORAGE_BUFFERS_ON_UNITS: usize = 8;

fn validated(kernel: Kernel) -> (naga::Module, ModuleInfo) {
    let name = kernel.name();
    let source = kernel.source();
    let module = naga::front::wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source)));
    let info = Validator::new(ValidationFlags::all(), CAPABILITIES).validate(&module);
    let info = info.unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source)));
    (module, info)
}

/// Override-sized arrays and branches need values before they can be written out.
fn constants(module: &naga::Module, largest: bool) -> naga::back::PipelineConstants {
    let value = |name: &str| {
        let (with_largest, with_smallest) = match name {
            "ALIGNED" | "LOOPED" | "PAIRED" => (1.0, 0.0),
            "HEAD_DIM" => (256.0, 64.0),
            "SUBGROUP_SIZE" => (64.0, 8.0),
            "STEPS" => (8.0, 1.0),
            "THREADS" => (256.0, 32.0),
            "LINE" => (264.0, 72.0),
            "TILE" => (128.0, 1.0),
            "WEIGHT_FORMAT" => (2.0, 0.0),
            other => panic!("the test knows no value for the constant {other}"),
        };
        if largest { with_largest } else { with_smallest }
    };
    let names = module.overrides.iter().filter_map(|(_, o)| o.name.clone());
    names.map(|name| (name.clone(), value(&name))).collect()
}

#[test]
fn kernels_can_be_written_for_every_backend() {
    for &kernel in Kernel::ALL {
        let name = kernel.name();
        let (module, info) = validated(kernel);
        for largest in [false, true] {
            let constants = constants(&module, largest);
            let entry = (naga::ShaderStage::Compute, "main");
            let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, Some(entry), &constants)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let (module, info) = (module.as_ref(), info.as_ref());
            let pipeline = spv::PipelineOptions { shader_stage: entry.0, entry_point: entry.1.into() };
            let words =
                spv::write_vec(module, info, &spv::Options::default(), Some(&pipeline)).unwrap_or_else(|e| panic!("{name}, SPIR-V: {e}"));
            assert!(words.len() > 100, "{name}: SPIR-V of {} words", words.len());
            let options = msl::Options { fake_missing_bindings: true, lang_version: (2, 3), ..Default::default() };
            let (text, _) =
                msl::write_string(module, info, &options, &msl::PipelineOptions::default()).unwrap_or_else(|e| panic!("{name}, MSL: {e}"));
            assert!(text.contains("kernel void"), "{name}: MSL without a kernel");
            check_limits(name, module);
            if name.ends_with("_8") {
                check_matrices(name, module, info);
            }
            if name.contains("cooperative") {
                // DX12 has no matrix units in this shading language; the engine uses another tier there.
                continue;
            }
            let needs_f16 = kernel.source().contains("enable f16;");
            if !needs_f16 {
                check_glsl(name, module, info);
                // For Windows' older compiler.
                hlsl_of(name, module, info, hlsl::ShaderModel::V5_1);
            }
            let text = hlsl_of(name, module, info, hlsl::ShaderModel::V6_2);
            if let Some(compiler) = std::env::var_os("FLAP_GPU_DXC") {
                compile_hlsl(&compiler, name, &text);
            }
        }
    }
}

/// The kernel for DX12, as the engine has it written: without run-time checks.
fn hlsl_of(name: &str, module: &naga::Module, info: &ModuleInfo, shader_model: hlsl::ShaderModel) -> String {
    let options = hlsl::Options {
        shader_model,
        restrict_indexing: false,
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
        .write(module, info, None)
        .unwrap_or_else(|e| panic!("{name}, HLSL {shader_model:?}: {e}"));
    assert!(text.contains("numthreads"), "{name}: HLSL without a compute entry");
    text
}

/// GL ES, which has fewer functions than GL, writes the kernel.
fn check_glsl(name: &str, module: &naga::Module, info: &ModuleInfo) {
    let pipeline = glsl::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".into(), multiview: None };
    let (mut text, policies) = (String::new(), naga::proc::BoundsCheckPolicies::default());
    glsl::Writer::new(&mut text, module, info, &glsl::Options::default(), &pipeline, policies)
        .and_then(|mut writer| writer.write().map(|_| ()))
        .unwrap_or_else(|e| panic!("{name}, GLSL: {e}"));
    assert!(text.contains("local_size_x"), "{name}: GLSL without a compute entry");
}

/// Compiles a kernel as DX12 does, by the program that the environment variable names.
fn compile_hlsl(compiler: &OsStr, name: &str, text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(format!("{name}.hlsl"));
    std::fs::write(&file, text).unwrap();
    let arguments = ["-T", "cs_6_2", "-E", "main", "-HV", "2018", "-enable-16bit-types"];
    let output = Command::new(compiler).args(arguments).arg(&file).output().expect("the program that FLAP_GPU_DXC names starts");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

fn check_limits(name: &str, module: &naga::Module) {
    let entry = &module.entry_points[0];
    let threads: u32 = entry.workgroup_size.iter().product();
    assert!(threads <= WORKGROUP_THREADS, "{name}: {threads} threads a workgroup");
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
    let bytes: u32 = shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
    assert!(bytes <= WORKGROUP_BYTES, "{name}: {bytes} bytes of workgroup memory");
    let is_buffer = |v: &naga::GlobalVariable| matches!(v.space, naga::AddressSpace::Storage { .. });
    let buffers = module.global_variables.iter().filter(|(_, v)| is_buffer(v)).count();
    let most = if name.contains("cooperative") { STORAGE_BUFFERS_ON_UNITS } else { STORAGE_BUFFERS };
    assert!(buffers <= most, "{name}: {buffers} storage buffers");
}

/// Metal's matrices can be multiplied by matrices and added up, and nothing else; its compiler is not here to say so.
fn check_matrices(name: &str, module: &naga::Module, info: &ModuleInfo) {
    let functions = module.functions.iter().map(|(handle, function)| (function, &info[handle]));
    let entries = module.entry_points.iter().enumerate().map(|(index, entry)| (&entry.function, info.get_entry_point(index)));
    for (function, info) in functions.chain(entries) {
        for (_, expression) in function.expressions.iter() {
            let (naga::Expression::Binary { left: operand, .. } | naga::Expression::Unary { expr: operand, .. }) = expression else {
                continue;
            };
            let is_matrix = matches!(info[*operand].ty.inner_with(&module.types), naga::TypeInner::CooperativeMatrix { .. });
            assert!(!is_matrix, "{name}: arithmetic with a matrix of Metal's units");
        }
    }
}

/// Shader files that no kernel names would be dead.
#[test]
fn every_shader_file_is_a_kernel() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".wgsl").map(str::to_string))
        .collect();
    files.sort();
    let mut kernels: Vec<&str> = Kernel::ALL.iter().map(|kernel| kernel.name()).collect();
    kernels.sort_unstable();
    assert_eq!(files, kernels);
}
