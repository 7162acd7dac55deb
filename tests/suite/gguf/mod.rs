//! GGUF files: their bytes before a reader that is not ours, what llama.cpp asks of them, and reading them back.

mod vocabulary;

use crate::support::{GOLDEN, data, normalised_squared_error, prune_by_place};
use flap_gpu::architecture::Part;
use flap_gpu::checkpoint::gguf::{GgufFile, Value, q8_0};
use flap_gpu::compaction::CompactModel;
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::evaluation::run_tokens;
use flap_gpu::export::gguf::{GgufType, Source, check, write};
use flap_gpu::model::Model;
use flap_gpu::pass::PassOptions;
use flap_gpu::progress::Silent;
use ggus::{GGmlType, GGuf, GGufMetaMapExt};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> Model {
    Model::open(&data("golden").join(name)).unwrap()
}

/// Writes a model as it is; returns the file and the notes.
fn converted(model: &Model, kind: GgufType, folder: &Path) -> (PathBuf, Vec<String>) {
    let path = folder.join("model.gguf");
    let notes = write(&Source { model, name: "a model", plan: None }, &CompactModel::whole(model), kind, &path, &Silent).unwrap();
    (path, notes)
}

fn logits(model: &Model) -> Vec<f32> {
    run_tokens(&CpuEngine::default(), model, &(1..60).collect::<Vec<u32>>(), 59, false, PassOptions::default(), &Silent).unwrap().logits
}

/// f32 numbers of a tensor as another library finds them.
fn foreign(file: &GGuf, name: &str) -> Vec<f32> {
    let info = file.tensors.get(name).unwrap_or_else(|| panic!("{name} is missing")).to_info();
    assert_eq!(info.ty(), GGmlType::F32, "{name}");
    bytemuck::pod_collect_to_vec(&file.data[info.offset()..info.offset() + info.nbytes()])
}

#[test]
fn another_reader_finds_every_number_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    for name in GOLDEN {
        let model = golden(name);
        let (path, _) = converted(&model, GgufType::F32, folder.path());
        let bytes = fs::read(path).unwrap();
        let file = GGuf::new(&bytes).unwrap();
        assert_eq!(file.alignment, 32);
        let mut end = 0;
        for tensor in file.tensors.values() {
            let info = tensor.to_info();
            assert_eq!(info.offset(), end, "{name}: {} lies elsewhere", tensor.name());
            end = (info.offset() + info.nbytes()).next_multiple_of(32);
        }
        let a = &model.architecture;
        let half = a.head_dim / 2;
        for layer in 0..a.layers.len() {
            for tensor in a.layer_tensors(layer) {
                let ours = model.layer_tensor(layer, tensor).unwrap().to_f32();
                let theirs = foreign(&file, &tensor.part.gguf_name(layer));
                // Rows of a matrix, numbers of a bias; llama.cpp turns rows 2i and 2i + 1, checkpoints rows i and half + i.
                let width = if tensor.rows == 1 { 1 } else { tensor.columns };
                for (row, found) in theirs.chunks_exact(width).enumerate() {
                    let (head, place) = (row / a.head_dim, row % a.head_dim);
                    let turned = tensor.part.is_rotary() && name != "qwen3-bf16";
                    let from = if turned { head * a.head_dim + place % 2 * half + place / 2 } else { row };
                    assert_eq!(found, &ours[from * width..(from + 1) * width], "{name}: {:?} of layer {layer}, row {row}", tensor.part);
                }
            }
        }
        assert_eq!(file.tensors.contains_key("output.weight"), !a.tied_embeddings, "{name}");
        let arch = file.get_str("general.architecture").unwrap();
        for key in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
            assert_eq!(file.get_u32(&format!("{arch}.{key}")).unwrap() as usize, a.head_dim, "{name}: {key}");
        }
    }
}

#[test]
fn reading_back_gives_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    for name in GOLDEN {
        let mut model = golden(name);
        // No window reaches back over 59 tokens in a GGUF file; see `a_sliding_window_limits_the_context`.
        model.architecture.layers.iter_mut().for_each(|layer| layer.sliding_window = None);
        let expected = logits(&model);
        // Rounding of the weights, seen through the model. f32 holds all; rotary factors are f32 in the file and f64 in the folder.
        for (kind, tolerance) in [(GgufType::F32, 1e-10), (GgufType::F16, 1e-6), (GgufType::Bf16, 1e-3), (GgufType::Q8_0, 1e-2)] {
            let (path, _) = converted(&model, kind, folder.path());
            let again = Model::open(&path).unwrap();
            let error = normalised_squared_error(&logits(&again), &expected);
            assert!(error < tolerance, "{name} as {kind:?}: {error:e}");
        }
    }
}

