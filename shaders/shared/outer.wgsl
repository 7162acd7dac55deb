// Every number of one quad times the other quad. Sums of these stay in registers on every driver: an array that a loop goes through would
// be put into memory where the loop is not unrolled.
fn outer(a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(a.x * b, a.y * b, a.z * b, a.w * b);
}
