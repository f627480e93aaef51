// Recurrent cells over time for CPUs: one forward and one backward call of XLA's foreign function interface. The cells are in cells.h.
//
// Rows of a batch are independent, so threads share out the rows and never wait for each other; only the kernels' gradients are sums over all
// rows. A thread processes time in chunks of steps that are short enough for the data passed between the products of a chunk to stay in its
// cache: the forward pass computes x W for the chunk and then its steps, the backward pass its steps and then the gradients of x, W and U. A
// step is the product h U and then the function of the cell; only in the LSTM's forward step, the four gates of a vector of units stay in
// registers between the two. Where tokens say that a row reads an x again, the forward pass reuses its product, and the backward pass sums d_z
// before the products. In a batch of few rows, threads share out the units instead and meet once a step; few_forward.h and few_backward.h do that.
// Products may be of bfloat16 or int8 numbers in place of the arrays' own, as narrow.h says.
//
// The residuals of the LSTM are the gates, h and c; writing more costs more than computing it again. Residuals do not fit into the caches, so they are written
// past them, and prefetched before they are read, as x and d_h are.

#include "cells.h"
#include "contract.h"
#include "threads.h"

namespace {

// The operands of a call for one of its sets, taken in order.
struct Arguments {
  const ffi::RemainingArgs& args;
  const Sets& sets;
  int64_t set;
  size_t next = 0;
  template <typename T>
  const T* take() {
    const auto buffer = *args.get<ffi::AnyBuffer>(next++);
    return data_of<const T>(buffer) + sets.offset(buffer, set);
  }
  template <typename T>
  Mask<T> mask(int64_t kinds, int64_t batch, int64_t size) {
    return kinds ? Mask<T>{kinds, take<T>(), batch, size} : Mask<T>{};
  }
  template <typename T>
  const T* take_if(bool present) {
    return present ? take<T>() : nullptr;
  }
  template <typename T>
  Resets<T> resets(bool present, bool cell_state, int64_t batch) {
    if (!present) return {};
    const uint8_t* const at = take<uint8_t>();
    const T* const h = take<T>();
    return {at, h, take_if<T>(cell_state), batch};
  }
};

// The results of a call for one of its sets, taken in order.
struct Results {
  const ffi::RemainingRets& rets;
  const Sets& sets;
  int64_t set;
  size_t next = 0;
  template <typename T>
  T* take() {
    const auto buffer = **rets.get<ffi::AnyBuffer>(next++);
    if (set == 0) prefer_large_pages(buffer.untyped_data(), buffer.size_bytes());
    return data_of<T>(buffer) + sets.offset(buffer, set);
  }
  template <typename T>
  T* take_if(bool present) {
    return present ? take<T>() : nullptr;
  }
};

// Numbers in a kernel from which moving it is worth waking threads.
constexpr int64_t kLargeKernel = 1 << 18;

// x (T, B, E), or (B, T, E) if `x_batch_first`, or ids (T, B) is operand 0, the kernel (E, GH) operand 1.
Sizes sizes_of(const ffi::RemainingArgs& args, const Sets& sets, int64_t gates, bool x_batch_first) {
  const auto x = args.get<ffi::AnyBuffer>(0)->dimensions(), kernel = args.get<ffi::AnyBuffer>(1)->dimensions();
  const size_t n = sets.rank();
  return {x[n + x_batch_first], x[n + !x_batch_first], kernel[n], kernel[n + 1] / gates, gates};
}

// Whether a call has no steps, rows or units: its final state is the initial one.
bool is_empty(const Sizes& sizes) { return sizes.steps == 0 || sizes.batch == 0 || sizes.units == 0; }

// Whether a call takes few_forward.h and few_backward.h.
template <typename T>
bool shares_units(const CellCode<T>& code, const Sizes& sizes, bool tokens, Products products) {
  return code.step_units && sizes.batch <= kMostFewRows && !tokens && products != kPairs;
}

// Numbers in the part of U that is worth a thread that shares the units.
constexpr int64_t kMemberKernel = 1 << 15;

// Return the number of threads that share the units.
int64_t unit_threads(ffi::ThreadPool pool, int64_t threads, const Sizes& sizes) {
  const int64_t most = std::min(Team::kMost, padded(sizes.units) / kUnitStep);
  return threads_for(pool, threads, std::min(most, sizes.gates * sizes.units * sizes.units / kMemberKernel));
}

template <typename T>
void forward_empty(const Forward<T>& run) {
  const int64_t h_size = run.sizes.batch * run.h_size(), size = run.sizes.batch * run.sizes.units;
  std::copy_n(run.h, h_size, run.final_h);
  if (run.c) std::copy_n(run.c, size, run.final_c);
  if (run.all_h) std::copy_n(run.h, h_size, run.all_h);
  if (run.all_c) std::copy_n(run.c, size, run.all_c);
}

// Pack the kernels where that pays, and run all tiles.
template <typename T>
void forward_tiles(ffi::ThreadPool pool, Forward<T>& run, const T* recurrent, int64_t threads) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  // packing costs about as much as a step of two rows; for a single row, each block is packed when it is used
  const int64_t width = width_of<T>(units), panels = gates * panels_of<T>(units);
  const bool packs = run.products != kFull || units % width != 0 || (steps > 1 && steps * batch > 4 * kRows), fused = run.step == &step_lstm<T>;
  const int64_t kernel_depth = packed_depth(features, run.products), recurrent_depth = packed_depth(run.h_size(), run.products);
  const int64_t blocks = packs && fused ? blocks_of<T>(units) : 0, kernel_panels = packs && run.x ? panels : 0;
  const int64_t recurrent_panels = packs && !fused && run.cell->recurrent ? panels : 0, blocks_size = blocks * kLanes<T> * gates * recurrent_depth;
  Aligned<T> room(blocks_size + width * (kernel_panels * kernel_depth + recurrent_panels * recurrent_depth));
  T *const to_kernel = room.get() + blocks_size, *const to_recurrent = to_kernel + width * kernel_panels * kernel_depth;
  const auto panels_at = [&, units = units](const T* packed, const T* whole, int64_t depth) {
    return packed ? Panels<T>{packed, depth * width, width, panels_of<T>(units) * depth * width} : Panels<T>{whole, width, run.sizes.gates * units, units};
  };
  run.kernel = panels_at(kernel_panels ? to_kernel : nullptr, run.w, kernel_depth);
  if (fused) {
    run.blocks = blocks ? Kernel<T>{room.get(), recurrent_depth * gates * kLanes<T>, gates * kLanes<T>, kLanes<T>} : Kernel<T>{recurrent, kLanes<T>, gates * units, units};
  } else {
    run.recurrent = panels_at(recurrent_panels ? to_recurrent : nullptr, recurrent, recurrent_depth);
  }
  const int64_t block_pieces = blocks && run.products == kQuads ? quad_pieces<T>(units, gates) : blocks;
  SharedWork pack(block_pieces + kernel_panels + recurrent_panels);
  parallel_for(pool, threads, threads, batch, [&, units = units, features = features, gates = gates](int64_t, int64_t first, int64_t last) {
    pack([&](int64_t n) {
      if (n < block_pieces && run.products == kQuads) return pack_quad_piece(recurrent, units, units, gates, n, room.get());
      if (n < block_pieces) return pack_forward(recurrent, units, units, room.get() + n * run.blocks.block_stride, n, n + 1, run.products);
      n -= block_pieces;
      if (n < kernel_panels) return pack_panels(run.w, features, units, gates, to_kernel, n, n + 1, run.products);
      n -= kernel_panels;
      pack_panels(recurrent, run.h_size(), units, gates, to_recurrent, n, n + 1, run.products);
    });
    over_groups(last - first, kTileRows, [&](int64_t begin, int64_t count) { run_forward_tile(run, first + begin, first + begin + count); });
  });
}

