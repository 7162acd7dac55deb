//! Rotary embedding as configurations write it; its numbers are held against transformers in `transformers`.

use flap_gpu::architecture::{Architecture, Rope};
use flap_gpu::checkpoint::Config;
use serde_json::{Value, json};

fn read(config: Value) -> Result<Rope, String> {
    let Value::Object(values) = config else { unreachable!() };
    Rope::read(&Config::new("config.json".into(), values), 8).map_err(|error| error.to_string())
}

#[test]
fn old_and_new_keys_say_the_same() {
    let (short, long) = ([1.0, 1.5, 2.0, 2.5], [1.0, 8.0, 20.0, 60.0]);
    // As Phi-3 was published, under both of its names, and as later versions of transformers write it.
    let published = |kind: &str| {
        json!({
            "rope_theta": 10000.0, "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096,
            "rope_scaling": {"type": kind, "short_factor": short, "long_factor": long},
        })
    };
    let parameters = json!({
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": short, "long_factor": long, "original_max_position_embeddings": 4096,
    });
    let rope = read(published("longrope")).unwrap();
    assert_eq!(rope, read(published("su")).unwrap());
    assert_eq!(rope, read(json!({"max_position_embeddings": 131_072, "rope_parameters": parameters})).unwrap());
    // Up to the original positions one set of numbers divides, beyond them the other.
    let second_pair = |positions: usize| f64::from(rope.table(positions)[8 + 1]) / rope.amplitude;
    assert!((second_pair(4096) - (0.1f64 / 1.5).cos()).abs() < 1e-6);
    assert!((second_pair(4097) - (0.1f64 / 8.0).cos()).abs() < 1e-6);
    // The factor may follow from the positions.
    let yarn = |own: Value, positions: u32| json!({"rope_theta": 1e6, "max_position_embeddings": positions, "rope_scaling": own});
    let original = "original_max_position_embeddings";
    let with_factor = read(yarn(json!({"type": "yarn", "factor": 4.0, original: 8192}), 8192)).unwrap();
    assert_eq!(with_factor, read(yarn(json!({"rope_type": "yarn", original: 8192}), 32768)).unwrap());
}

#[test]
fn wrong_scaling_is_refused() {
    let refused = |own: Value, what: &str| {
        let message = read(json!({"max_position_embeddings": 4096, "rope_scaling": own})).unwrap_err();
        assert!(message.contains("config.json") && message.contains(what), "{message}");
    };
    refused(
        json!({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 1.0, 1.0, 1.0]}),
        "`short_factor` has 1 numbers for 4 pairs",
    );
    refused(json!({"type": "longrope", "long_factor": [1.0, 1.0, 1.0, 1.0]}), "`short_factor` must be a list");
    refused(json!({"type": "longrope", "short_factor": [1, 1, 1, 0], "long_factor": [1, 1, 1, 1]}), "positive numbers");
    refused(json!({"type": "yarn", "factor": -2}), "`factor` is -2");
    refused(json!({"type": "dynamic", "factor": 2.0}), "`dynamic` is not supported");
    refused(json!({"type": "llama3", "factor": 2.0}), "`low_freq_factor` is missing");
}

/// SmolLM3 says layer by layer which turn queries and keys, or leaves one in four.
#[test]
fn some_layers_do_not_turn() {
    let turning = |own: Value| {
        let mut config = json!({
            "architectures": ["SmolLM3ForCausalLM"], "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
            "num_hidden_layers": 5, "vocab_size": 10, "rope_theta": 2e6,
        });
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let Value::Object(values) = config else { unreachable!() };
        let architecture = Architecture::describe(&Config::new("config.json".into(), values)).map_err(|error| error.to_string())?;
        assert!(architecture.tied_embeddings, "as where transformers is not told");
        Ok::<_, String>(architecture.layers.iter().map(|layer| layer.rotary).collect::<Vec<_>>())
    };
    assert_eq!(turning(json!({})).unwrap(), [true, true, true, false, true]);
    assert_eq!(turning(json!({"no_rope_layer_interval": 2})).unwrap(), [true, false, true, false, true]);
    assert_eq!(turning(json!({"no_rope_layers": [0, 1, 1, 0, 1]})).unwrap(), [false, true, true, false, true]);
    for (own, what) in [
        (json!({"no_rope_layers": [1, 1, 1, 0]}), "layer 4"),
        (json!({"no_rope_layers": [1, 1, 2, 0, 1]}), "layer 2"),
        (json!({"no_rope_layers": [1, 1, 1, 0, 1, 1]}), "5 layers"),
        (json!({"rope_theta": null}), "rope_theta"),
        (json!({"use_sliding_window": true, "sliding_window": 8}), "use_sliding_window"),
    ] {
        let message = turning(own).unwrap_err();
        assert!(message.contains("config.json") && message.contains(what), "{message}");
    }
}
