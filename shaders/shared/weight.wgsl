// A weight matrix [rows, columns] in its checkpoint format, widened when read. 16-bit numbers stand two to a word.
override WEIGHT_FORMAT: u32 = 0u; // 0: f32, 1: f16, 2: bf16

@group(0) @binding(1) var<storage, read> weight: array<u32>;

fn widen_pair(word: u32) -> vec2<f32> {
    if (WEIGHT_FORMAT == 1u) {
        return unpack2x16float(word);
    }
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}

fn weight_at(index: u32) -> f32 {
    if (WEIGHT_FORMAT == 0u) {
        return bitcast<f32>(weight[index]);
    }
    let pair = widen_pair(weight[index >> 1u]);
    return select(pair.x, pair.y, (index & 1u) == 1u);
}

// Two consecutive weights from an even index, as they are stored: in one word or in two.
fn weight_words(index: u32) -> vec2<u32> {
    if (WEIGHT_FORMAT == 0u) {
        return vec2<u32>(weight[index], weight[index + 1u]);
    }
    return vec2<u32>(weight[index >> 1u], 0u);
}

fn widen_words(words: vec2<u32>) -> vec2<f32> {
    if (WEIGHT_FORMAT == 0u) {
        return bitcast<vec2<f32>>(words);
    }
    return widen_pair(words.x);
}

// Four consecutive weights from an index at which all four exist.
fn weight_quad(index: u32) -> vec4<f32> {
    if ((index & 1u) == 0u) {
        return vec4<f32>(widen_words(weight_words(index)), widen_words(weight_words(index + 2u)));
    }
    return vec4<f32>(weight_at(index), weight_at(index + 1u), weight_at(index + 2u), weight_at(index + 3u));
}