// Operands in order: x or ids, kernel, recurrent kernel (if the cell has U, here and below), bias, further parameters (if the cell has any), h, c (if the cell has c, here and
// below), input mask (unless `input_masks` is 0), recurrent mask (unless `recurrent_masks` is 0), valid if `masked`, tokens if `tokens`, and if
// `resets` the flags (T, B), h and c of the resets.
// Results: final h, final c, h of all steps (if `keep`, or if `sequences` and not `batch_first`), if `keep` c of all steps and what is kept (T, B, kept H), and
// if `sequences` and `batch_first` the outputs (B, T, H). If `batch_first`, x is (B, T, E) in place of (T, B, E), in the other call also d of x, and d of
// outputs (B, T, H).
template <typename T>
void forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, const Sets& sets, int64_t set, int64_t cell, bool ids,
             int64_t input_masks, int64_t recurrent_masks, bool masked, bool tokens, bool resets, bool batch_first, int64_t products, bool sequences, bool keep, int64_t threads) {
  Arguments in{args, sets, set};
  Results out{rets, sets, set};
  const CellCode<T>& code = kCells<T>[cell];
  const bool has_c = code.shape.cell_state;
  Forward<T> run{sizes_of(args, sets, code.shape.gates, batch_first && !ids), &code.shape, code.step};
  const auto [steps, batch, features, units, gates] = run.sizes;
  run.order = order_of(run.sizes, batch_first);
  if (ids) run.ids = in.take<int32_t>();
  if (!ids) run.x = in.take<T>();
  run.w = in.take<T>();
  const T* recurrent = in.take_if<T>(code.shape.recurrent);
  run.bias = in.take<T>();
  run.extras = in.take_if<T>(code.shape.extras);
  run.h = in.take<T>();
  run.c = in.take_if<T>(has_c);
  run.input_mask = in.mask<T>(input_masks, batch, features);
  run.mask = in.mask<T>(recurrent_masks, batch, run.h_size());
  run.valid = in.take_if<uint8_t>(masked);
  run.tokens = in.take_if<int32_t>(tokens);
  run.resets = in.resets<T>(resets, has_c, batch);
  run.final_h = out.take<T>();
  run.final_c = out.take_if<T>(has_c);
  run.all_h = out.take_if<T>(keep || (sequences && !batch_first));
  run.all_c = out.take_if<T>(keep && has_c);
  run.kept = out.take_if<T>(keep && code.shape.kept);
  run.outputs = out.take_if<T>(sequences && batch_first);
  if (is_empty(run.sizes)) return forward_empty(run);
  run.products = static_cast<Products>(products);
  run.aligned = units % kLanes<T> == 0 && aligned(run.all_h) && aligned(run.all_c) && aligned(run.kept) && aligned(run.outputs);
  if (shares_units(code, run.sizes, tokens, run.products)) return forward_few(pool, run, recurrent, code.step_units, unit_threads(pool, threads, run.sizes));
  forward_tiles(pool, run, recurrent, threads_for(pool, threads, batch));
}

