//! Headers and configurations changed at random.

use crate::support::data;
use flap_gpu::architecture::Architecture;
use flap_gpu::checkpoint::{Config, TensorFile};
use flap_gpu::model::Model;
use proptest::prelude::*;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Any bytes changed anywhere near the header: an error or a readable file, no panic, no read outside the map.
    #[test]
    fn mutated_headers_never_panic(changes in prop::collection::vec((0usize..3000, any::<u8>()), 1..8), keep in 0usize..8000) {
        let original = fs::read(data("golden/qwen2-bf16/model.safetensors")).unwrap();
        let mut bytes = if keep < 4000 { original[..keep * original.len() / 4000].to_vec() } else { original };
        for (place, value) in changes {
            if let Some(byte) = bytes.get_mut(place) { *byte = value; }
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        fs::copy(data("golden/qwen2-bf16/config.json"), folder.path().join("config.json")).unwrap();
        if let Ok(file) = TensorFile::open(&folder.path().join("model.safetensors")) {
            for name in file.names() {
                let _ = std::hint::black_box(file.bytes(name).unwrap().as_ref().iter().fold(0u8, |a, b| a ^ b));
            }
        }
        if let Ok(model) = Model::open(folder.path()) {
            let _ = model.fingerprint();
            let _ = model.parameters();
        }
    }

    /// Any value under any key of a configuration: an error or an architecture, no panic.
    #[test]
    fn mutated_configurations_never_panic(family in 0usize..7, key in 0usize..26, value in values()) {
        const KEYS: [&str; 26] = [
            "architectures", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "num_hidden_layers",
            "vocab_size", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings", "attention_bias", "mlp_bias",
            "sliding_window", "use_sliding_window", "layer_types", "max_window_layers", "hidden_act", "flap_gpu", "torch_dtype", "dtype", "quantization_config",
            "partial_rotary_factor", "use_bias",
        ];
        let folders = [
            "llama3-gqa-rope-scaled-tied-bf16", "mistral-sliding-bf16", "qwen2-bf16", "qwen3-bf16", "phi3-partial-f32", "glm-bf16", "ernie4_5-bf16",
        ];
        let config = Config::read(&data("golden").join(folders[family])).unwrap();
        let mut values = config.values().clone();
        values.insert(KEYS[key].into(), value);
        let config = Config::new(PathBuf::from("config.json"), values);
        if let Ok(architecture) = Architecture::describe(&config) {
            prop_assert!(architecture.layers.iter().all(|l| l.key_value_heads > 0 && l.heads % l.key_value_heads == 0));
            let _ = architecture.prunable_parameters();
        }
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-10i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,8}".prop_map(Value::from),
        prop_oneof![Just("default"), Just("linear"), Just("llama3"), Just("LlamaForCausalLM")].prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let keys = prop_oneof![
            Just("rope_type"),
            Just("factor"),
            Just("rope_theta"),
            Just("low_freq_factor"),
            Just("layers"),
            Just("num_attention_heads")
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(keys.prop_map(str::to_string), inner, 0..5)
                .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
        ]
    })
}
