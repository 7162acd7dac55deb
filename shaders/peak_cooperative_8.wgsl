// Chains of products on matrix units of 8 x 8; see shared/peak_cooperative.wgsl.
//#include shared/units_8.wgsl
//#include shared/peak_cooperative.wgsl
