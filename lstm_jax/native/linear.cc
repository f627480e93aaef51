// Steps that are linear in the state, h' = a h + b, of all units over time, in real or complex numbers: the forward and the backward call.

#include <algorithm>
#include <type_traits>

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

// Where a part of one row of h lies: its index within the row, that of its first number in an array (B, columns of h), and its length.
struct Part {
  int64_t unit, at, length;
};

// Call f(part, starts) for the parts of units first..last-1 that belong to one row of `units`; starts: whether the row is reset before step t.
// `width` is the number of columns of h. If the rows need not be told apart, it is one part.
template <typename F>
LSTM_INLINE void over_rows(bool apart, const uint8_t* at, int64_t t, int64_t batch, int64_t units, int64_t width, int64_t first, int64_t last,
                           const F& f) {
  if (!apart) return f(Part{0, first, last - first}, false);
  for (int64_t begin = first; begin < last;) {
    const int64_t row = begin / units, end = std::min(last, (row + 1) * units), unit = begin - row * units;
    f(Part{unit, row * width + unit, end - begin}, at && at[t * batch + row] != 0);
    begin = end;
  }
}

// A vector of numbers of h, a or b: real ones, or complex ones whose imaginary parts lie `units` after the real ones.
template <typename T, bool COMPLEX>
struct Number {
  Vec<T> real, imaginary;
  LSTM_INLINE static Number of(const T* from, int64_t units, int count) {
    if constexpr (COMPLEX) return {load(from, count), load(from + units, count)};
    else return {load(from, count), Vec<T>{}};
  }
  LSTM_INLINE void write(T* to, int64_t units, int count) const {
    store(to, real, count);
    if constexpr (COMPLEX) store(to + units, imaginary, count);
  }
  LSTM_INLINE Number operator+(const Number& other) const { return {real + other.real, imaginary + other.imaginary}; }
  LSTM_INLINE Number operator*(const Number& other) const {
    if constexpr (COMPLEX) return {real * other.real - imaginary * other.imaginary, real * other.imaginary + imaginary * other.real};
    else return {real * other.real, Vec<T>{}};
  }
  // The gradient with respect to the other factor of a product, from that of the product.
  LSTM_INLINE Number times_gradient(const Number& d) const {
    if constexpr (COMPLEX) return {real * d.real + imaginary * d.imaginary, real * d.imaginary - imaginary * d.real};
    else return {real * d.real, Vec<T>{}};
  }
};

// The operands and results of a call, in order.
template <typename T>
const T* operand(const ffi::RemainingArgs& args, size_t n) {
  return data_of<const T>(*args.get<ffi::AnyBuffer>(n));
}
template <typename T>
T* result(const ffi::RemainingRets& rets, size_t n) {
  return data_of<T>(**rets.get<ffi::AnyBuffer>(n));
}

// Operands: a, the same at all steps (Z) or (T, B, Z), b (T, B, Z), h (B, Z), and if `resets` the flags (T, B): at a flagged step h' = b, whatever h
// is, NaN too. Z is H, or 2 H for complex numbers. Result: h after each step (T, B, Z).
template <typename T, bool COMPLEX, bool CONSTANT>
void linear_forward(ffi::ThreadPool pool, const ffi::RemainingArgs& args, const ffi::RemainingRets& rets, bool resets, int64_t threads) {
  const auto shape = args.get<ffi::AnyBuffer>(1)->dimensions();
  const int64_t steps = shape[0], batch = shape[1], width = shape[2], units = COMPLEX ? width / 2 : width;
  const T *const a = operand<T>(args, 0), *const b = operand<T>(args, 1), *const start = operand<T>(args, 2);
  const uint8_t* const at = resets ? operand<uint8_t>(args, 3) : nullptr;
  T* const h = result<T>(rets, 0);
  over_columns(pool, threads, steps, batch * units, [&](int64_t first, int64_t last) {
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t step = t * batch * width;
      const T* const before = t == 0 ? start : h + step - batch * width;
      over_rows(at || COMPLEX || CONSTANT, at, t, batch, units, width, first, last, [&](Part part, bool starts) {
        const T* const factors = CONSTANT ? a + part.unit : a + step + part.at;
        over_vectors<T>(0, part.length, [&](int64_t n, int count) __attribute__((always_inline)) {
          using Numbers = Number<T, COMPLEX>;
          Numbers now = Numbers::of(b + step + part.at + n, units, count);
          if (!starts) now = Numbers::of(factors + n, units, count) * Numbers::of(before + part.at + n, units, count) + now;
          now.write(h + step + part.at + n, units, count);
        });
      });
    }
  });
}

