// y[tokens, outputs] = x[tokens, inputs] weight[outputs, inputs]^T + bias, for large products.
//
// A workgroup of 256 threads computes a tile of 128 tokens by 128 outputs, 16 inputs at a time; a thread keeps 8 x 8 sums in
// registers, so that each line of four numbers read from workgroup memory serves eight multiplications of four. While a tile is
// multiplied, each thread reads two inputs of four tokens and of four outputs of the next one ahead, and turns them when it stages them.
// Needs inputs that are a multiple of 4. Sums run over the inputs in order, as in matmul.wgsl.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<Pair>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const TILE = 128u;
const DEPTH = 16u;
// Quads of four tokens or outputs in a line of the tile, and one more against bank conflicts.
const LINE = 33u;

var<workgroup> x_tile: array<Quad, 528>; // DEPTH * LINE
var<workgroup> weight_tile: array<Quad, 528>;

// Two inputs of four tokens and of four outputs, as they are stored.
struct Ahead {
    x: array<Pair, 4>,
    weight: array<vec2<u32>, 4>,
}

// Where four consecutive rows begin. Beyond the edge it is the last row again, whose products nobody writes: what is read in a branch
// is waited for where the branch ends, and would not be read ahead.
fn lines(first: u32, rows: u32) -> vec4<u32> {
    return min(first + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(rows - 1u)) * params.inputs;
}

// Nothing is made of the numbers here, because that would wait for them.
fn read_ahead(x_lines: vec4<u32>, weight_lines: vec4<u32>, input: u32) -> Ahead {
    let within = min(input, params.inputs - 2u);
    let x_at = (x_lines + within) / 2u;
    let weight_at = weight_lines + within;
    return Ahead(
        array<Pair, 4>(x[x_at.x], x[x_at.y], x[x_at.z], x[x_at.w]),
        array<vec2<u32>, 4>(weight_words(weight_at.x), weight_words(weight_at.y), weight_words(weight_at.z), weight_words(weight_at.w)),
    );
}

// Turns the numbers and puts them into the tiles.
fn stage(place: u32, ahead: Ahead, exists: bool) {
    let x_0 = ahead.x[0];
    let x_1 = ahead.x[1];
    let x_2 = ahead.x[2];
    let x_3 = ahead.x[3];
    // Zero in one of the operands is enough where inputs end.
    x_tile[place] = select(Quad(), Quad(x_0.x, x_1.x, x_2.x, x_3.x), exists);
    x_tile[place + LINE] = select(Quad(), Quad(x_0.y, x_1.y, x_2.y, x_3.y), exists);
    let weight_0 = widen_words(ahead.weight[0]);
    let weight_1 = widen_words(ahead.weight[1]);
    let weight_2 = widen_words(ahead.weight[2]);
    let weight_3 = widen_words(ahead.weight[3]);
    weight_tile[place] = Quad(vec4<f32>(weight_0.x, weight_1.x, weight_2.x, weight_3.x));
    weight_tile[place + LINE] = Quad(vec4<f32>(weight_0.y, weight_1.y, weight_2.y, weight_3.y));
}

// Adds the products of one input.
fn add_products(sums: ptr<function, Sums>, k: u32, line: u32, column: u32) {
    let weights_low = vec4<f32>(weight_tile[k * LINE + column]);
    let weights_high = vec4<f32>(weight_tile[k * LINE + 16u + column]);
    let tokens_low = vec4<f32>(x_tile[k * LINE + line]);
    let tokens_high = vec4<f32>(x_tile[k * LINE + 16u + line]);
    add_outer(sums, tokens_low, tokens_high, weights_low, weights_high);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first_row = group.x * TILE;
    let first_token = (params.first_row + group.y) * TILE;
    let staged_quad = thread / 8u;
    let staged_input = thread % 8u * 2u;
    let x_lines = lines(first_token + staged_quad * 4u, params.tokens);
    let weight_lines = lines(first_row + staged_quad * 4u, params.panel_rows);
    let column = thread % 16u;
    let line = thread / 16u;

    var sums: Sums;
    var next = read_ahead(x_lines, weight_lines, staged_input);
    let place = staged_input * LINE + staged_quad;
    for (var depth = 0u; depth < params.inputs; depth += DEPTH) {
        stage(place, next, depth + staged_input < params.inputs);
        workgroupBarrier();
        next = read_ahead(x_lines, weight_lines, depth + DEPTH + staged_input);
        if (LOOPED) {
            for (var k = 0u; k < DEPTH; k++) {
                add_products(&sums, k, line, column);
            }
        } else {
//#repeat k 16
            add_products(&sums, $ku, line, column);
//#end
        }
        workgroupBarrier();
    }
    let token = first_token + line * 4u;
    let row = first_row + column * 4u;
    store_square(token, row, sums.low_low);
    store_square(token, row + 64u, sums.low_high);
    store_square(token + 64u, row, sums.high_low);
    store_square(token + 64u, row + 64u, sums.high_high);
}
