// Chains of products on matrix units of 16 x 16; see shared/peak_cooperative.wgsl.
//#include shared/units_16.wgsl
//#include shared/peak_cooperative.wgsl
