//! What `config.json` leaves out.

use flap_gpu::architecture::Architecture;
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
