// Workgroup counts above 65535 fold into two dimensions; this is the position in the unfolded row.
fn linear_workgroup(id: vec3<u32>, count: vec3<u32>) -> u32 {
    return id.y * count.x + id.x;
}
