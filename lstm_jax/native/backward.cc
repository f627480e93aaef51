// The backward pass of a call; recurrence.cc says how both passes work.

#include "backward.h"

#include "call.h"
#include "few_backward.h"

namespace {

// Numbers in a kernel from which moving it is worth waking threads.
constexpr int64_t kLargeKernel = 1 << 18;

// A cell's functions for a step back: `inner` for late gates, `units` for few rows, null for a cell
// that has none.
template <typename T>
struct BackwardCode {
  decltype(Backward<T>::through) through, inner;
  ThroughUnits<T> units;
};

template <typename T, typename Cell>
constexpr BackwardCode<T> backward_code() {
  static_assert(Cell::kRecurrent || (Cell::kDirect && Cell::kLateGates == 0),
                "without U, d of h has to pass outside of the product with U");
  if constexpr (std::is_same_v<Cell, LayerNormCell>)
    return {&through_layernorm<T>, nullptr, nullptr};
  else if constexpr (Cell::kLateGates > 0)
    return {&through_cell<T, Cell>, &through_inner<T, Cell>, nullptr};
  else if constexpr (kSharesUnits<Cell>)
    return {&through_cell<T, Cell>, nullptr, &through_units<T, Cell>};
  else
    return {&through_cell<T, Cell>, nullptr, nullptr};
}

template <typename T, typename... Cells>
struct Backwards {
  static constexpr BackwardCode<T> rows[] = {backward_code<T, Cells>()...};
};

template <typename T>
void backward_empty(const Backward<T>& run, const Gradients<T>& gradients) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  std::copy_n(run.d_final_h, batch * run.h_size(), run.d_first_h);
  if (run.d_first_c) std::copy_n(run.d_final_c, batch * run.c_size(), run.d_first_c);
  const int64_t columns = gates * units;
  std::fill_n(gradients.kernel, features * columns, T(0));
  if (gradients.recurrent) std::fill_n(gradients.recurrent, run.h_size() * columns, T(0));
  std::fill_n(gradients.bias, columns, T(0));
  if (gradients.extras) std::fill_n(gradients.extras, run.cell->extras * units, T(0));
  if (run.d_x) std::fill_n(run.d_x, steps * batch * features, T(0));
  if (run.d_reset_h) std::fill_n(run.d_reset_h, batch * run.h_size(), T(0));
  if (run.d_reset_c) std::fill_n(run.d_reset_c, batch * run.c_size(), T(0));
}

template <typename T>
using AllSums = std::vector<std::unique_ptr<Sums<T>>>;

// Add up one member of all threads' sums: (G, panels, size, width) -> (size, GH). slots: the slot
// of each gate.
template <typename T>
void gather(ffi::ThreadPool pool, int64_t threads, const AllSums<T>& sums, T* Sums<T>::* member,
            const int* slots, int64_t gates, int64_t units, int64_t size, T* to) {
  const int64_t width = sums[0]->width, panels = sums[0]->panels, parts = sums.size();
  threads = size * units < kLargeKernel / kMostGates ? 1 : threads;
  parallel_for(pool, threads, threads, size, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t panel = 0; panel < gates * panels; ++panel) {
        const int64_t column = panel % panels * width, count = std::min(width, units - column),
                      gate = panel / panels;
        T* const sum = to + row * gates * units + gate * units + column;
        for (int64_t part = 0; part < parts; ++part) {
          const T* from = (*sums[part]).*member +
                          ((slots[gate] * panels + panel % panels) * size + row) * width;
          for (int64_t n = 0; n < count; ++n) sum[n] = part == 0 ? from[n] : sum[n] + from[n];
        }
      }
    }
  });
}

