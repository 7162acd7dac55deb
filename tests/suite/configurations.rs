//! What `config.json` leaves out.

use flap_gpu::architecture::{Architecture, Relative};
use flap_gpu::checkpoint::Config;
use serde_json::{Value, json};

/// What a configuration does not say is as in transformers.
#[test]
fn windows_that_are_not_told_are_those_of_transformers() {
    let windows = |family: &str, own: Value| {
        let mut config = json!({
            "architectures": [family], "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 30,
            "vocab_size": 10,
        });
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let Value::Object(values) = config else { unreachable!() };
        let architecture = Architecture::describe(&Config::new("config.json".into(), values)).unwrap();
        [0, 27, 28].map(|layer: usize| architecture.layers[layer].sliding_window)
    };
    for family in ["Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        assert_eq!(windows(family, json!({})), [None; 3]);
        assert_eq!(windows(family, json!({"use_sliding_window": true})), [None, None, Some(4096)]);
        assert_eq!(windows(family, json!({"use_sliding_window": true, "sliding_window": null})), [None; 3]);
        assert_eq!(
            windows(family, json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 27})),
            [None, Some(8), Some(8)]
        );
    }
    assert_eq!(windows("MistralForCausalLM", json!({})), [Some(4096); 3]);
    assert_eq!(windows("MistralForCausalLM", json!({"sliding_window": null})), [None; 3]);
}

/// Settings of families that are opened as another, under its names.
#[test]
fn relatives_are_opened_as_others() {
    let describe = |family: &str, own: Value| {
        let mut config = json!({
            "architectures": [family], "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
            "num_hidden_layers": 2, "vocab_size": 10, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
        });
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let Value::Object(values) = config else { unreachable!() };
        Architecture::describe(&Config::new("config.json".into(), values)).map_err(|error| error.to_string())
    };
    let ernie = describe("Ernie4_5ForCausalLM", json!({"use_bias": true})).unwrap();
    let shape = &ernie.layers[0];
    assert!(ernie.family == "LlamaForCausalLM" && ernie.tied_embeddings && ernie.head_dim == 128 && ernie.rope.theta == 500_000.0);
    assert!(shape.qkv_bias && shape.o_bias && shape.gate_up_bias && shape.down_bias);
    let helium = describe("HeliumForCausalLM", json!({"head_dim": 16, "rope_parameters": {"rope_theta": 7.0}})).unwrap();
    assert!(helium.rope.is_plain() && helium.rope.theta == 7.0 && !helium.layers[0].qkv_bias);
    let glm = describe("GlmForCausalLM", json!({"head_dim": 16, "partial_rotary_factor": 0.25})).unwrap();
    assert!(glm.family == "Qwen2ForCausalLM" && glm.layers[0].qkv_bias && !glm.layers[0].o_bias);
    // Of 8 pairs 2 turn, as those of a head of 4 channels.
    let turns = [1.0, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert!(glm.rope.frequencies.iter().zip(turns).all(|(found, wanted)| (found - wanted).abs() < 1e-12), "{:?}", glm.rope);
    assert_eq!(describe("GlmForCausalLM", json!({"attention_bias": false})).unwrap().family, "LlamaForCausalLM");
    // A stream of 64 / 12 the size: 64 is the power of two that is nearest to 12 / 0.2.
    let granite = |own: Value| {
        let mut config = json!({
            "architectures": ["GraniteForCausalLM"], "hidden_size": 64, "num_attention_heads": 4, "rms_norm_eps": 9e-6,
            "embedding_multiplier": 12.0, "residual_multiplier": 0.2, "attention_multiplier": 0.0625, "logits_scaling": 8.0,
        });
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let Value::Object(values) = config else { unreachable!() };
        Relative::of(&Config::new("config.json".into(), values)).unwrap().unwrap()
    };
    let (untied, tied) = (granite(json!({})), granite(json!({"tie_word_embeddings": true})));
    let scales = |relative: &Relative| {
        let of = relative.scales;
        [of.embedding, of.query, of.key, of.writers, of.final_norm]
    };
    let size = 64.0 / 12.0;
    assert_eq!(scales(&untied), [64.0, 0.5, 0.5, (0.2 * size) as f32, 0.125]);
    assert_eq!(scales(&tied), [64.0, 0.5, 0.5, (0.2 * size) as f32, 0.125 / 64.0]);
    assert!((tied.config.number("rms_norm_eps").unwrap() / (9e-6 * size * size) - 1.0).abs() < 1e-12);
    assert!(tied.config.get("logits_scaling").is_none());
    for (family, own, parts) in [
        ("GlmForCausalLM", json!({"head_dim": 16, "partial_rotary_factor": 0.2}), ["`partial_rotary_factor`", "3 of 16"]),
        ("GlmForCausalLM", json!({"head_dim": 16, "partial_rotary_factor": 1.5}), ["`partial_rotary_factor`", "24 of 16"]),
        ("GlmForCausalLM", json!({"num_key_value_heads": null}), ["`num_key_value_heads`", "missing"]),
        ("Phi3ForCausalLM", json!({"rms_norm_eps": null}), ["`rms_norm_eps`", "missing"]),
        ("HeliumForCausalLM", json!({"attention_bias": true}), ["`attention_bias`", "not supported"]),
        ("LlamaForCausalLM", json!({"partial_rotary_factor": 0.5}), ["`partial_rotary_factor`", "not supported"]),
        ("Ernie4_5ForCausalLM", json!({"partial_rotary_factor": 0.5}), ["`partial_rotary_factor`", "not supported"]),
        ("Ernie4_5_ForCausalLM", json!({"compression_ratio": 2.0}), ["`compression_ratio`", "not supported"]),
    ] {
        let refused = describe(family, own).unwrap_err();
        assert!(parts.iter().all(|part| refused.contains(part)), "{refused}");
    }
}
