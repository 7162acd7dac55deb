// The matrix product in wide tiles, operands staged as f32; see shared/matmul_wide.wgsl.
//#include shared/quad_f32.wgsl
//#include shared/unscaled.wgsl
//#include shared/weight.wgsl
//#include shared/matmul_params.wgsl
//#include shared/outer.wgsl
//#include shared/sums.wgsl
//#include shared/matmul_store.wgsl
//#include shared/matmul_wide.wgsl
