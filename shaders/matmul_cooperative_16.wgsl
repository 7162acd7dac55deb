// The matrix product on matrix units of 16 x 16, for numbers of tokens and outputs that are multiples of 16; see shared/matmul_cooperative.wgsl.
//#include shared/units_16.wgsl
//#include shared/cooperative.wgsl
//#include shared/staging_16.wgsl
//#include shared/matmul_params.wgsl
//#include shared/tiles.wgsl
//#include shared/matmul_cooperative.wgsl
//#include shared/store_matrices.wgsl
