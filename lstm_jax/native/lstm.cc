// The LSTM over time for CPUs: one forward and one backward call of XLA's foreign function interface, with the values of hoisted.py.
//
// Rows of a batch are independent, so threads share out the rows and never wait for each other; only the kernels' gradients are sums over all
// rows. A thread processes time in chunks of steps that are short enough for the data passed between the products of a chunk to stay in its
// cache: the forward pass computes x W for the chunk and then its steps, the backward pass its steps and then the gradients of x, W and U. In
// the product h U of a step, the four gates of a vector of units stay in registers, and the gates' functions follow at once. Where tokens say
// that a row reads an x again, the forward pass reuses its product, and the backward pass sums d_z before the products.
//
// The residuals are the gates, h and c; writing more costs more than computing it again. They do not fit into the caches, so they are written
// past them, and prefetched before they are read.

#include "lstm_backward.h"
#include "lstm_contract.h"
#include "lstm_forward.h"
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
  Resets<T> resets(bool present, int64_t batch) {
    if (!present) return {};
    const uint8_t* const at = take<uint8_t>();
    const T* const h = take<T>();
    return {at, h, take<T>(), batch};
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
};

// Numbers in a kernel from which moving it is worth waking threads.
constexpr int64_t kLargeKernel = 1 << 18;

// x (T, B, E) or ids (T, B) is operand 0, the kernel (E, 4H) operand 1.
Sizes sizes_of(const ffi::RemainingArgs& args, const Sets& sets) {
  const auto x = args.get<ffi::AnyBuffer>(0)->dimensions(), kernel = args.get<ffi::AnyBuffer>(1)->dimensions();
  const size_t n = sets.rank();
  return {x[n], x[n + 1], kernel[n], kernel[n + 1] / kGates};
}

// Whether a call has no steps, rows or units: its final state is the initial one.
bool is_empty(const Sizes& sizes) { return sizes.steps == 0 || sizes.batch == 0 || sizes.units == 0; }

template <typename T>
void forward_empty(const Forward<T>& run) {
  const int64_t size = run.sizes.batch * run.sizes.units;
  std::copy_n(run.h, size, run.final_h);
  std::copy_n(run.c, size, run.final_c);
  if (run.all_h) std::copy_n(run.h, size, run.all_h);
  if (run.all_c) std::copy_n(run.c, size, run.all_c);
}

// Pack the kernels where that pays, and run all tiles.
template <typename T>
void forward_tiles(ffi::ThreadPool pool, Forward<T>& run, const T* recurrent, int64_t threads) {
  const auto [steps, batch, features, units] = run.sizes;
  // packing costs about as much as a step of two rows; for a single row, each block is packed when it is used
  const int64_t width = width_of<T>(units), panels = panels_of<T>(units);
  const bool packed = units % width != 0 || (steps > 1 && steps * batch > 4 * kRows), ids = run.ids;
  const int64_t recurrent_size = packed ? blocks_of<T>(units) * kLanes<T> * kGates * units : 0;
  Aligned<T> room(recurrent_size + (packed && !ids ? kGates * panels * width * features : 0));
  run.recurrent = Kernel<T>{recurrent, kLanes<T>, kGates * units, units};
  run.kernel = run.w;
  run.panel_stride = width, run.k_stride = kGates * units, run.gate_stride = units;
  if (packed) run.recurrent = Kernel<T>{room.get(), units * kGates * kLanes<T>, kGates * kLanes<T>, kLanes<T>};
  const int64_t blocks = packed ? blocks_of<T>(units) : 0, all_panels = packed && !ids ? kGates * panels : 0;
  T* const to = room.get() + recurrent_size;
  if (all_panels) {
    run.kernel = to;
    run.panel_stride = features * width, run.k_stride = width, run.gate_stride = panels * run.panel_stride;
  }
  SharedWork pack(blocks + all_panels);
  parallel_for(pool, threads, threads, batch, [&](int64_t, int64_t first, int64_t last) {
    pack([&](int64_t n) {
      if (n < blocks) return pack_forward(recurrent, units, units, room.get() + n * run.recurrent.block_stride, n, n + 1);
      pack_panels(run.w, features, units, to, n - blocks, n - blocks + 1);
    });
    over_groups(last - first, kTileRows, [&](int64_t begin, int64_t count) { run_forward_tile(run, first + begin, first + begin + count); });
  });
}

