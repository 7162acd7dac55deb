// Where operands of products, and of attention, on matrix units lie: in tiles of TILE lines (tokens, or rows of a weight) by DEPTH inputs, as
// a product's workgroup stages them, so that it reads one piece of memory at fixed distances. Tiles follow one another along the inputs.
// What a tile holds behind the last line or input is zero. A unit is eight numbers in f16, 16 bytes.
const DEPTH = 32u;
const UNITS = 4u; // of a line of a tile