#[test]
fn layers_that_differ_are_written_as_deci_with_lists() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden("llama3-gqa-rope-scaled-tied-bf16");
    let (plan, biases) = prune_by_place(&model, |layer, i| layer > 0 && i % 3 == 1);
    let compact = CompactModel::pruned(&model, &plan, &biases.clone().into()).unwrap();
    let path = folder.path().join("pruned.gguf");
    write(&Source { model: &model, name: "pruned", plan: Some(&plan) }, &compact, GgufType::F16, &path, &Silent).unwrap();
    let bytes = fs::read(&path).unwrap();
    let file = GGuf::new(&bytes).unwrap();
    assert_eq!(file.get_str("general.architecture").unwrap(), "deci");
    let list = |key: &str| file.get_i32_arr(key).unwrap().map(|v| v.unwrap() as usize).collect::<Vec<_>>();
    let sizes = &compact.architecture.layers;
    assert_eq!(list("deci.attention.head_count"), sizes.iter().map(|l| l.heads).collect::<Vec<_>>());
    assert_eq!(list("deci.attention.head_count_kv"), sizes.iter().map(|l| l.key_value_heads).collect::<Vec<_>>());
    assert_eq!(list("deci.feed_forward_length"), sizes.iter().map(|l| l.intermediate_size).collect::<Vec<_>>());
    assert!(sizes.iter().all(|l| l.heads % l.key_value_heads == 0) && sizes[0].heads > 0);
    // Biases are there where something was removed and nowhere else, in f32 although the matrices are f16.
    for (layer, bias) in biases.iter().enumerate() {
        let written = file.tensors.contains_key(Part::OutputBias.gguf_name(layer).as_str());
        assert_eq!(written, bias.attention.is_some(), "layer {layer}");
        if written {
            assert_eq!(foreign(&file, &Part::OutputBias.gguf_name(layer)).len(), model.architecture.hidden_size);
        }
    }
    // The llama3 frequencies travel as divisors.
    let factors = foreign(&file, "rope_freqs.weight");
    assert_eq!(factors.len(), model.architecture.head_dim / 2);
    assert!(factors[0] == 1.0 && (factors[factors.len() - 1] - 8.0).abs() < 1e-6, "{factors:?}");
    assert!(file.get_str("flap_gpu.settings").unwrap().contains("al-am"));
    // What is read back is the pruned model.
    let again = Model::open(&path).unwrap();
    assert_eq!(again.architecture.layers, compact.architecture.layers);
}

#[test]
fn equal_layers_are_written_as_llama() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama-biased-f32", "qwen2-bf16"] {
        let (path, _) = converted(&golden(name), GgufType::F32, folder.path());
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.get("general.architecture"), Some(&Value::text("llama")), "{name}");
        assert!(matches!(file.get("llama.attention.head_count"), Some(Value::U32(_))), "{name}");
    }
}

/// Tensors that an architecture does not load are fatal there, and silently other numbers would be worse.
#[test]
fn head_norms_with_biases_or_layers_that_differ_are_refused() {
    let model = golden("qwen3-bf16");
    let mut architecture = model.architecture.clone();
    check(&architecture, &model).unwrap();
    architecture.layers[1].down_bias = true;
    assert!(check(&architecture, &model).unwrap_err().to_string().contains("--compensation none"));
    architecture.layers[1].down_bias = false;
    architecture.layers[1].intermediate_size -= 8;
    assert!(check(&architecture, &model).unwrap_err().to_string().contains("--uniform"));
}

#[test]
fn a_sliding_window_limits_the_context() {
    let folder = tempfile::tempdir().unwrap();
    let (path, notes) = converted(&golden("mistral-sliding-bf16"), GgufType::F32, folder.path());
    assert_eq!(GgufFile::open(&path).unwrap().get("llama.context_length"), Some(&Value::U32(16)));
    assert!(notes.iter().any(|note| note.contains("16 tokens")), "{notes:?}");
}

