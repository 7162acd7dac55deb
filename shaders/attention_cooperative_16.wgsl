// Attention on matrix units of 16 x 16; see shared/attention_cooperative.wgsl.
//#include shared/units_16.wgsl
//#include shared/tiles.wgsl
//#include shared/attention_params.wgsl
//#include shared/attention_cooperative.wgsl
alias Score = vec4<f32>;

fn score_quad(place: u32) -> vec4<f32> {
    return scores[place / UNIT];
}

fn stage_probabilities(place: u32, quad: vec4<f16>) {
    probabilities[place / UNIT] = quad;
}