template <typename T>
void backward_empty(const Backward<T>& run, const Gradients<T>& gradients) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  std::copy_n(run.d_final_h, batch * run.h_size(), run.d_first_h);
  if (run.d_first_c) std::copy_n(run.d_final_c, batch * units, run.d_first_c);
  const int64_t columns = gates * units;
  std::fill_n(gradients.kernel, features * columns, T(0));
  if (gradients.recurrent) std::fill_n(gradients.recurrent, run.h_size() * columns, T(0));
  std::fill_n(gradients.bias, columns, T(0));
  if (gradients.extras) std::fill_n(gradients.extras, run.cell->extras * units, T(0));
  if (run.d_x) std::fill_n(run.d_x, steps * batch * features, T(0));
  if (run.d_reset_h) std::fill_n(run.d_reset_h, batch * run.h_size(), T(0));
  if (run.d_reset_c) std::fill_n(run.d_reset_c, batch * units, T(0));
}

template <typename T>
using AllSums = std::vector<std::unique_ptr<Sums<T>>>;

// Add up one member of all threads' sums: (G, panels, size, width) -> (size, GH). slots: the slot of each gate.
template <typename T>
void gather(ffi::ThreadPool pool, int64_t threads, const AllSums<T>& sums, T* Sums<T>::* member, const int* slots, int64_t gates, int64_t units,
            int64_t size, T* to) {
  const int64_t width = sums[0]->width, panels = sums[0]->panels, parts = sums.size();
  threads = size * units < kLargeKernel / kMostGates ? 1 : threads;
  parallel_for(pool, threads, threads, size, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t panel = 0; panel < gates * panels; ++panel) {
        const int64_t column = panel % panels * width, count = std::min(width, units - column), gate = panel / panels;
        T* const sum = to + row * gates * units + gate * units + column;
        for (int64_t part = 0; part < parts; ++part) {
          const T* from = (*sums[part]).*member + ((slots[gate] * panels + panel % panels) * size + row) * width;
          for (int64_t n = 0; n < count; ++n) sum[n] = part == 0 ? from[n] : sum[n] + from[n];
        }
      }
    }
  });
}

