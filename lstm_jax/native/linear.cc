// Steps that are linear in the state, h' = a h + b, of all units over time, in real or complex
// numbers: the forward and the backward call.

#include <algorithm>
#include <type_traits>

#include "operands.h"
#include "threads.h"
#include "vectors.h"

namespace {

// Rows times units that a thread takes through all steps at a time: their state stays in the L1
// cache.
constexpr int64_t kColumns = 1024;
// The least number of products for which another thread is used.
constexpr int64_t kMinProducts = 1 << 15;

// Call work(first, last) for parts of 0..columns-1.
template <typename Work>
void over_columns(ffi::ThreadPool pool, int64_t threads, int64_t steps, int64_t columns,
                  const Work& work) {
  const int64_t parts = threads_for(pool, threads, steps * columns / kMinProducts);
  parallel_for(pool, parts, parts, columns, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t begin = first; begin < last; begin += kColumns)
      work(begin, std::min(last, begin + kColumns));
  });
}

// The numbers of b: T, B, the columns of h, and the distance from a step and from a row to the next
// one in arrays of all steps.
struct Steps {
  int64_t steps, batch, width, step, row;
};
Steps steps_of(const ffi::Buffer& b, bool batch_first) {
  const auto shape = b.dimensions();
  const int64_t steps = shape[batch_first], batch = shape[!batch_first], width = shape[2];
  return batch_first ? Steps{steps, batch, width, width, steps * width}
                     : Steps{steps, batch, width, batch * width, width};
}

// Where a part of one row of h lies: its index within the row, that of its first number in an array
// (B, columns of h) and in step 0 of an array of all steps, and its length.
struct Part {
  int64_t unit, at, in_steps, length;
};

// Call f(part, starts) for the parts of units first..last-1 that belong to one row of `units`;
// starts: whether the row is reset before step t. If the rows need not be told apart, it is one
// part.
template <typename F>
LSTM_INLINE void over_rows(const Steps& of, bool apart, const uint8_t* at, int64_t t, int64_t units,
                           int64_t first, int64_t last, const F& f) {
  if (!apart) return f(Part{0, first, first, last - first}, false);
  for (int64_t begin = first; begin < last;) {
    const int64_t row = begin / units, end = std::min(last, (row + 1) * units),
                  unit = begin - row * units;
    f(Part{unit, row * of.width + unit, row * of.row + unit, end - begin},
      at && at[(t * of.step + row * of.row) / of.width] != 0);
    begin = end;
  }
}

// A vector of numbers of h, a or b: real ones, or complex ones whose imaginary parts lie `units`
// after the real ones.
template <typename T, bool COMPLEX>
struct Number {
  Vec<T> real, imaginary;
  LSTM_INLINE static Number of(const T* from, int64_t units, int count) {
    if constexpr (COMPLEX)
      return {load(from, count), load(from + units, count)};
    else
      return {load(from, count), Vec<T>{}};
  }
  LSTM_INLINE void write(T* to, int64_t units, int count) const {
    store(to, real, count);
    if constexpr (COMPLEX) store(to + units, imaginary, count);
  }
  LSTM_INLINE Number operator+(const Number& other) const {
    return {real + other.real, imaginary + other.imaginary};
  }
  LSTM_INLINE Number operator*(const Number& other) const {
    if constexpr (COMPLEX)
      return {real * other.real - imaginary * other.imaginary,
              real * other.imaginary + imaginary * other.real};
    else
      return {real * other.real, Vec<T>{}};
  }
  // The gradient with respect to the other factor of a product, from that of the product.
  LSTM_INLINE Number times_gradient(const Number& d) const {
    if constexpr (COMPLEX)
      return {real * d.real + imaginary * d.imaginary, real * d.imaginary - imaginary * d.real};
    else
      return {real * d.real, Vec<T>{}};
  }
};

// The operands and results of a call, in order.
template <typename T>
const T* operand(const ffi::Buffers& args, size_t n) {
  return data_of<const T>(args[n]);
}
template <typename T>
T* result(const ffi::Buffers& rets, size_t n) {
  return data_of<T>(rets[n]);
}

