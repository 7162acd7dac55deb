// y[tokens, outputs] = x[tokens, inputs] weight[outputs, inputs]^T + bias on matrix units: f16 operands, f32 sums. Another piece
// has `prepare` and `store`, by which sums are written.
//
// A workgroup of four subgroups, two by two, computes a tile of TILE x TILE; a subgroup keeps 4 x 4 matrices of sums. DEPTH inputs at a
// time pass through workgroup memory: what is multiplied next is read meanwhile. Both operands lie in tiles as they are staged. If the
// subgroups are not of the size that the constants say, nothing is written: the host tries the sizes that an adapter may have, and sees
// by a first product which is right.
override STEPS: u32 = 4u; // TILE * UNITS / THREADS

// Numbers between two lines of a staged tile: eight more than DEPTH, against bank conflicts.
const LINE = DEPTH + 8u;
// STEPS of the smallest subgroups.
const MOST_STEPS = 8u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
// Activations of 16 tokens times their number are what they were.
@group(0) @binding(5) var<storage, read> scales: array<f32>;

var<workgroup> left_tile: array<Staged, TILE * LINE / UNIT>;
var<workgroup> right_tile: array<Staged, TILE * LINE / UNIT>;

// Where a tile of y begins.
struct Tile {
    token: u32,
    row: u32,
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    // Should a driver make more or fewer subgroups of the threads, all they do is stay within the tiles.
    let subgroup = subgroup_id % SUBGROUPS;
    let token = subgroup / 2u * 4u * SIDE;
    let row = subgroup % 2u * 4u * SIDE;
    let tile = Tile((params.first_row + group.y) * TILE, group.x * TILE);
    // Indexed by constants only, so that every driver keeps them in registers.
    var sums: array<Sum, 16>;
    var x_read: array<vec4<u32>, MOST_STEPS>;
    var weight_read: array<vec4<u32>, MOST_STEPS>;
    let place = line_at(thread / UNITS) * LINE + thread % UNITS * 8u;
    // Tiles along the inputs.
    let tiles = (params.inputs + DEPTH - 1u) / DEPTH;
    var x_at = tile.token * tiles * UNITS + thread;
    var weight_at = tile.row * tiles * UNITS + thread;
//#repeat i 8
    if (STEPS > $iu) {
        x_read[$i] = x[x_at + $iu * THREADS];
        weight_read[$i] = weight[weight_at + $iu * THREADS];
    }
//#end
    for (var step = 0u; step < tiles; step++) {
//#repeat i 8
        if (STEPS > $iu) {
            let line = place + $iu * (THREADS / UNITS * LINE);
            stage_left(line, quad_of(x_read[$i].xy));
            stage_left(line + 4u, quad_of(x_read[$i].zw));
            stage_right(line, quad_of(weight_read[$i].xy));
            stage_right(line + 4u, quad_of(weight_read[$i].zw));
        }
//#end
        workgroupBarrier();
        // Behind the last tile lies another line's, or one that is there for this alone, and is not used.
        x_at += TILE * UNITS;
        weight_at += TILE * UNITS;
//#repeat i 8
        if (STEPS > $iu) {
            x_read[$i] = x[x_at + $iu * THREADS];
            weight_read[$i] = weight[weight_at + $iu * THREADS];
        }
//#end
        // Not written out: operands of several k at a time would leave too few registers for a second workgroup, which multiplies while
        // the first one waits.
        for (var k = 0u; k < DEPTH; k += SIDE) {
//#repeat j 4
            let right_$j = coopLoad<Right>(&right_tile[((row + $ju * SIDE) * LINE + k) / UNIT], LINE / UNIT);
//#end
//#repeat i 4
            let left_$i = coopLoadT<Left>(&left_tile[((token + $iu * SIDE) * LINE + k) / UNIT], LINE / UNIT);
//#repeat j 4
            sums[4 * $i + $j] = coopMultiplyAdd(left_$i, right_$j, sums[4 * $i + $j]);
//#end
//#end
        }
        workgroupBarrier();
    }
    let part = Part(subgroup, lane, subgroups == SUBGROUPS);
    prepare(tile, thread);
//#repeat i 4
//#repeat j 4
    store(sums[4 * $i + $j], tile, token + $iu * SIDE, row + $ju * SIDE, part);
//#end
//#end
}