// Operands in order: x or ids, kernel, recurrent kernel, bias, h, c, input mask (unless `input_masks` is 0), recurrent mask (unless
// `recurrent_masks` is 0), valid if `masked`, tokens if `tokens`, and if `resets` the flags (T, B), h and c of the resets.
// Results: final h, final c, h of all steps (if `sequences` or `keep`), and if `keep` c of all steps and the gates (T, B, 4H).
template <typename T>
void forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, const Sets& sets, int64_t set, bool ids,
             int64_t input_masks, int64_t recurrent_masks, bool masked, bool tokens, bool resets, bool sequences, bool keep, int64_t threads) {
  Arguments in{args, sets, set};
  Results out{rets, sets, set};
  Forward<T> run{sizes_of(args, sets)};
  const auto [steps, batch, features, units] = run.sizes;
  if (ids) run.ids = in.take<int32_t>();
  if (!ids) run.x = in.take<T>();
  run.w = in.take<T>();
  const T* recurrent = in.take<T>();
  run.bias = in.take<T>();
  run.h = in.take<T>();
  run.c = in.take<T>();
  run.input_mask = in.mask<T>(input_masks, batch, features);
  run.mask = in.mask<T>(recurrent_masks, batch, units);
  if (masked) run.valid = in.take<uint8_t>();
  if (tokens) run.tokens = in.take<int32_t>();
  run.resets = in.resets<T>(resets, batch);
  run.final_h = out.take<T>();
  run.final_c = out.take<T>();
  if (sequences || keep) run.all_h = out.take<T>();
  if (keep) {
    run.all_c = out.take<T>();
    run.gates = out.take<T>();
  }
  if (is_empty(run.sizes)) return forward_empty(run);
  run.aligned = units % kLanes<T> == 0 && aligned(run.all_h) && aligned(run.all_c) && aligned(run.gates);
  forward_tiles(pool, run, recurrent, threads_for(pool, threads, batch));
}

// The kernels' gradients (E, 4H), (H, 4H) and (4H).
template <typename T>
struct Gradients {
  T *kernel, *recurrent, *bias;
};

template <typename T>
void backward_empty(const Backward<T>& run, const Gradients<T>& gradients) {
  const auto [steps, batch, features, units] = run.sizes;
  std::copy_n(run.d_final_h, batch * units, run.d_first_h);
  std::copy_n(run.d_final_c, batch * units, run.d_first_c);
  const int64_t columns = kGates * units;
  std::fill_n(gradients.kernel, features * columns, T(0));
  std::fill_n(gradients.recurrent, units * columns, T(0));
  std::fill_n(gradients.bias, columns, T(0));
  if (run.d_x) std::fill_n(run.d_x, steps * batch * features, T(0));
  if (run.d_reset_h) std::fill_n(run.d_reset_h, batch * units, T(0));
  if (run.d_reset_c) std::fill_n(run.d_reset_c, batch * units, T(0));
}

template <typename T>
using AllSums = std::vector<std::unique_ptr<Sums<T>>>;

