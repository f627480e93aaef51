// Recurrent cells over time for CPUs: one forward and one backward call of XLA's foreign function
// interface. The cells are in cells.h.
//
// Rows of a batch are independent, so threads share out the rows and never wait for each other;
// only the kernels' gradients are sums over all rows. A thread processes time in chunks of steps
// that are short enough for the data passed between the products of a chunk to stay in its cache:
// the forward pass computes x W for the chunk and then its steps, the backward pass its steps and
// then the gradients of x, W and U. A step is the product h U and then the function of the cell;
// only in the LSTM's forward step, the four gates of a vector of units stay in registers between
// the two. Where tokens say that a row reads an x again, the forward pass reuses its product, and
// the backward pass sums d_z before the products. In a batch of few rows, threads share out the
// units instead and meet once a step; few_forward.h and few_backward.h do that. Products may be of
// bfloat16 or int8 numbers in place of the arrays' own, as narrow.h says.
//
// The residuals of the LSTM are the gates, h and c; writing more costs more than computing it
// again. Residuals do not fit into the caches, so they are written past them, and prefetched before
// they are read, as x and d_h are.

#include "call.h"
#include "contract.h"

namespace {

// Whether the call computes in float64: the kernel's dtype decides.
bool is_float64(const ffi::Buffers& args) { return args[1].element_type() == ffi::F64; }

// Call work(set, options) for all sets: as many as there are threads at a time, each in one thread.
// The last few, for which some threads would have none, run one after the other in all threads, if
// each has rows for them.
template <typename Work>
ffi::Error over_sets(ffi::ThreadPool pool, const ffi::Buffers& args, const ffi::Buffers& rets,
                     const Options& options, const Work& work) {
  const Sets sets(args, rets, 2);
  const int64_t batch = sizes_of(args, sets, 1, options.batch_first && !options.ids).batch;
  const int64_t threads = threads_for(pool, options.threads, options.threads),
                left = sets.count % threads;
  const bool shares = sets.count < threads || (2 * left <= threads && batch >= 2 * kRows * threads);
  const int64_t apart = shares ? sets.count - left : sets.count;
  Options one = options;
  one.threads = 1;
  parallel_for(pool, std::min(threads, apart), apart, apart,
               [&](int64_t, int64_t first, int64_t last) {
                 for (int64_t set = first; set < last; ++set) work(set, one);
               });
  for (int64_t set = apart; set < sets.count; ++set) work(set, options);
  return ffi::Error::Success();
}

// Return the attributes of a call; `last` names the one in which the two calls differ.
Options options_of(const ffi::Call& call, const char* last) {
  const auto number = [&](const char* name) { return call.attribute<int64_t>(name); };
  const auto flag = [&](const char* name) { return call.attribute<bool>(name); };
  return {number("cell"),
          flag("ids"),
          number("input_masks"),
          number("recurrent_masks"),
          flag("masked"),
          flag("tokens"),
          flag("resets"),
          flag("batch_first"),
          number("products"),
          flag("sequences"),
          flag(last),
          number("threads")};
}

ffi::Error forward_handler(const ffi::Call& call) {
  const Options options = options_of(call, "keep");
  ffi::Error error = check_forward(call.args, call.rets, options);
  if (error.failure()) return error;
  return over_sets(
      call.pool, call.args, call.rets, options, [&](int64_t set, const Options& options) {
        if (is_float64(call.args))
          return lstm_jax::forward<double>(call.pool, call.args, call.rets, set, options);
        lstm_jax::forward<float>(call.pool, call.args, call.rets, set, options);
      });
}

ffi::Error backward_handler(const ffi::Call& call) {
  const Options options = options_of(call, "d_x");
  ffi::Error error = check_backward(call.args, call.rets, options);
  if (error.failure()) return error;
  return over_sets(
      call.pool, call.args, call.rets, options, [&](int64_t set, const Options& options) {
        if (is_float64(call.args))
          return lstm_jax::backward<double>(call.pool, call.args, call.rets, set, options);
        lstm_jax::backward<float>(call.pool, call.args, call.rets, set, options);
      });
}

}  // namespace

LSTM_HANDLER(lstm_jax_forward, forward_handler, 12)
LSTM_HANDLER(lstm_jax_backward, backward_handler, 12)

// Whether the library has products of a kind: the attribute `products` of both calls, see narrow.h.
extern "C" int lstm_jax_has_products(int64_t products) { return has_products(products); }