// Operands: a, h (B, Z), h after each step (T, B, Z), d of h after each step, and the flags. Results: d of a, of which each row has its own (B, Z) if a
// is the same at all steps, d of b (T, B, Z) and of h (B, Z).
template <typename T, bool COMPLEX, bool CONSTANT>
void linear_backward(ffi::ThreadPool pool, const ffi::RemainingArgs& args, const ffi::RemainingRets& rets, bool resets, int64_t threads) {
  const auto shape = args.get<ffi::AnyBuffer>(2)->dimensions();
  const int64_t steps = shape[0], batch = shape[1], width = shape[2], units = COMPLEX ? width / 2 : width;
  const T *const a = operand<T>(args, 0), *const start = operand<T>(args, 1), *const h = operand<T>(args, 2), *const d_h = operand<T>(args, 3);
  const uint8_t* const at = resets ? operand<uint8_t>(args, 4) : nullptr;
  T *const d_a = result<T>(rets, 0), *const d_b = result<T>(rets, 1), *const d_start = result<T>(rets, 2);
  over_columns(pool, threads, steps, batch * units, [&](int64_t first, int64_t last) {
    over_rows(COMPLEX, nullptr, 0, batch, units, width, first, last, [&](Part part, bool) {
      over_vectors<T>(0, part.length, [&](int64_t n, int count) __attribute__((always_inline)) {
        Number<T, COMPLEX>{}.write(d_start + part.at + n, units, count);
        if constexpr (CONSTANT) Number<T, COMPLEX>{}.write(d_a + part.at + n, units, count);
      });
    });
    for (int64_t t = steps - 1; t >= 0; --t) {
      const int64_t step = t * batch * width;
      const T* const before = t == 0 ? start : h + step - batch * width;
      over_rows(at || COMPLEX || CONSTANT, at, t, batch, units, width, first, last, [&](Part part, bool starts) {
        const T* const factors = CONSTANT ? a + part.unit : a + step + part.at;
        over_vectors<T>(0, part.length, [&](int64_t n, int count) __attribute__((always_inline)) {
          using Numbers = Number<T, COMPLEX>;
          const int64_t own = part.at + n;
          const Numbers d = Numbers::of(d_start + own, units, count) + Numbers::of(d_h + step + own, units, count);
          d.write(d_b + step + own, units, count);
          Numbers d_factor{}, d_before{};
          if (!starts) {
            d_factor = Numbers::of(before + own, units, count).times_gradient(d);
            d_before = Numbers::of(factors + n, units, count).times_gradient(d);
          }
          d_before.write(d_start + own, units, count);
          if constexpr (CONSTANT) (Numbers::of(d_a + own, units, count) + d_factor).write(d_a + own, units, count);
          else d_factor.write(d_a + step + own, units, count);
        });
      });
    }
  });
}

constexpr Extent T = letter_of('T'), B = letter_of('B'), H = letter_of('H');

// Check a call and call run(T(), complex, constant) with the dtype of operand 0 and the attributes as constants.
template <typename Run>
ffi::Error handle(const char* name, const ffi::RemainingArgs& args, const ffi::RemainingRets& rets, int64_t threads, bool complex, bool constant,
                  std::initializer_list<Operand> operands, std::initializer_list<Operand> results, const Run& run) {
  return guarded(name, [&] {
    Contract contract(name, args, rets);
    ffi::Error error = contract.check_attributes({threads_attribute(threads)});
    if (!error.failure()) error = contract.check_arrays(operands, results);
    if (error.failure()) return error;
    const auto with_dtype = [&](auto number) {
      if (complex && constant) run(number, std::true_type{}, std::true_type{});
      else if (complex) run(number, std::true_type{}, std::false_type{});
      else if (constant) run(number, std::false_type{}, std::true_type{});
      else run(number, std::false_type{}, std::false_type{});
    };
    if (real_type(args, 0) == ffi::F64) with_dtype(double());
    else with_dtype(float());
    return ffi::Error::Success();
  });
}

// The shape of a, or of its gradient, of which each row of the batch has its own if a is the same at all steps.
Shape shape_of_a(bool constant, bool gradient, Extent width) {
  if (!constant) return {T, B, width};
  if (gradient) return {B, width};
  return {width};
}

ffi::Error forward_handler(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, bool complex, bool constant, bool resets,
                           int64_t threads) {
  const ffi::DataType real = real_type(args, 0);
  const Extent width = complex ? 2 * H : H;
  return handle("lstm_jax_linear_forward", args, rets, threads, complex, constant,
                {{"a", real, shape_of_a(constant, false, width)}, {"b", real, {T, B, width}}, {"h", real, {B, width}}, {"resets", ffi::PRED, {T, B}, resets}},
                {{"h of all steps", real, {T, B, width}}}, [&](auto number, auto is_complex, auto is_constant) {
                  linear_forward<decltype(number), is_complex.value, is_constant.value>(pool, args, rets, resets, threads);
                });
}

ffi::Error backward_handler(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, bool complex, bool constant, bool resets,
                            int64_t threads) {
  const ffi::DataType real = real_type(args, 0);
  const Extent width = complex ? 2 * H : H;
  return handle("lstm_jax_linear_backward", args, rets, threads, complex, constant,
                {{"a", real, shape_of_a(constant, false, width)}, {"h", real, {B, width}}, {"h of all steps", real, {T, B, width}},
                 {"d of outputs", real, {T, B, width}}, {"resets", ffi::PRED, {T, B}, resets}},
                {{"d of a", real, shape_of_a(constant, true, width)}, {"d of b", real, {T, B, width}}, {"d of h", real, {B, width}}},
                [&](auto number, auto is_complex, auto is_constant) {
                  linear_backward<decltype(number), is_complex.value, is_constant.value>(pool, args, rets, resets, threads);
                });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_linear_forward, forward_handler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<bool>("complex").Attr<bool>("constant").Attr<bool>("resets").Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_linear_backward, backward_handler,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<bool>("complex").Attr<bool>("constant").Attr<bool>("resets").Attr<int64_t>("threads"));
