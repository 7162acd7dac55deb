// The matrix product in wide tiles, operands staged as f16; see shared/matmul_wide.wgsl.
//#include shared/quad_f16.wgsl
//#include shared/weight.wgsl
//#include shared/matmul_params.wgsl
//#include shared/outer.wgsl
//#include shared/sums.wgsl
//#include shared/matmul_store.wgsl
//#include shared/matmul_wide.wgsl