#[test]
fn rows_that_are_no_whole_blocks_stay_f16() {
    let folder = tempfile::tempdir().unwrap();
    // 3 heads of 16 channels: rows of 48 numbers.
    let (path, notes) = converted(&golden("llama-biased-f32"), GgufType::Q8_0, folder.path());
    assert!(notes.iter().any(|note| note.contains("F16") && note.contains("no multiple of 32")), "{notes:?}");
    let bytes = fs::read(path).unwrap();
    let file = GGuf::new(&bytes).unwrap();
    assert_eq!(file.tensors["blk.0.attn_output.weight"].to_info().ty(), GGmlType::F16);
    assert_eq!(file.tensors["blk.0.ffn_down.weight"].to_info().ty(), GGmlType::Q8_0);
    assert_eq!(file.tensors["blk.0.ffn_down.bias"].to_info().ty(), GGmlType::F32);
}

proptest! {
    /// No number moves by more than half a step of its block, or by the rounding of the block's scale to f16.
    #[test]
    fn q8_0_is_within_half_a_step(values in prop::collection::vec(-1000.0f32..1000.0, 64), zero in any::<bool>()) {
        let values = if zero { vec![0.0; 64] } else { values };
        let (mut blocks, mut again) = (Vec::new(), vec![0.0f32; 64]);
        q8_0::encode(&values, &mut blocks);
        q8_0::decode(&blocks, &mut again);
        for (block, found) in values.chunks(32).zip(again.chunks(32)) {
            let largest = block.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            for (a, b) in block.iter().zip(found) {
                prop_assert!((a - b).abs() <= largest * (0.501 / 127.0 + 1.0 / 2048.0), "{a} became {b}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any bytes changed anywhere, any length cut: an error or a model, no panic, no read outside the map.
    #[test]
    fn damaged_files_never_panic(changes in prop::collection::vec((0usize..6000, any::<u8>()), 1..8), keep in 0usize..8000) {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = converted(&golden("llama3-gqa-rope-scaled-tied-bf16"), GgufType::F16, folder.path());
        let mut bytes = fs::read(&path).unwrap();
        if keep < 4000 { bytes.truncate(keep * bytes.len() / 4000); }
        for (place, value) in changes {
            if let Some(byte) = bytes.get_mut(place) { *byte = value; }
        }
        fs::write(&path, bytes).unwrap();
        if let Ok(model) = Model::open(&path) {
            let _ = std::hint::black_box(model.fingerprint());
            for layer in 0..model.architecture.layers.len() {
                model.architecture.layer_tensors(layer).into_iter().for_each(|t| { let _ = model.layer_tensor(layer, t); });
            }
        }
    }
}

/// Not infinity in the file: an error that names the tensor and the types that hold its numbers.
#[test]
fn numbers_beyond_a_type_are_an_error() {
    // The largest finite number of its format, which f32's exceeds in bf16 as well.
    for (name, largest, too_narrow) in [
        ("qwen2-bf16", half::bf16::MAX.to_le_bytes().to_vec(), &[GgufType::F16, GgufType::Q8_0][..]),
        ("llama-biased-f32", f32::MAX.to_le_bytes().to_vec(), &[GgufType::F16, GgufType::Q8_0, GgufType::Bf16]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("model");
        fs::create_dir(&source).unwrap();
        let of_golden = |file: &str| data(&format!("golden/{name}/{file}"));
        fs::copy(of_golden("config.json"), source.join("config.json")).unwrap();
        let mut bytes = fs::read(of_golden("model.safetensors")).unwrap();
        let dense = golden(name);
        let entries = dense.tensors.entries();
        // As the last weight of a matrix.
        let place = entries.iter().rposition(|entry| entry.shape.len() == 2).unwrap();
        let end = bytes.len() - entries[place + 1..].iter().map(|entry| entry.bytes.as_ref().len()).sum::<usize>();
        bytes[end - largest.len()..end].copy_from_slice(&largest);
        fs::write(source.join("model.safetensors"), bytes).unwrap();
        let model = Model::open(&source).unwrap();
        for kind in [GgufType::F16, GgufType::Q8_0, GgufType::Bf16, GgufType::F32] {
            let path = folder.path().join("model.gguf");
            let written = write(&Source { model: &model, name: "m", plan: None }, &CompactModel::whole(&model), kind, &path, &Silent);
            match written {
                Ok(_) => assert!(!too_narrow.contains(&kind)),
                Err(error) => {
                    let message = error.to_string();
                    assert!(too_narrow.contains(&kind), "{message}");
                    let wider = if kind == GgufType::Bf16 { "f32" } else { "bf16 or f32" };
                    assert!(message.contains(&entries[place].name) && message.ends_with(&format!("--gguf-type {wider}")), "{message}");
                }
            }
        }
    }
}
