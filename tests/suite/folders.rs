//! The configurations of pruned folders: which class of transformers loads them, and that they say what the weights hold.

use crate::support::{data, normalised_squared_error, prune_by_place};
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::evaluation::run_tokens;
use flap_gpu::export::{ExportOptions, Format, export, folder};
use flap_gpu::model::Model;
use flap_gpu::pass::PassOptions;
use flap_gpu::progress::Silent;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::Path;

/// A pruned folder's configuration, the model read back, and the notes.
fn written(name: &str, gone: impl Fn(usize, usize) -> bool, with_biases: bool, place: &Path) -> (Value, Model, Vec<String>) {
    let model = Model::open(&data("golden").join(name)).unwrap();
    let (mut plan, mut biases) = prune_by_place(&model, gone);
    if !with_biases {
        plan.settings.compensation = flap_gpu::plan::Compensation::None;
        biases.iter_mut().for_each(|b| *b = flap_gpu::compensation::LayerBiases::default());
    }
    let output = folder::create(place, &[&model.path], true).unwrap();
    let exported = export(&model, &plan, &biases.clone().into(), &ExportOptions::hf(place), &output, &Silent).unwrap();
    output.commit().unwrap();
    let config = serde_json::from_str(&std::fs::read_to_string(place.join("config.json")).unwrap()).unwrap();
    (config, Model::open(place).unwrap(), exported.notes)
}

fn logits(model: &Model) -> Vec<f32> {
    run_tokens(&CpuEngine::default(), model, &(1..15).collect::<Vec<u32>>(), 14, false, PassOptions::default(), &Silent).unwrap().logits
}

/// A model is the same in however many files it lies: statistics and plans of one serve the other.
#[test]
fn a_sharded_model_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let whole = data("golden/llama-mha-f16");
    let bytes = std::fs::read(whole.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let mut weight_map = serde_json::Map::new();
    for half in [0, 1] {
        let file = format!("model-0000{}-of-00002.safetensors", half + 1);
        let part: Vec<_> = tensors.iter().enumerate().filter(|(index, _)| index % 2 == half).map(|(_, tensor)| tensor.clone()).collect();
        weight_map.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
        safetensors::serialize_to_file(part, None, &folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("model.safetensors.index.json"), json!({"weight_map": weight_map}).to_string()).unwrap();
    std::fs::copy(whole.join("config.json"), folder.path().join("config.json")).unwrap();
    assert_eq!(Model::open(folder.path()).unwrap().fingerprint(), Model::open(&whole).unwrap().fingerprint());
}

#[test]
fn equal_layers_need_no_code_where_a_class_has_their_biases() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("pruned");
    // Half the heads and every fourth neuron of every layer; 2 of 4 heads divide every hidden size here.
    let every = |_: usize, i: usize| i % 4 == 1;
    let cases = [
        ("llama3-gqa-rope-scaled-tied-bf16", true, "LlamaForCausalLM"),
        ("qwen2-bf16", true, "LlamaForCausalLM"),
        ("mistral-sliding-bf16", false, "MistralForCausalLM"),
        ("qwen3-bf16", false, "Qwen3ForCausalLM"),
        // A sliding window or head norms together with biases are nowhere.
        ("mistral-sliding-bf16", true, "FlapGpuMistralForCausalLM"),
        ("qwen3-bf16", true, "FlapGpuQwen3ForCausalLM"),
        // 3 of 4 heads do not divide 64, which transformers asks of a LLaMA.
        ("llama-mha-f16", true, "FlapGpuLlamaForCausalLM"),
        // Opened as these, with other words, orders of rows and factors.
        ("phi3-partial-f32", true, "LlamaForCausalLM"),
        ("glm-bf16", true, "LlamaForCausalLM"),
        ("granite-f32", true, "LlamaForCausalLM"),
    ];
    for (name, with_biases, class) in cases {
        let (config, model, notes) = written(name, every, with_biases, &place);
        assert_eq!(config["architectures"][0], class, "{name}");
        let code = class.starts_with("FlapGpu");
        assert_eq!(place.join("modeling_flap_gpu.py").exists(), code, "{name}");
        assert_eq!(notes.iter().any(|note| note.contains("trust_remote_code")), code, "{name}");
        assert_eq!(config.get("auto_map").is_some(), code, "{name}");
        assert_eq!(config["num_attention_heads"].as_u64().unwrap() as usize == model.architecture.layers[0].heads, !code, "{name}");
        // The same model through the other form of output.
        let dense = Model::open(&data("golden").join(name)).unwrap();
        let (plan, biases) = prune_by_place(&dense, every);
        let masked = folder.path().join("masked");
        let mut plan = plan;
        plan.settings.mask_only = true;
        if !with_biases {
            plan.settings.compensation = flap_gpu::plan::Compensation::None;
        }
        let biases = if with_biases { biases } else { vec![flap_gpu::compensation::LayerBiases::default(); biases.len()] };
        let output = folder::create(&masked, &[&dense.path], true).unwrap();
        export(&dense, &plan, &biases.clone().into(), &ExportOptions::hf(&masked), &output, &Silent).unwrap();
        output.commit().unwrap();
        let error = normalised_squared_error(&logits(&model), &logits(&Model::open(&masked).unwrap()));
        assert!(error < 1e-10, "{name}: {error:e}");
    }
}

