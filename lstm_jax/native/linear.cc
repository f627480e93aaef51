// Steps that are linear in the state, h' = a h + b, of all units over time: the forward and the backward call.

#include <algorithm>

#include "operands.h"
#include "threads.h"
#include "vectors.h"

namespace {

// Rows times units that a thread takes through all steps at a time: their state stays in the L1 cache.
constexpr int64_t kColumns = 1024;
// The least number of products for which another thread is used.
constexpr int64_t kMinProducts = 1 << 15;

// Call work(first, last) for parts of 0..columns-1.
template <typename Work>
void over_columns(ffi::ThreadPool pool, int64_t threads, int64_t steps, int64_t columns, const Work& work) {
  const int64_t parts = threads_for(pool, threads, steps * columns / kMinProducts);
  parallel_for(pool, parts, parts, columns, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t begin = first; begin < last; begin += kColumns) work(begin, std::min(last, begin + kColumns));
  });
}

// Operands: a and b (T, B, H), h (B, H). Result: h after each step (T, B, H).
template <typename T>
void linear_forward(ffi::ThreadPool pool, const ffi::RemainingArgs& args, const ffi::RemainingRets& rets, int64_t threads) {
  const auto shape = args.get<ffi::AnyBuffer>(0)->dimensions();
  const int64_t steps = shape[0], columns = shape[1] * shape[2];
  const T *const a = data_of<const T>(*args.get<ffi::AnyBuffer>(0)), *const b = data_of<const T>(*args.get<ffi::AnyBuffer>(1));
  const T* const start = data_of<const T>(*args.get<ffi::AnyBuffer>(2));
  T* const h = data_of<T>(**rets.get<ffi::AnyBuffer>(0));
  over_columns(pool, threads, steps, columns, [&](int64_t first, int64_t last) {
    for (int64_t t = 0; t < steps; ++t) {
      const T* const before = t == 0 ? start : h + (t - 1) * columns;
      const int64_t row = t * columns;
      over_vectors<T>(first, last, [&](int64_t at, int count) __attribute__((always_inline)) {
        store(h + row + at, load(a + row + at, count) * load(before + at, count) + load(b + row + at, count), count);
      });
    }
  });
}

// Operands: a (T, B, H), h (B, H), h after each step (T, B, H), d of h after each step. Results: d of a, of b and of h (B, H).
template <typename T>
void linear_backward(ffi::ThreadPool pool, const ffi::RemainingArgs& args, const ffi::RemainingRets& rets, int64_t threads) {
  const auto shape = args.get<ffi::AnyBuffer>(0)->dimensions();
  const int64_t steps = shape[0], columns = shape[1] * shape[2];
  const T *const a = data_of<const T>(*args.get<ffi::AnyBuffer>(0)), *const start = data_of<const T>(*args.get<ffi::AnyBuffer>(1));
  const T *const h = data_of<const T>(*args.get<ffi::AnyBuffer>(2)), *const d_h = data_of<const T>(*args.get<ffi::AnyBuffer>(3));
  T *const d_a = data_of<T>(**rets.get<ffi::AnyBuffer>(0)), *const d_b = data_of<T>(**rets.get<ffi::AnyBuffer>(1));
  T* const d_start = data_of<T>(**rets.get<ffi::AnyBuffer>(2));
  over_columns(pool, threads, steps, columns, [&](int64_t first, int64_t last) {
    std::fill(d_start + first, d_start + last, T(0));
    for (int64_t t = steps - 1; t >= 0; --t) {
      const T* const before = t == 0 ? start : h + (t - 1) * columns;
      const int64_t row = t * columns;
      over_vectors<T>(first, last, [&](int64_t at, int count) __attribute__((always_inline)) {
        const Vec<T> d = load(d_start + at, count) + load(d_h + row + at, count);
        store(d_b + row + at, d, count);
        store(d_a + row + at, d * load(before + at, count), count);
        store(d_start + at, d * load(a + row + at, count), count);
      });
    }
  });
}

constexpr Extent T = letter_of('T'), B = letter_of('B'), H = letter_of('H');

// Check a call and run it in the dtype of operand 0.
template <typename Run32, typename Run64>
ffi::Error handle(const char* name, const ffi::RemainingArgs& args, const ffi::RemainingRets& rets, int64_t threads,
                  std::initializer_list<Operand> operands, std::initializer_list<Operand> results, const Run32& run32, const Run64& run64) {
  return guarded(name, [&] {
    Contract contract(name, args, rets);
    ffi::Error error = contract.check_attributes({threads_attribute(threads)});
    if (!error.failure()) error = contract.check_arrays(operands, results);
    if (error.failure()) return error;
    if (real_type(args, 0) == ffi::F64) run64();
    else run32();
    return ffi::Error::Success();
  });
}

ffi::Error forward_handler(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t threads) {
  const ffi::DataType real = real_type(args, 0);
  return handle("lstm_jax_linear_forward", args, rets, threads, {{"a", real, {T, B, H}}, {"b", real, {T, B, H}}, {"h", real, {B, H}}},
                {{"h of all steps", real, {T, B, H}}}, [&] { linear_forward<float>(pool, args, rets, threads); },
                [&] { linear_forward<double>(pool, args, rets, threads); });
}

ffi::Error backward_handler(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t threads) {
  const ffi::DataType real = real_type(args, 0);
  return handle("lstm_jax_linear_backward", args, rets, threads,
                {{"a", real, {T, B, H}}, {"h", real, {B, H}}, {"h of all steps", real, {T, B, H}}, {"d of outputs", real, {T, B, H}}},
                {{"d of a", real, {T, B, H}}, {"d of b", real, {T, B, H}}, {"d of h", real, {B, H}}},
                [&] { linear_backward<float>(pool, args, rets, threads); }, [&] { linear_backward<double>(pool, args, rets, threads); });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_linear_forward, forward_handler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_linear_backward, backward_handler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<int64_t>("threads"));