// Operands: a, the same at all steps (Z) or (T, B, Z), b (T, B, Z), h (B, Z), and if `resets` the
// flags (T, B): at a flagged step h' = b, whatever h is, NaN too. Z is H, or 2 H for complex
// numbers. Result: h after each step (T, B, Z). If `batch_first`, arrays of all steps are (B, T,
// ...).
template <typename T, bool COMPLEX, bool CONSTANT>
void linear_forward(ffi::ThreadPool pool, const ffi::Buffers& args, const ffi::Buffers& rets,
                    bool resets, bool batch_first, int64_t threads) {
  const Steps of = steps_of(args[1], batch_first);
  const int64_t units = COMPLEX ? of.width / 2 : of.width;
  const T *const a = operand<T>(args, 0), *const b = operand<T>(args, 1),
                 *const start = operand<T>(args, 2);
  const uint8_t* const at = resets ? operand<uint8_t>(args, 3) : nullptr;
  T* const h = result<T>(rets, 0);
  over_columns(pool, threads, of.steps, of.batch * units, [&](int64_t first, int64_t last) {
    for (int64_t t = 0; t < of.steps; ++t) {
      over_rows(of, at || COMPLEX || CONSTANT || batch_first, at, t, units, first, last,
                [&](Part part, bool starts) {
                  const int64_t now = t * of.step + part.in_steps;
                  const T* const before = t == 0 ? start + part.at : h + now - of.step;
                  const T* const factors = CONSTANT ? a + part.unit : a + now;
                  over_vectors<T>(0, part.length,
                                  [&](int64_t n, int count) __attribute__((always_inline)) {
                                    using Numbers = Number<T, COMPLEX>;
                                    Numbers next = Numbers::of(b + now + n, units, count);
                                    if (!starts)
                                      next = Numbers::of(factors + n, units, count) *
                                                 Numbers::of(before + n, units, count) +
                                             next;
                                    next.write(h + now + n, units, count);
                                  });
                });
    }
  });
}

// Operands: a, h (B, Z), h after each step (T, B, Z), d of h after each step, and the flags.
// Results: d of a, of which each row has its own (B, Z) if a is the same at all steps, d of b (T,
// B, Z) and of h (B, Z).
template <typename T, bool COMPLEX, bool CONSTANT>
void linear_backward(ffi::ThreadPool pool, const ffi::Buffers& args, const ffi::Buffers& rets,
                     bool resets, bool batch_first, int64_t threads) {
  const Steps of = steps_of(args[2], batch_first);
  const int64_t units = COMPLEX ? of.width / 2 : of.width;
  const T *const a = operand<T>(args, 0), *const start = operand<T>(args, 1),
                 *const h = operand<T>(args, 2), *const d_h = operand<T>(args, 3);
  const uint8_t* const at = resets ? operand<uint8_t>(args, 4) : nullptr;
  T *const d_a = result<T>(rets, 0), *const d_b = result<T>(rets, 1),
           *const d_start = result<T>(rets, 2);
  over_columns(pool, threads, of.steps, of.batch * units, [&](int64_t first, int64_t last) {
    over_rows(of, COMPLEX, nullptr, 0, units, first, last, [&](Part part, bool) {
      over_vectors<T>(0, part.length, [&](int64_t n, int count) __attribute__((always_inline)) {
        Number<T, COMPLEX>{}.write(d_start + part.at + n, units, count);
        if constexpr (CONSTANT) Number<T, COMPLEX>{}.write(d_a + part.at + n, units, count);
      });
    });
    for (int64_t t = of.steps - 1; t >= 0; --t) {
      over_rows(of, at || COMPLEX || CONSTANT || batch_first, at, t, units, first, last,
                [&](Part part, bool starts) {
                  const int64_t now = t * of.step + part.in_steps;
                  const T* const before = t == 0 ? start + part.at : h + now - of.step;
                  const T* const factors = CONSTANT ? a + part.unit : a + now;
                  over_vectors<T>(
                      0, part.length, [&](int64_t n, int count) __attribute__((always_inline)) {
                        using Numbers = Number<T, COMPLEX>;
                        const int64_t own = part.at + n;
                        const Numbers d = Numbers::of(d_start + own, units, count) +
                                          Numbers::of(d_h + now + n, units, count);
                        d.write(d_b + now + n, units, count);
                        Numbers d_factor{}, d_before{};
                        if (!starts) {
                          d_factor = Numbers::of(before + n, units, count).times_gradient(d);
                          d_before = Numbers::of(factors + n, units, count).times_gradient(d);
                        }
                        d_before.write(d_start + own, units, count);
                        if constexpr (CONSTANT)
                          (Numbers::of(d_a + own, units, count) + d_factor)
                              .write(d_a + own, units, count);
                        else
                          d_factor.write(d_a + now + n, units, count);
                      });
                });
    }
  });
}

