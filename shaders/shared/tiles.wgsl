// Where operands of products, and of attention, on matrix units lie: in tiles of TILE lines (tokens, or rows of a weight) by DEPTH inputs, as
// a product's workgroup stages them, so that it reads one piece of memory at fixed distances. Tiles follow one another along the inputs.
// What a tile holds behind the last line or input is zero. A unit is eight numbers in f16, 16 bytes.
//
// Lines of a product's operands lie in pairs four apart: of eight lines 0, 4, 1, 5, 2, 6, 3, 7. Lines are staged 80 bytes apart, so that two
// of a pair, which neighbouring threads write at once, fill all banks of workgroup memory, where lines next to each other would share some.
// Attention reads its queries from memory as matrices, so its operands' lines lie in their order.
const DEPTH = 32u;
const UNITS = 4u; // of a line of a tile

// The line that lies at a place of a product's operand.
fn line_at(place: u32) -> u32 {
    return place / 8u * 8u + place % 8u / 2u + place % 2u * 4u;
}

// The place of a line.
fn place_of(line: u32) -> u32 {
    return line / 8u * 8u + line % 4u * 2u + line % 8u / 4u;
}
