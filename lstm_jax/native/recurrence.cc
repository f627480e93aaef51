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

using lstm_jax::Call;

// Call run(call, set, threads) for all sets: as many as there are threads at a time, each in one
// thread. The last few, for which some threads would have none, run one after the other in all
// threads, if each has rows for them.
ffi::Error over_sets(const Call& call, void (*run)(const Call&, int64_t, int64_t)) {
  const Sets sets(call.args, call.rets);
  const int64_t batch = sizes_of(call, sets, 1).batch;
  const int64_t threads = threads_for(call.pool, call.threads, call.threads),
                left = sets.count % threads;
  const bool shares = sets.count < threads || (2 * left <= threads && batch >= 2 * kRows * threads);
  const int64_t apart = shares ? sets.count - left : sets.count;
  parallel_for(call.pool, std::min(threads, apart), apart, apart,
               [&](int64_t, int64_t first, int64_t last) {
                 for (int64_t set = first; set < last; ++set) run(call, set, 1);
               });
  for (int64_t set = apart; set < sets.count; ++set) run(call, set, call.threads);
  return ffi::Error::Success();
}

Call read(const ffi::Call& call) {
  return {call.pool,
          ffi::Arrays(call.args, call.attribute<std::string_view>("operands")),
          ffi::Arrays(call.rets, call.attribute<std::string_view>("results")),
          call.attribute<int64_t>("cell"),
          call.attribute<bool>("batch_first"),
          call.attribute<int64_t>("products"),
          call.attribute<int64_t>("threads")};
}

ffi::Error forward_handler(const ffi::Call& given) {
  const Call call = read(given);
  ffi::Error error = check_forward(call);
  if (error.failure()) return error;
  return over_sets(
      call, real_of(call) == ffi::F64 ? lstm_jax::forward<double> : lstm_jax::forward<float>);
}

ffi::Error backward_handler(const ffi::Call& given) {
  const Call call = read(given);
  ffi::Error error = check_backward(call);
  if (error.failure()) return error;
  return over_sets(
      call, real_of(call) == ffi::F64 ? lstm_jax::backward<double> : lstm_jax::backward<float>);
}

}  // namespace

LSTM_HANDLER(lstm_jax_forward, forward_handler, 6)
LSTM_HANDLER(lstm_jax_backward, backward_handler, 6)

// Whether the library has products of a kind: the attribute `products` of both calls, see narrow.h.
extern "C" int lstm_jax_has_products(int64_t products) { return has_products(products); }

// The largest batch size for which arrays of all steps cannot be (B, T, ...).
extern "C" int64_t lstm_jax_few_rows() { return kMostFewRows; }