// Add up one member of all threads' sums: (4, panels, size, width) -> (size, 4H).
template <typename T>
void gather(ffi::ThreadPool pool, int64_t threads, const AllSums<T>& sums, T* Sums<T>::* member, int64_t units, int64_t size, T* to) {
  const int64_t width = sums[0]->width, panels = sums[0]->panels, parts = sums.size();
  threads = size * units < kLargeKernel / kGates ? 1 : threads;
  parallel_for(pool, threads, threads, size, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t panel = 0; panel < kGates * panels; ++panel) {
        const int64_t column = panel % panels * width, count = std::min(width, units - column);
        T* const sum = to + row * kGates * units + panel / panels * units + column;
        for (int64_t part = 0; part < parts; ++part) {
          const T* from = (*sums[part]).*member + (panel * size + row) * width;
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
  const auto [steps, batch, features, units] = run.sizes;
  const bool ids = run.ids, d_x = run.d_x;
  const auto size_of = [units = units](int64_t size) { return panels_of<T>(size) * width_of<T>(size) * kGates * units; };
  Aligned<T> room(size_of(units) + (d_x ? size_of(features) : 0));
  run.transposed_recurrent = room.get();
  run.transposed_kernel = room.get() + size_of(units);
  const int64_t parts = threads_for(pool, threads, batch);
  const int64_t recurrent_panels = panels_of<T>(units), kernel_panels = d_x ? panels_of<T>(features) : 0;
  SharedWork transpose(recurrent_panels + kernel_panels);
  AllSums<T> sums(parts);
  parallel_for(pool, parts, parts, batch, [&](int64_t part, int64_t first, int64_t last) {
    sums[part] = std::make_unique<Sums<T>>(run.sizes, ids);
    transpose([&](int64_t n) {
      if (n < recurrent_panels) return pack_backward(recurrent, units, units, room.get(), n, n + 1);
      n -= recurrent_panels;
      pack_backward(kernel, features, units, room.get() + size_of(units), n, n + 1);
    });
    over_groups(last - first, kTileRows, [&](int64_t begin, int64_t count) {
      run_backward_tile(run, *sums[part], first + begin, first + begin + count, begin == 0);
    });
  });
  gather(pool, parts, sums, &Sums<T>::d_recurrent, units, units, gradients.recurrent);
  gather(pool, parts, sums, &Sums<T>::d_bias, units, 1, gradients.bias);
  if (!ids) gather(pool, parts, sums, &Sums<T>::d_kernel, units, features, gradients.kernel);
  for (int64_t n = 0; ids && n < features * kGates * units; ++n) {
    gradients.kernel[n] = 0;
    for (int64_t part = 0; part < parts; ++part) gradients.kernel[n] += sums[part]->d_kernel[n];
  }
}

// Operands in order: x or ids, kernel, recurrent kernel, gates, h of all steps, c of all steps, d of final h, d of final c, d of outputs (if
// `sequences`), input mask, recurrent mask, valid, tokens, resets. Results: d of h, c, kernel, recurrent kernel, bias, if `d_x` of x, and if
// `resets` of their h and c.
template <typename T>
void backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, const Sets& sets, int64_t set, bool ids,
              int64_t input_masks, int64_t recurrent_masks, bool masked, bool tokens, bool resets, bool sequences, bool d_x, int64_t threads) {
  Arguments in{args, sets, set};
  Results out{rets, sets, set};
  Backward<T> run{sizes_of(args, sets)};
  const auto [steps, batch, features, units] = run.sizes;
  if (ids) run.ids = in.take<int32_t>();
  if (!ids) run.x = in.take<T>();
  const T *kernel = in.take<T>(), *recurrent = in.take<T>();
  run.gates = in.take<T>();
  run.all_h = in.take<T>();
  run.all_c = in.take<T>();
  run.d_final_h = in.take<T>();
  run.d_final_c = in.take<T>();
  if (sequences) run.d_h = in.take<T>();
  run.input_mask = in.mask<T>(input_masks, batch, features);
  run.mask = in.mask<T>(recurrent_masks, batch, units);
  if (masked) run.valid = in.take<uint8_t>();
  if (tokens) run.tokens = in.take<int32_t>();
  run.resets = in.resets<T>(resets, batch);
  run.d_first_h = out.take<T>();
  run.d_first_c = out.take<T>();
  T *d_kernel = out.take<T>(), *d_recurrent = out.take<T>(), *d_bias = out.take<T>();
  if (d_x) run.d_x = out.take<T>();
  if (resets) {
    run.d_reset_h = out.take<T>();
    run.d_reset_c = out.take<T>();
  }
  const Gradients<T> gradients{d_kernel, d_recurrent, d_bias};
  if (is_empty(run.sizes)) return backward_empty(run, gradients);
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
      .Attr<bool>("ids")
      .Attr<int64_t>("input_masks")
      .Attr<int64_t>("recurrent_masks")
      .Attr<bool>("masked")
      .Attr<bool>("tokens")
      .Attr<bool>("resets")
      .Attr<bool>("sequences")
      .Attr<bool>(last)
      .Attr<int64_t>("threads");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_forward, (forward_handler<bool, int64_t, int64_t, bool, bool, bool, bool, bool>), binding("keep"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_backward, (backward_handler<bool, int64_t, int64_t, bool, bool, bool, bool, bool>), binding("d_x"));