/// transformers 5 has its words for rotary embedding, and versions before it others.
#[test]
fn rotary_embedding_is_said_in_old_words_and_new() {
    let folder = tempfile::tempdir().unwrap();
    let words = |name: &str| written(name, |_, _| false, true, &folder.path().join(name)).0;
    let plain = words("helium-bf16");
    assert_eq!(plain["rope_theta"], plain["rope_parameters"]["rope_theta"]);
    assert!(plain["rope_theta"].is_number() && plain.get("rope_scaling").is_none());
    let scaled = words("qwen2-yarn-bf16");
    assert_eq!(scaled["rope_theta"], scaled["rope_parameters"]["rope_theta"]);
    assert_eq!((&scaled["rope_scaling"]["rope_type"], &scaled["rope_scaling"]["factor"]), (&"yarn".into(), &4.0.into()));
    let in_part = words("phi3-partial-f32");
    assert!(in_part.get("rope_parameters").is_none() && in_part.get("partial_rotary_factor").is_none());
    // The channels that do not turn.
    let factors = in_part["rope_scaling"]["short_factor"].as_array().unwrap();
    assert_eq!(factors.iter().filter(|factor| factor.as_f64().unwrap() > 1e20).count(), 2);
    for place in [&in_part, &in_part["rope_scaling"]] {
        assert_eq!(place["original_max_position_embeddings"], 32);
    }
}

#[test]
fn layers_that_differ_keep_their_sizes_and_can_be_pruned_again() {
    let folder = tempfile::tempdir().unwrap();
    let (config, model, _) = written("qwen2-bf16", |layer, i| layer == 1 && i % 3 == 1, true, &folder.path().join("once"));
    assert_eq!(config["model_type"], "flap_gpu_qwen2");
    assert_eq!(config["auto_map"]["AutoModelForCausalLM"], "modeling_flap_gpu.FlapGpuQwen2ForCausalLM");
    let sizes = &config["flap_gpu"]["per_layer_config"]["1"];
    assert_eq!(sizes["intermediate_size"].as_u64().unwrap() as usize, model.architecture.layers[1].intermediate_size);
    assert!(model.architecture.layers[1].intermediate_size < model.architecture.layers[0].intermediate_size);
    // Again, so that all layers are alike: nothing of the first time is left in the configuration.
    let keep = |layer: usize, i: usize| if layer == 1 { false } else { i % 3 == 1 };
    let (plan, biases) = prune_by_place(&model, keep);
    let twice = folder.path().join("twice");
    let output = folder::create(&twice, &[&model.path], false).unwrap();
    let mut options = ExportOptions::hf(&twice);
    options.formats.push(Format::Gguf);
    let exported = export(&model, &plan, &biases.clone().into(), &options, &output, &Silent).unwrap();
    output.commit().unwrap();
    assert_eq!(exported.gguf_files, ["twice-F16.gguf"]);
    let again = Model::open(&twice).unwrap();
    assert_eq!(again.architecture.family, "LlamaForCausalLM");
    assert!(again.config.get("flap_gpu").is_none() && again.config.get("auto_map").is_none());
    let gguf = Model::open(&twice.join("twice-F16.gguf")).unwrap();
    let error = normalised_squared_error(&logits(&gguf), &logits(&again));
    assert!(error < 1e-6, "{error:e}");
}

/// transformers 5 takes the tokenizer of a Mistral as it is and that of a type unknown to it by the class that is declared.
#[test]
fn the_tokenizer_is_taken_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (source, place) = (folder.path().join("dense"), folder.path().join("pruned"));
    for (name, declared, expected) in [
        ("mistral-sliding-bf16", Some("LlamaTokenizer"), Some("PreTrainedTokenizerFast")),
        ("mistral-sliding-bf16", None, Some("PreTrainedTokenizerFast")),
        ("llama-mha-f16", Some("LlamaTokenizer"), Some("LlamaTokenizer")),
    ] {
        std::fs::create_dir_all(&source).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(data("golden").join(name).join(file), source.join(file)).unwrap();
        }
        std::fs::write(source.join("tokenizer.json"), "{}").unwrap();
        let settings = source.join("tokenizer_config.json");
        let _ = std::fs::remove_file(&settings);
        declared.into_iter().for_each(|class| {
            std::fs::write(&settings, serde_json::json!({"tokenizer_class": class, "eos_token": "</s>"}).to_string()).unwrap();
        });
        let model = Model::open(&source).unwrap();
        let (plan, biases) = prune_by_place(&model, |layer, i| i % 3 == layer % 3);
        let output = folder::create(&place, &[&source], true).unwrap();
        export(&model, &plan, &biases.into(), &ExportOptions::hf(&place), &output, &Silent).unwrap();
        output.commit().unwrap();
        let written: Value = serde_json::from_str(&std::fs::read_to_string(place.join("tokenizer_config.json")).unwrap()).unwrap();
        assert_eq!(written["tokenizer_class"].as_str(), expected, "{name}, declared {declared:?}");
        assert_eq!(written["eos_token"].as_str(), declared.map(|_| "</s>"));
        // What that class gives besides is no input of these models.
        let inputs = serde_json::json!(["input_ids", "attention_mask"]);
        assert_eq!(
            written.get("model_input_names"),
            expected.filter(|&class| class == "PreTrainedTokenizerFast").map(|_| &inputs),
            "{name}"
        );
        // What holds no settings is copied as it is.
        std::fs::write(&settings, "[]").unwrap();
        let output = folder::create(&place, &[&source], true).unwrap();
        export(&model, &plan, &Vec::new().into(), &ExportOptions::hf(&place), &output, &Silent).unwrap();
        assert_eq!(std::fs::read_to_string(output.path().join("tokenizer_config.json")).unwrap(), "[]");
    }
}