// Transpose the kernels, run all tiles and add up the gradients of all threads.
template <typename T>
void backward_tiles(ffi::ThreadPool pool, Backward<T>& run, const T* kernel, const T* recurrent, const Gradients<T>& gradients,
                    int64_t threads) {
  const auto [steps, batch, features, units, gates] = run.sizes;
  const bool ids = run.ids, d_x = run.d_x;
  const int64_t columns = gates * units;
  const int64_t depth = gates * depth_of(units, run.products);  // of both products
  const auto size_of = [depth](int64_t size) { return panels_of<T>(size) * width_of<T>(size) * depth; };
  const int64_t inner = run.cell->recurrent ? run.h_size() : 0;  // columns of the transposed U
  Aligned<T> room(size_of(inner) + (d_x ? size_of(features) : 0));
  run.transposed_recurrent = room.get();
  run.transposed_kernel = room.get() + size_of(inner);
  const int64_t parts = threads_for(pool, threads, batch);
  const int64_t recurrent_panels = panels_of<T>(inner), kernel_panels = d_x ? panels_of<T>(features) : 0;
  SharedWork transpose(recurrent_panels + kernel_panels);
  AllSums<T> sums(parts);
  parallel_for(pool, parts, parts, batch, [&, units = units, features = features, gates = gates](int64_t part, int64_t first, int64_t last) {
    sums[part] = std::make_unique<Sums<T>>(run.sizes, *run.cell, ids);
    const auto pack = [&](const T* from, int64_t size, T* to, int64_t n) {
      if (run.products == kPairs) pack_backward_pairs(from, size, units, gates, to, n, n + 1);
      else pack_backward(from, size, columns, to, n, n + 1);
    };
    transpose([&](int64_t n) {
      if (n < recurrent_panels) return pack(recurrent, inner, room.get(), n);
      pack(kernel, features, room.get() + size_of(inner), n - recurrent_panels);
    });
    over_groups(last - first, kTileRows, [&](int64_t begin, int64_t count) {
      run_backward_tile(run, *sums[part], first + begin, first + begin + count, begin == 0);
    });
  });
  const auto gather_into = [&, units = units](T* Sums<T>::* member, const int* slots, int64_t count, int64_t size, T* to) {
    gather(pool, parts, sums, member, slots, count, units, size, to);
  };
  if (gradients.recurrent) gather_into(&Sums<T>::d_recurrent, kInputSlots, gates, inner, gradients.recurrent);
  gather_into(&Sums<T>::d_slots, run.cell->bias_slots, gates, 1, gradients.bias);
  if (gradients.extras) gather_into(&Sums<T>::d_slots, run.cell->extra_slots, run.cell->extras, 1, gradients.extras);
  if (!ids) gather_into(&Sums<T>::d_kernel, kInputSlots, gates, features, gradients.kernel);
  for (int64_t n = 0; ids && n < features * columns; ++n) {
    gradients.kernel[n] = 0;
    for (int64_t part = 0; part < parts; ++part) gradients.kernel[n] += sums[part]->d_kernel[n];
  }
}

// Operands in order: x or ids, kernel, recurrent kernel, further parameters (if the cell has any), what is kept, h of all steps, c of all steps
// (if the cell has c, here and below), d of final h, d of final c, d of outputs (if `sequences`), input mask, recurrent mask, valid, tokens,
// resets. Results: d of h, c, kernel, recurrent kernel, bias, further parameters, if `d_x` of x, and if `resets` of their h and c.
template <typename T>
void backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, const Sets& sets, int64_t set, int64_t cell, bool ids,
              int64_t input_masks, int64_t recurrent_masks, bool masked, bool tokens, bool resets, bool batch_first, int64_t products, bool sequences, bool d_x, int64_t threads) {
  Arguments in{args, sets, set};
  Results out{rets, sets, set};
  const CellCode<T>& code = kCells<T>[cell];
  const bool has_c = code.shape.cell_state;
  Backward<T> run{sizes_of(args, sets, code.shape.gates, batch_first && !ids), &code.shape, code.through, code.through_inner};
  const auto [steps, batch, features, units, gates] = run.sizes;
  run.order = order_of(run.sizes, batch_first);
  if (ids) run.ids = in.take<int32_t>();
  if (!ids) run.x = in.take<T>();
  const T *kernel = in.take<T>(), *recurrent = in.take_if<T>(code.shape.recurrent);
  run.extras = in.take_if<T>(code.shape.extras);
  run.kept = in.take_if<T>(code.shape.kept);
  run.all_h = in.take<T>();
  run.all_c = in.take_if<T>(has_c);
  run.d_final_h = in.take<T>();
  run.d_final_c = in.take_if<T>(has_c);
  run.d_h = in.take_if<T>(sequences);
  run.input_mask = in.mask<T>(input_masks, batch, features);
  run.mask = in.mask<T>(recurrent_masks, batch, run.h_size());
  run.valid = in.take_if<uint8_t>(masked);
  run.tokens = in.take_if<int32_t>(tokens);
  run.resets = in.resets<T>(resets, has_c, batch);
  run.d_first_h = out.take<T>();
  run.d_first_c = out.take_if<T>(has_c);
  T *d_kernel = out.take<T>(), *d_recurrent = out.take_if<T>(code.shape.recurrent), *d_bias = out.take<T>(), *d_extras = out.take_if<T>(code.shape.extras);
  run.d_x = out.take_if<T>(d_x);
  run.d_reset_h = out.take_if<T>(resets);
  run.d_reset_c = out.take_if<T>(resets && has_c);
  const Gradients<T> gradients{d_kernel, d_recurrent, d_bias, d_extras};
  if (is_empty(run.sizes)) return backward_empty(run, gradients);
  run.products = static_cast<Products>(products);
  if (shares_units(code, run.sizes, tokens, run.products)) {
    return backward_few(pool, run, kernel, recurrent, code.through_units, gradients, unit_threads(pool, threads, run.sizes));
  }
  backward_tiles(pool, run, kernel, recurrent, gradients, threads);
}

