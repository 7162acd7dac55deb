// y = x as f16, each row scaled by the power of two that brings its largest number between 2^14 and 2^15: f16 then holds it, whatever
// it is, and small numbers lose no digits that matter beside it. scales[row] undoes it, exactly. One workgroup a row.
enable f16;
//#include shared/workgroup.wgsl
//#include shared/reduce.wgsl
//#include shared/power.wgsl
struct Params {
    rows: u32,
    // Columns by four.
    quads: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = linear_workgroup(group, groups);
    if (row >= params.rows) {
        return;
    }
    let start = row * params.quads;
    var largest = 0.0;
    for (var i = thread; i < params.quads; i += 256u) {
        let quad = abs(x[start + i]);
        largest = max(largest, max(max(quad.x, quad.y), max(quad.z, quad.w)));
    }
    let exponent = scale_exponent(workgroup_max(thread, largest));
    let factor = scale_to_f16(exponent);
    for (var i = thread; i < params.quads; i += 256u) {
        y[start + i] = vec4<f16>(x[start + i] * factor);
    }
    if (thread == 0u) {
        scales[row] = scale_from_f16(exponent);
    }
}
