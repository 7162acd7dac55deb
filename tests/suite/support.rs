//! What the tests share: engines, places, comparison of numbers.

use flap_gpu::compensation::LayerBiases;
use flap_gpu::engine::Precision;
use flap_gpu::engine::gpu::{AdapterChoice, GpuEngine};
use flap_gpu::error::Error;
use flap_gpu::model::Model;
use flap_gpu::plan::{Plan, PlanOptions};
use flap_gpu::pruning::plan_from_kept;
use flap_gpu::search::Kept;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Written straight to standard error, which the test harness does not capture.
pub fn say_loudly(message: &str) {
    let _ = writeln!(std::io::stderr(), "\n*** {message} ***");
}

/// The first adapter. `None` (said loudly) if there is none and none is required.
pub fn gpu() -> Option<GpuEngine> {
    gpu_with(Precision::F32)
}

/// The first adapter with a precision. `None` likewise where it does not have that precision, as f16 with some drivers.
pub fn gpu_with(precision: Precision) -> Option<GpuEngine> {
    let missing = match GpuEngine::open(AdapterChoice::Index(0), precision) {
        Ok(None) => "no adapter was found (a software Vulkan driver would do)".into(),
        Err(Error::Unsupported(reason)) => reason,
        engine => return engine.expect("the adapter opens"),
    };
    assert!(std::env::var_os("FLAP_GPU_REQUIRE_GPU").is_none(), "the GPU is required, but {missing}");
    say_loudly(&format!("SKIPPED on the GPU: {missing}"));
    None
}

/// Runs a test body with the CPU engine and, where there is an adapter, with the GPU engine.
macro_rules! on_both_engines {
    ($engine:ident => $body:block) => {{
        {
            let $engine = &flap_gpu::engine::cpu::CpuEngine::default();
            $body
        }
        if let Some(gpu) = $crate::support::gpu() {
            let $engine = &gpu;
            $body
        }
    }};
}
pub(crate) use on_both_engines;

/// The result, or another case of the property where there is none. If there are none for most cases, the test fails.
macro_rules! possible {
    ($result:expr) => {{
        let result = $result;
        proptest::prop_assume!(result.is_ok());
        result.unwrap()
    }};
}
pub(crate) use possible;

/// A file or folder of the tests' own data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The model that the demo ships.
pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model")
}

/// A folder of the reference material that lies beside the project. `None` (said loudly) if it is not there and not required.
pub fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("FLAP_GPU_SHARED").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("FLAP_GPU_REQUIRE_SHARED").is_none(), "{} is missing, but required", path.display());
    say_loudly(&format!("SKIPPED: the reference material {} is not here", path.display()));
    None
}

/// Sum of squared differences over sum of squares of the reference.
pub fn normalised_squared_error(values: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(values.len(), reference.len(), "different lengths");
    let difference: f64 = values.iter().zip(reference).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = reference.iter().map(|b| f64::from(*b).powi(2)).sum();
    difference / size
}

/// Reproducible numbers in [-1, 1): a linear congruential generator's upper bits.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Tiny models of every family, in `tests/data/golden`.
pub const GOLDEN: [&str; 15] = [
    "llama-biased-f32",
    "llama-mha-f16",
    "llama3-gqa-rope-scaled-tied-bf16",
    "mistral-sliding-bf16",
    "qwen2-bf16",
    "qwen3-bf16",
    "phi3-bf16",
    "phi3-longrope-bf16",
    "phi3-partial-f32",
    "ernie4_5-bf16",
    "glm-bf16",
    "granite-f32",
    "helium-bf16",
    "qwen2-yarn-bf16",
    "smollm3-bf16",
];

/// A plan that removes the units whose layer and place are `gone`, but for the first of each layer, and biases without meaning where
/// something goes.
pub fn prune_by_place(model: &Model, gone: impl Fn(usize, usize) -> bool) -> (Plan, Vec<LayerBiases>) {
    let flags = |layer: usize, count: usize| (0..count).map(|i| i == 0 || !gone(layer, i)).collect();
    let layers = model.architecture.layers.iter().enumerate();
    let kept: Vec<Kept> =
        layers.map(|(i, l)| Kept { attention: flags(i, l.key_value_heads), mlp: flags(i, l.intermediate_size) }).collect();
    let plan = plan_from_kept(model, &PlanOptions { ratio: 0.5, ..PlanOptions::default() }, &kept, false);
    let bias = |kept: &[bool], seed: usize| kept.contains(&false).then(|| noise(seed as u64, model.architecture.hidden_size));
    let layers = kept.iter().enumerate();
    let biases = layers.map(|(l, k)| LayerBiases { attention: bias(&k.attention, l), mlp: bias(&k.mlp, 100 + l) }).collect();
    (plan, biases)
}

/// Runs the built program; returns exit code, standard output and standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_flap-gpu"));
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Without it a layer of some Vulkan drivers prints a line of its own on standard error.
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    }
    let output = command.args(arguments).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    (output.status.code().expect("the program exits"), text(output.stdout), text(output.stderr))
}

/// Runs the built program with --json and returns the document; fails if the program does.
pub fn run_json(arguments: &[&str]) -> serde_json::Value {
    let (code, stdout, stderr) = run(&[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).expect("one JSON document on standard output")
}
