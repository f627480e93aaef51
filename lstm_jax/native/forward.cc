// The forward pass of a call; recurrence.cc says how both passes work.

#include "forward.h"

#include "call.h"
#include "few_forward.h"
#include "fused_lstm.h"

namespace {

// A cell's function for a step, and the one for few rows, null for a cell that has none.
template <typename T>
struct ForwardCode {
  decltype(Forward<T>::step) step;
  StepUnits<T> step_units;
};

template <typename T, typename Cell>
constexpr ForwardCode<T> forward_code() {
  if constexpr (std::is_same_v<Cell, LayerNormCell>)
    return {&step_layernorm<T>, nullptr};
  else if constexpr (std::is_same_v<Cell, LSTMCell<T, 0>>)
    return {&step_lstm<T>, &step_units<T, Cell>};
  else if constexpr (kSharesUnits<Cell>)
    return {&step_of<T, Cell>, &step_units<T, Cell>};
  else
    return {&step_of<T, Cell>, nullptr};
}

template <typename T, typename... Cells>
struct Forwards {
  static constexpr ForwardCode<T> rows[] = {forward_code<T, Cells>()...};
};

template <typename T>
void forward_empty(const Forward<T>& run) {
  const int64_t h_size = run.sizes.batch * run.h_size(), size = run.sizes.batch * run.c_size();
  std::copy_n(run.h, h_size, run.final_h);
  if (run.c) std::copy_n(run.c, size, run.final_c);
  if (run.all_h) std::copy_n(run.h, h_size, run.all_h);
  if (run.all_c) std::copy_n(run.c, size, run.all_c);
}

// Pack the kernels where that pays, and run all tiles.
template <typename T>
void forward_tiles(ffi::ThreadPool pool, Forward<T>& run, const T* recurrent, int64_t threads) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  // packing costs about as much as a step of two rows; for a single row, each block is packed when
  // it is used
  const int64_t width = width_of<T>(units), panels = gates * panels_of<T>(units);
  const bool packs = run.products != kFull || units % width != 0 ||
                     (steps > 1 && steps * batch > 4 * kRows),
             fused = run.step == &step_lstm<T>;
  const int64_t kernel_depth = packed_depth(features, run.products),
                recurrent_depth = packed_depth(run.h_size(), run.products);
  const int64_t blocks = packs && fused ? blocks_of<T>(units) : 0,
                kernel_panels = packs && run.x ? panels : 0;
  const int64_t recurrent_panels = packs && !fused && run.cell->recurrent ? panels : 0,
                blocks_size = blocks * kLanes<T> * gates * recurrent_depth;
  Aligned<T> room(blocks_size +
                  width * (kernel_panels * kernel_depth + recurrent_panels * recurrent_depth));
  T *const to_kernel = room.get() + blocks_size, *const to_recurrent =
                                                     to_kernel +
                                                     width * kernel_panels * kernel_depth;
  const auto panels_at = [&, units = units](const T* packed, const T* whole, int64_t depth) {
    return packed ? Panels<T>{packed, depth * width, width, panels_of<T>(units) * depth * width}
                  : Panels<T>{whole, width, run.sizes.gates * units, units};
  };
  run.kernel = panels_at(kernel_panels ? to_kernel : nullptr, run.w, kernel_depth);
  if (fused) {
    run.blocks = blocks ? Kernel<T>{room.get(), recurrent_depth * gates * kLanes<T>,
                                    gates * kLanes<T>, kLanes<T>}
                        : Kernel<T>{recurrent, kLanes<T>, gates * units, units};
  } else {
    run.recurrent =
        panels_at(recurrent_panels ? to_recurrent : nullptr, recurrent, recurrent_depth);
  }
  const int64_t block_pieces =
      blocks && run.products == kQuads ? quad_pieces<T>(units, gates) : blocks;
  SharedWork pack(block_pieces + kernel_panels + recurrent_panels);
  parallel_for(
      pool, threads, threads, batch,
      [&, units = units, features = features, gates = gates](int64_t, int64_t first, int64_t last) {
        pack([&](int64_t n) {
          if (n < block_pieces && run.products == kQuads)
            return pack_quad_piece(recurrent, units, units, gates, n, room.get());
          if (n < block_pieces)
            return pack_forward(recurrent, units, units, room.get() + n * run.blocks.block_stride,
                                n, n + 1, run.products);
          n -= block_pieces;
          if (n < kernel_panels)
            return pack_panels(run.w, features, units, gates, to_kernel, n, n + 1, run.products);
          n -= kernel_panels;
          pack_panels(recurrent, run.h_size(), units, gates, to_recurrent, n, n + 1, run.products);
        });
        over_groups(last - first, kTileRows, [&](int64_t begin, int64_t count) {
          run_forward_tile(run, first + begin, first + begin + count);
        });
      });
}

}  // namespace

template <typename T>
void lstm_jax::forward(const Call& call, int64_t set, int64_t threads) {
  const Sets sets(call.args, call.rets);
  const Arguments in{call, sets, set};
  const Results out{call, sets, set};
  const CellShape& cell = kShapes[call.cell];
  const auto [step, step_units] = OfCells<T, Forwards>::rows[call.cell];
  Forward<T> run{sizes_of(call, sets, cell.gates), &cell, step};
  const auto [steps, batch, features, units, gates] = run.sizes;
  run.order = order_of(run.sizes, call.batch_first);
  run.ids = in.take<int32_t>("ids");
  run.x = in.take<T>("x");
  run.w = in.take<T>("kernel");
  const T* recurrent = in.take<T>("recurrent kernel");
  run.bias = in.take<T>("bias");
  run.extras = in.take<T>("extras");
  run.h = in.take<T>("h");
  run.c = in.take<T>("c");
  run.input_mask = in.mask<T>("input mask", batch, features);
  run.mask = in.mask<T>("recurrent mask", batch, run.h_size());
  run.valid = in.take<uint8_t>("valid");
  run.tokens = in.take<int32_t>("tokens");
  run.resets = in.resets<T>(batch);
  run.final_h = out.take<T>("final h");
  run.final_c = out.take<T>("final c");
  run.all_h = out.take<T>("h of all steps");
  run.all_c = out.take<T>("c of all steps");
  run.kept = out.take<T>("kept");
  run.outputs = out.take<T>("outputs");
  if (is_empty(run.sizes)) return forward_empty(run);
  run.products = static_cast<Products>(call.products);
  run.aligned = units % kLanes<T> == 0 && aligned(run.all_h) && aligned(run.all_c) &&
                aligned(run.kept) && aligned(run.outputs);
  if (shares_units(cell, run.sizes, run.tokens, run.products))
    return forward_few(call.pool, run, recurrent, step_units,
                       unit_threads(call.pool, threads, run.sizes));
  forward_tiles(call.pool, run, recurrent, threads_for(call.pool, threads, batch));
}

template void lstm_jax::forward<float>(const Call&, int64_t, int64_t);
template void lstm_jax::forward<double>(const Call&, int64_t, int64_t);
