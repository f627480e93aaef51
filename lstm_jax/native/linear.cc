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

// Call f(begin, end, starts) for the parts of first..last-1 that belong to one row of `units` numbers; starts: whether it is reset before step t.
// Without resets (`at` (T, B) is null) it is one part.
template <typename F>
LSTM_INLINE void over_rows(const uint8_t* at, int64_t t, int64_t batch, int64_t units, int64_t first, int64_t last, const F& f) {
  if (!at) return f(first, last, false);
  for (int64_t begin = first; begin < last;) {
    const int64_t row = begin / units, end = std::min(last, (row + 1) * units);
    f(begin, end, at[t * batch + row] != 0);
    begin = end;
  }
}

// The operands and results of a call, in order.
template <typename T>
const T* operand(const ffi::RemainingArgs& args, size_t n) {
  return data_of<const T>(*args.get<ffi::AnyBuffer>(n));
}
template <typename T>
T* result(const ffi::RemainingRets& rets, size_t n) {
  return data_of<T>(**rets.get<ffi::AnyBuffer>(n));
}

// Operands: a and b (T, B, H), h (B, H), and if `resets` the flags (T, B): at a flagged step h' = b, whatever h is, NaN too. Result: h after each
// step (T, B, H).
template <typename T>
void linear_forward(ffi::ThreadPool pool, const ffi::RemainingArgs& args, const ffi::RemainingRets& rets, bool resets, int64_t threads) {
  const auto shape = args.get<ffi::AnyBuffer>(0)->dimensions();
  const int64_t steps = shape[0], batch = shape[1], units = shape[2], columns = batch * units;
  const T *const a = operand<T>(args, 0), *const b = operand<T>(args, 1), *const start = operand<T>(args, 2);
  const uint8_t* const at = resets ? operand<uint8_t>(args, 3) : nullptr;
  T* const h = result<T>(rets, 0);
  over_columns(pool, threads, steps, columns, [&](int64_t first, int64_t last) {
    for (int64_t t = 0; t < steps; ++t) {
      const T* const before = t == 0 ? start : h + (t - 1) * columns;
      const int64_t row = t * columns;
      over_rows(at, t, batch, units, first, last, [&](int64_t begin, int64_t end, bool starts) {
        if (starts) {
          std::copy(b + row + begin, b + row + end, h + row + begin);
          return;
        }
        over_vectors<T>(begin, end, [&](int64_t n, int count) __attribute__((always_inline)) {
          store(h + row + n, load(a + row + n, count) * load(before + n, count) + load(b + row + n, count), count);
        });
      });
    }
  });
}

// Operands: a (T, B, H), h (B, H), h after each step (T, B, H), d of h after each step, and the flags. Results: d of a, of b and of h (B, H).
template <typename T>
void linear_backward(ffi::ThreadPool pool, const ffi::RemainingArgs& args, const ffi::RemainingRets& rets, bool resets, int64_t threads) {
  const auto shape = args.get<ffi::AnyBuffer>(0)->dimensions();
  const int64_t steps = shape[0], batch = shape[1], units = shape[2], columns = batch * units;
  const T *const a = operand<T>(args, 0), *const start = operand<T>(args, 1), *const h = operand<T>(args, 2), *const d_h = operand<T>(args, 3);
  const uint8_t* const at = resets ? operand<uint8_t>(args, 4) : nullptr;
  T *const d_a = result<T>(rets, 0), *const d_b = result<T>(rets, 1), *const d_start = result<T>(rets, 2);
  over_columns(pool, threads, steps, columns, [&](int64_t first, int64_t last) {
    std::fill(d_start + first, d_start + last, T(0));
    for (int64_t t = steps - 1; t >= 0; --t) {
      const T* const before = t == 0 ? start : h + (t - 1) * columns;
      const int64_t row = t * columns;
      over_rows(at, t, batch, units, first, last, [&](int64_t begin, int64_t end, bool starts) {
        over_vectors<T>(begin, end, [&](int64_t n, int count) __attribute__((always_inline)) {
          const Vec<T> d = load(d_start + n, count) + load(d_h + row + n, count);
          store(d_b + row + n, d, count);
          store(d_a + row + n, starts ? Vec<T>{} : d * load(before + n, count), count);
          store(d_start + n, starts ? Vec<T>{} : d * load(a + row + n, count), count);
        });
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

ffi::Error forward_handler(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, bool resets, int64_t threads) {
  const ffi::DataType real = real_type(args, 0);
  return handle("lstm_jax_linear_forward", args, rets, threads,
                {{"a", real, {T, B, H}}, {"b", real, {T, B, H}}, {"h", real, {B, H}}, {"resets", ffi::PRED, {T, B}, resets}},
                {{"h of all steps", real, {T, B, H}}}, [&] { linear_forward<float>(pool, args, rets, resets, threads); },
                [&] { linear_forward<double>(pool, args, rets, resets, threads); });
}

ffi::Error backward_handler(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, bool resets, int64_t threads) {
  const ffi::DataType real = real_type(args, 0);
  return handle("lstm_jax_linear_backward", args, rets, threads,
                {{"a", real, {T, B, H}}, {"h", real, {B, H}}, {"h of all steps", real, {T, B, H}}, {"d of outputs", real, {T, B, H}},
                 {"resets", ffi::PRED, {T, B}, resets}},
                {{"d of a", real, {T, B, H}}, {"d of b", real, {T, B, H}}, {"d of h", real, {B, H}}},
                [&] { linear_backward<float>(pool, args, rets, resets, threads); },
                [&] { linear_backward<double>(pool, args, rets, resets, threads); });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_linear_forward, forward_handler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<bool>("resets").Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_linear_backward, backward_handler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<bool>("resets").Attr<int64_t>("threads"));
