// The matrix product on matrix units of 8 x 8; see shared/matmul_cooperative.wgsl.
//#include shared/units_8.wgsl
//#include shared/cooperative.wgsl
//#include shared/staging_8.wgsl
//#include shared/matmul_params.wgsl
//#include shared/tiles.wgsl
//#include shared/matmul_cooperative.wgsl
//#include shared/store_numbers.wgsl