// Whether the call computes in float64: the kernel's dtype decides.
bool is_float64(const ffi::RemainingArgs& args) { return args.get<ffi::AnyBuffer>(1)->element_type() == ffi::F64; }

// Call work(set, threads) for all sets: in parallel, or one after the other if there are fewer sets than threads.
template <typename Work>
ffi::Error over_sets(ffi::ThreadPool pool, const Sets& sets, int64_t threads, const Work& work) {
  if (sets.count < threads_for(pool, threads, threads)) {
    for (int64_t set = 0; set < sets.count; ++set) work(set, threads);
    return ffi::Error::Success();
  }
  const int64_t count = threads_for(pool, threads, sets.count);
  parallel_for(pool, count, sets.count, sets.count, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t set = first; set < last; ++set) work(set, int64_t{1});
  });
  return ffi::Error::Success();
}

template <typename... Rest>
ffi::Error forward_handler(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Rest... rest, int64_t threads) {
  return guarded("lstm_jax_forward", [&] {
    ffi::Error error = check_forward(args, rets, rest..., threads);
    if (error.failure()) return error;
    const Sets sets(args, rets, 2);
    return over_sets(pool, sets, threads, [&](int64_t set, int64_t set_threads) {
      if (is_float64(args)) return forward<double>(pool, args, rets, sets, set, rest..., set_threads);
      forward<float>(pool, args, rets, sets, set, rest..., set_threads);
    });
  });
}

template <typename... Rest>
ffi::Error backward_handler(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Rest... rest, int64_t threads) {
  return guarded("lstm_jax_backward", [&] {
    ffi::Error error = check_backward(args, rets, rest..., threads);
    if (error.failure()) return error;
    const Sets sets(args, rets, 2);
    return over_sets(pool, sets, threads, [&](int64_t set, int64_t set_threads) {
      if (is_float64(args)) return backward<double>(pool, args, rets, sets, set, rest..., set_threads);
      backward<float>(pool, args, rets, sets, set, rest..., set_threads);
    });
  });
}

// The binding of both calls; `last` names the attribute in which they differ.
auto binding(const char* last) {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .RemainingArgs()
      .RemainingRets()
      .Attr<int64_t>("cell")
      .Attr<bool>("ids")
      .Attr<int64_t>("input_masks")
      .Attr<int64_t>("recurrent_masks")
      .Attr<bool>("masked")
      .Attr<bool>("tokens")
      .Attr<bool>("resets")
      .Attr<bool>("batch_first")
      .Attr<int64_t>("products")
      .Attr<bool>("sequences")
      .Attr<bool>(last)
      .Attr<int64_t>("threads");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_forward, (forward_handler<int64_t, bool, int64_t, int64_t, bool, bool, bool, bool, int64_t, bool, bool>), binding("keep"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_backward, (backward_handler<int64_t, bool, int64_t, int64_t, bool, bool, bool, bool, int64_t, bool, bool>), binding("d_x"));

// Whether the library has products of a kind: the attribute `products` of both calls, see narrow.h.
extern "C" int lstm_jax_has_products(int64_t products) { return has_products(products); }