constexpr Extent T = letter_of('T'), B = letter_of('B'), H = letter_of('H');

// The shapes of arrays of all steps, of the flags, and of a or its gradient, of which each row of
// the batch has its own if a is the same at all steps.
struct Shapes {
  Extent width;
  bool constant, batch_first;
  Shape steps() const { return batch_first ? Shape{B, T, width} : Shape{T, B, width}; }
  Shape flags() const { return batch_first ? Shape{B, T} : Shape{T, B}; }
  Shape a() const { return constant ? Shape{width} : steps(); }
  Shape d_a() const { return constant ? Shape{B, width} : steps(); }
};

// Check a call and call run(T(), complex, constant) with the dtype of operand 0 and the attributes
// as constants.
template <typename Run>
ffi::Error checked(const ffi::Call& call, int64_t threads, bool complex, bool constant,
                   std::initializer_list<Operand> operands, std::initializer_list<Operand> results,
                   const Run& run) {
  Contract contract(call.name, call.args, call.rets);
  ffi::Error error = contract.check_attributes({threads_attribute(threads)});
  if (!error.failure()) error = contract.check_arrays(operands, results);
  if (error.failure()) return error;
  const auto with_dtype = [&](auto number) {
    if (complex && constant)
      run(number, std::true_type{}, std::true_type{});
    else if (complex)
      run(number, std::true_type{}, std::false_type{});
    else if (constant)
      run(number, std::false_type{}, std::true_type{});
    else
      run(number, std::false_type{}, std::false_type{});
  };
  if (real_type(call.args, 0) == ffi::F64)
    with_dtype(double());
  else
    with_dtype(float());
  return ffi::Error::Success();
}

// The attributes of both calls, and the shapes that they give.
struct Options {
  bool complex, constant, resets, batch_first;
  int64_t threads;
  Extent width;
  Shapes of;
  explicit Options(const ffi::Call& call)
      : complex(call.attribute<bool>("complex")),
        constant(call.attribute<bool>("constant")),
        resets(call.attribute<bool>("resets")),
        batch_first(call.attribute<bool>("batch_first")),
        threads(call.attribute<int64_t>("threads")),
        width(complex ? 2 * H : H),
        of{width, constant, batch_first} {}
};

ffi::Error forward_handler(const ffi::Call& call) {
  const Options options(call);
  const auto& [complex, constant, resets, batch_first, threads, width, of] = options;
  const ffi::DataType real = real_type(call.args, 0);
  return checked(
      call, threads, complex, constant,
      {{"a", real, of.a()},
       {"b", real, of.steps()},
       {"h", real, {B, width}},
       {"resets", ffi::PRED, of.flags(), resets}},
      {{"h of all steps", real, of.steps()}}, [&](auto number, auto is_complex, auto is_constant) {
        linear_forward<decltype(number), is_complex.value, is_constant.value>(
            call.pool, call.args, call.rets, options.resets, options.batch_first, options.threads);
      });
}

ffi::Error backward_handler(const ffi::Call& call) {
  const Options options(call);
  const auto& [complex, constant, resets, batch_first, threads, width, of] = options;
  const ffi::DataType real = real_type(call.args, 0);
  return checked(
      call, threads, complex, constant,
      {{"a", real, of.a()},
       {"h", real, {B, width}},
       {"h of all steps", real, of.steps()},
       {"d of outputs", real, of.steps()},
       {"resets", ffi::PRED, of.flags(), resets}},
      {{"d of a", real, of.d_a()}, {"d of b", real, of.steps()}, {"d of h", real, {B, width}}},
      [&](auto number, auto is_complex, auto is_constant) {
        linear_backward<decltype(number), is_complex.value, is_constant.value>(
            call.pool, call.args, call.rets, options.resets, options.batch_first, options.threads);
      });
}

}  // namespace

LSTM_HANDLER(lstm_jax_linear_forward, forward_handler, 5)
LSTM_HANDLER(lstm_jax_linear_backward, backward_handler, 5)