// Transpose the kernels, run all tiles and add up the gradients of all threads.
template <typename T>
void backward_tiles(ffi::ThreadPool pool, Backward<T>& run, const T* kernel, const T* recurrent,
                    const Gradients<T>& gradients, int64_t threads) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  const bool ids = run.ids, d_x = run.d_x;
  const int64_t columns = gates * units;
  const int64_t depth = gates * depth_of(units, run.products);  // of both products
  const auto size_of = [depth](int64_t size) {
    return panels_of<T>(size) * width_of<T>(size) * depth;
  };
  const int64_t inner = run.cell->recurrent ? run.h_size() : 0;  // columns of the transposed U
  Aligned<T> room(size_of(inner) + (d_x ? size_of(features) : 0));
  run.transposed_recurrent = room.get();
  run.transposed_kernel = room.get() + size_of(inner);
  const int64_t parts = threads_for(pool, threads, batch);
  const int64_t recurrent_panels = panels_of<T>(inner),
                kernel_panels = d_x ? panels_of<T>(features) : 0;
  SharedWork transpose(recurrent_panels + kernel_panels);
  AllSums<T> sums(parts);
  parallel_for(pool, parts, parts, batch,
               [&, units = units, features = features, gates = gates](int64_t part, int64_t first,
                                                                      int64_t last) {
                 sums[part] = std::make_unique<Sums<T>>(run.sizes, *run.cell, ids);
                 const auto pack = [&](const T* from, int64_t size, T* to, int64_t n) {
                   if (run.products == kPairs)
                     pack_backward_pairs(from, size, units, gates, to, n, n + 1);
                   else
                     pack_backward(from, size, columns, to, n, n + 1);
                 };
                 transpose([&](int64_t n) {
                   if (n < recurrent_panels) return pack(recurrent, inner, room.get(), n);
                   pack(kernel, features, room.get() + size_of(inner), n - recurrent_panels);
                 });
                 over_groups(last - first, kTileRows, [&](int64_t begin, int64_t count) {
                   run_backward_tile(run, *sums[part], first + begin, first + begin + count,
                                     begin == 0);
                 });
               });
  const auto gather_into = [&, units = units](T* Sums<T>::* member, const int* slots, int64_t count,
                                              int64_t size, T* to) {
    gather(pool, parts, sums, member, slots, count, units, size, to);
  };
  if (gradients.recurrent)
    gather_into(&Sums<T>::d_recurrent, kInputSlots, gates, inner, gradients.recurrent);
  gather_into(&Sums<T>::d_slots, run.cell->bias_slots, gates, 1, gradients.bias);
  if (gradients.extras)
    gather_into(&Sums<T>::d_slots, run.cell->extra_slots, run.cell->extras, 1, gradients.extras);
  if (!ids) gather_into(&Sums<T>::d_kernel, kInputSlots, gates, features, gradients.kernel);
  for (int64_t n = 0; ids && n < features * columns; ++n) {
    gradients.kernel[n] = 0;
    for (int64_t part = 0; part < parts; ++part) gradients.kernel[n] += sums[part]->d_kernel[n];
  }
}

}  // namespace

template <typename T>
void lstm_jax::backward(const Call& call, int64_t set, int64_t threads) {
  const Sets sets(call.args, call.rets);
  const Arguments in{call, sets, set};
  const Results out{call, sets, set};
  const CellShape& cell = kShapes[call.cell];
  const auto [through, through_inner, through_units] = OfCells<T, Backwards>::rows[call.cell];
  Backward<T> run{sizes_of(call, sets, cell.gates), &cell, through, through_inner};
  const auto [steps, batch, features, units, gates] = run.sizes;
  run.order = order_of(run.sizes, call.batch_first);
  run.ids = in.take<int32_t>("ids");
  run.x = in.take<T>("x");
  const T *kernel = in.take<T>("kernel"), *recurrent = in.take<T>("recurrent kernel");
  run.extras = in.take<T>("extras");
  run.kept = in.take<T>("kept");
  run.all_h = in.take<T>("h of all steps");
  run.all_c = in.take<T>("c of all steps");
  run.d_final_h = in.take<T>("d of final h");
  run.d_final_c = in.take<T>("d of final c");
  run.d_h = in.take<T>("d of outputs");
  run.input_mask = in.mask<T>("input mask", batch, features);
  run.mask = in.mask<T>("recurrent mask", batch, run.h_size());
  run.valid = in.take<uint8_t>("valid");
  run.tokens = in.take<int32_t>("tokens");
  run.resets = in.resets<T>(batch);
  run.d_first_h = out.take<T>("d of h");
  run.d_first_c = out.take<T>("d of c");
  run.d_x = out.take<T>("d of x");
  run.d_reset_h = out.take<T>("d of h of resets");
  run.d_reset_c = out.take<T>("d of c of resets");
  const Gradients<T> gradients{out.take<T>("d of kernel"), out.take<T>("d of recurrent kernel"),
                               out.take<T>("d of bias"), out.take<T>("d of extras")};
  if (is_empty(run.sizes)) return backward_empty(run, gradients);
  run.products = static_cast<Products>(call.products);
  if (shares_units(cell, run.sizes, run.tokens, run.products)) {
    return backward_few(call.pool, run, kernel, recurrent, through_units, gradients,
                        unit_threads(call.pool, threads, run.sizes));
  }
  backward_tiles(call.pool, run, kernel, recurrent, gradients, threads);
}

template void lstm_jax::backward<float>(const Call&, int64_t, int64_t);
template void lstm_jax::backward<double>(const Call&, int64_t, int64_t);
