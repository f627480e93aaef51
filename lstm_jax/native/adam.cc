// Adam's step (Kingma & Ba 2015) for some rows of a table. The caller gives the scale and the eps
// of each step, in which the forms of Keras and optax differ.

#include <atomic>
#include <cstring>
#include <numeric>

#include "gates.h"
#include "operands.h"
#include "threads.h"

namespace {

// Compilers vectorise only arrays that cannot overlap, and a result has the memory of an operand:
// numbers are copied in pieces of this size.
constexpr int64_t kPiece = 64;
// Parts of the work for each thread: a thread that wakes late takes fewer.
constexpr int64_t kPartsPerThread = 8;

template <typename T>
struct Adam {
  T scale, m_rate, v_rate,
      eps;  // the rates 1 - b1 and 1 - b2 are computed in double: 1 - 0.999 in float is 5e-5 off

  Adam(T scale, double b1, double b2, T eps)
      : scale(scale), m_rate(1 - b1), v_rate(1 - b2), eps(eps) {}

  // m += (1 - b1) (g - m);  v += (1 - b2) (g^2 - v);  step = -scale m / (sqrt(v) + eps)
  void operator()(const T* g, T* m, T* v, T* step) const {
    for (int64_t n = 0; n < kPiece; ++n) {
      m[n] += m_rate * (g[n] - m[n]);
      v[n] += v_rate * (g[n] * g[n] - v[n]);
      step[n] = -scale * m[n] / (std::sqrt(v[n]) + eps);
    }
  }
};

// A table (V, C) with moments m and v, most of whose rows have no gradient in a step. Such a row is
// left as it is until it is read, and then catches up on all missed steps at once: m and v shrink
// by powers of b1 and b2; only the table needs the scale and the eps of each step.
template <typename T>
struct Table {
  const Adam<T> rates;  // all but scale and eps
  T *p, *m, *v;
  int32_t* done;  // the number of steps that each row has taken
  const T *scales, *eps;
  T b1, root_b2, largest, smallest_eps;
  bool shrinks;  // whether the steps of a row without gradients shrink
  std::vector<T> m_powers, v_powers;
  int64_t columns;
  mutable std::atomic<int64_t> invalid_row{-1};  // a row with an invalid number of steps done

  Table(const ffi::Buffers& args, const ffi::Buffers& rets, double b1, double b2)
      : rates(0, b1, b2, 0),
        p(data_of<T>(rets[0])),
        m(data_of<T>(rets[1])),
        v(data_of<T>(rets[2])),
        done(data_of<int32_t>(rets[3])),
        scales(data_of<const T>(args[4])),
        eps(data_of<const T>(args[5])),
        b1(b1),
        root_b2(std::sqrt(b2)),
        shrinks(b1 * b1 <= b2),
        columns(args[0].dimensions()[1]) {
    for (size_t n = 0; n < 4; ++n) {
      const ffi::Buffer from = args[n];
      if (from.untyped_data() != rets[n].untyped_data() && from.element_count() > 0) {
        std::memcpy(rets[n].untyped_data(), from.untyped_data(), from.size_bytes());
      }
    }
    const int64_t steps = args[4].element_count();
    largest = std::accumulate(scales, scales + steps, T(0), [](T a, T b) {
      return std::max(a, std::abs(b));
    });  // gradient ascent: below 0
    smallest_eps = steps ? *std::min_element(eps, eps + steps) : T(0);
    double m_power = 1, v_power = 1;
    for (int64_t n = 0; n <= steps; ++n, m_power *= b1, v_power *= b2) {
      m_powers.push_back(m_power);
      v_powers.push_back(v_power);
    }
  }

  // Return whether any p still changes under a step as large as the next one. Later steps are
  // smaller if `shrinks`: m / sqrt(v) changes by b1 / sqrt(b2) a step.
  static constexpr int kVectors = 4;
  bool moves(const Vec<T>* p, const Vec<T>* m, const Vec<T>* root) const {
    typename Numbers<T>::Bits any{};
    for (int n = 0; n < kVectors; ++n) {
      const Vec<T> step = largest * m[n] * reciprocal(root[n] + smallest_eps);
      any |= (p[n] + step != p[n]) | (p[n] - step != p[n]);
    }
    typename std::decay<decltype(any[0])>::type sum = 0;
    for (int n = 0; n < kLanes<T>; ++n) sum |= any[n];
    return sum != 0;
  }

  // Prefetch a row: the memory latency is longer than the arithmetic.
  void prefetch(int64_t row) const {
    constexpr int64_t kLine = 64 / sizeof(T);
    for (int64_t at = row * columns; at < (row + 1) * columns; at += kLine) {
      for (const T* numbers : {p, m, v}) __builtin_prefetch(numbers + at, 1);
    }
  }

  // Do a row's steps up to number `to`, without a gradient; return whether its number of steps done
  // was valid.
  bool catch_up(int64_t row, int64_t to) const {
    constexpr int kCheckInterval = 8, kWidth = kVectors * kLanes<T>;
    const int64_t from = done[row], missed = to - from;
    if (from < 0 || missed < 0) {
      invalid_row = row;
      return false;
    }
    done[row] = to;
    if (missed == 0) return true;
    for (int64_t c = 0; c < columns; c += kWidth) {
      Vec<T> p_n[kVectors], m_n[kVectors], root[kVectors];
      T* const at[] = {p + row * columns + c, m + row * columns + c, v + row * columns + c};
      int count[kVectors];
      for (int n = 0; n < kVectors; ++n) {
        count[n] = std::clamp<int64_t>(columns - c - n * kLanes<T>, 0, kLanes<T>);
        p_n[n] = load(at[0] + n * kLanes<T>, count[n]);
        m_n[n] = load(at[1] + n * kLanes<T>, count[n]);
        const Vec<T> v_n = load(at[2] + n * kLanes<T>, count[n]);
        root[n] = square_root<T>(v_n);
        store(at[1] + n * kLanes<T>, m_n[n] * m_powers[missed], count[n]);
        store(at[2] + n * kLanes<T>, v_n * v_powers[missed], count[n]);
      }
      for (int64_t step = from; step < to;) {
        if (shrinks && (step > from || missed > kCheckInterval) && !moves(p_n, m_n, root)) break;
        for (const int64_t last = std::min(step + kCheckInterval, to); step < last; ++step) {
          LSTM_UNROLL for (int n = 0; n < kVectors; ++n) {
            m_n[n] *= b1;
            root[n] *= root_b2;
            p_n[n] -= scales[step] * m_n[n] * reciprocal(root[n] + eps[step]);
          }
        }
      }
      for (int n = 0; n < kVectors; ++n) store(at[0] + n * kLanes<T>, p_n[n], count[n]);
    }
    return true;
  }

  // Return an error if a row had an invalid number of steps done, when `to` steps had been started.
  ffi::Error error(const Contract& contract, int64_t to) const {
    if (invalid_row < 0) return ffi::Error::Success();
    return contract.invalid("steps done by row " + std::to_string(invalid_row),
                            std::to_string(done[invalid_row]), "give 0 to " + std::to_string(to));
  }

  // Do a row's step number `at` with the sum of `count` gradients.
  void step(int64_t row, int64_t at, const T* gradients, const int32_t* numbers,
            int64_t count) const {
    if (!catch_up(row, at)) return;
    done[row] = at + 1;
    Adam<T> adam = rates;
    adam.scale = scales[at];
    adam.eps = eps[at];
    for (int64_t c = 0; c < columns; c += kPiece) {
      T g_n[kPiece] = {}, p_n[kPiece] = {}, m_n[kPiece] = {}, v_n[kPiece] = {}, step_n[kPiece];
      const int64_t first = row * columns + c, size = std::min(kPiece, columns - c),
                    bytes = size * sizeof(T);
      for (int64_t n = 0; n < count; ++n) {
        const T* g = gradients + numbers[n] * columns + c;
        for (int64_t k = 0; k < size; ++k) g_n[k] += g[k];
      }
      std::memcpy(p_n, p + first, bytes);
      std::memcpy(m_n, m + first, bytes);
      std::memcpy(v_n, v + first, bytes);
      adam(g_n, m_n, v_n, step_n);
      for (int64_t n = 0; n < kPiece; ++n) p_n[n] += step_n[n];
      std::memcpy(p + first, p_n, bytes);
      std::memcpy(m + first, m_n, bytes);
      std::memcpy(v + first, v_n, bytes);
    }
  }
};

// The distinct ids of a buffer, and the positions of each: rows[n] is at
// positions[starts[n]..starts[n + 1] - 1].
struct DistinctIds {
  std::vector<int32_t> rows, starts, positions;

  DistinctIds(const ffi::Buffer& buffer, int64_t count) {
    const int32_t* ids = data_of<const int32_t>(buffer);
    const int64_t given = buffer.element_count();
    std::vector<int32_t> number(count, -1), of(given, -1), sizes;
    for (int64_t n = 0; n < given; ++n) {
      const int64_t id = ids[n] < 0 ? ids[n] + count : ids[n];
      if (id < 0 || id >= count) continue;
      if (number[id] < 0) {
        number[id] = rows.size();
        rows.push_back(id);
        sizes.push_back(0);
      }
      of[n] = number[id];
      ++sizes[of[n]];
    }
    starts.resize(rows.size() + 1);
    std::partial_sum(sizes.begin(), sizes.end(), starts.begin() + 1);
    positions.resize(starts.back());
    std::vector<int32_t> next(starts.begin(), starts.end() - 1);
    for (int64_t n = 0; n < given; ++n) {
      if (of[n] >= 0) positions[next[of[n]]++] = n;
    }
  }
};

// Do the missed steps of the rows of the ids or, without ids, of all rows. Operands in order:
// table, m, v (V, C), steps done by each row (V,), scale and eps of each step (S,), steps to be
// done, ids. Results: the first four, in place.
template <typename T>
ffi::Error adam_catch_up(const Contract& contract, ffi::ThreadPool pool, ffi::Buffers args,
                         ffi::Buffers rets, double b1, double b2, int64_t threads) {
  const int64_t to = *data_of<const int32_t>(args[6]), count = args[0].dimensions()[0];
  const int64_t steps = args[4].element_count();
  if (to < 0 || to > steps)
    return contract.invalid("steps to be done", std::to_string(to),
                            "give 0 to " + std::to_string(steps));
  const Table<T> table(args, rets, b1, b2);
  const auto all_rows = [&](int64_t part, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) table.catch_up(row, to);
  };
  if (args.size() == 7) {
    threads = threads_for(pool, threads, count);
    parallel_for(pool, threads, kPartsPerThread * threads, count, all_rows);
    return table.error(contract, to);
  }
  const std::vector<int32_t> rows = DistinctIds(args[7], count).rows;
  threads = threads_for(pool, threads, rows.size());
  parallel_for(pool, threads, kPartsPerThread * threads, rows.size(),
               [&](int64_t part, int64_t first, int64_t last) {
                 for (; first < last; ++first) {
                   if (first + 1 < last) table.prefetch(rows[first + 1]);
                   table.catch_up(rows[first], to);
                 }
               });
  return table.error(contract, to);
}

// Do one step of the rows that have a gradient, after their missed steps. Operands in order: table,
// m, v (V, C), steps done by each row (V,), scale and eps of each step (S,), number of the step,
// ids (N,), their gradients (N, C); gradients of equal ids are summed. Results: the first four, in
// place.
template <typename T>
ffi::Error adam_rows(const Contract& contract, ffi::ThreadPool pool, ffi::Buffers args,
                     ffi::Buffers rets, double b1, double b2, int64_t threads) {
  const int64_t at = *data_of<const int32_t>(args[6]), steps = args[4].element_count();
  if (at < 0 || at >= steps)
    return contract.invalid("number of the step", std::to_string(at),
                            "give 0 to " + std::to_string(steps - 1));
  const Table<T> table(args, rets, b1, b2);
  const DistinctIds distinct(args[7], args[0].dimensions()[0]);
  const T* gradients = data_of<const T>(args[8]);
  const int64_t count = distinct.rows.size();
  threads = threads_for(pool, threads, count);
  parallel_for(pool, threads, kPartsPerThread * threads, count,
               [&](int64_t part, int64_t first, int64_t last) {
                 for (; first < last; ++first) {
                   if (first + 1 < last) table.prefetch(distinct.rows[first + 1]);
                   const int32_t start = distinct.starts[first];
                   table.step(distinct.rows[first], at, gradients,
                              distinct.positions.data() + start,
                              distinct.starts[first + 1] - start);
                 }
               });
  return table.error(contract, at);
}

constexpr Extent V = letter_of('V'), C = letter_of('C'), S = letter_of('S'), N = letter_of('N');

ffi::Error check_table(Contract& contract, ffi::DataType real, bool ids, bool gradients) {
  return contract.check_arrays({{"table", real, {V, C}},
                                {"m", real, {V, C}},
                                {"v", real, {V, C}},
                                {"steps done", ffi::S32, {V}},
                                {"scales", real, {S}},
                                {"eps", real, {S}},
                                {"number of the step", ffi::S32, {}},
                                {"ids", ffi::S32, {N}, ids},
                                {"gradients", real, {N, C}, gradients}},
                               {{"new table", real, {V, C}},
                                {"new m", real, {V, C}},
                                {"new v", real, {V, C}},
                                {"new steps done", ffi::S32, {V}}});
}

ffi::Error check_adam_catch_up(Contract& contract, ffi::DataType real, size_t given) {
  return check_table(contract, real, given != 7, false);
}

ffi::Error check_adam_rows(Contract& contract, ffi::DataType real, size_t) {
  return check_table(contract, real, true, true);
}

ffi::Error check_attributes(const Contract& contract, double b1, double b2, int64_t threads) {
  return contract.check_attributes({
      {"b1", b1, b1 >= 0 && b1 <= 1, "give 0 to 1"},
      {"b2", b2, b2 >= 0 && b2 <= 1, "give 0 to 1"},
      threads_attribute(threads),
  });
}

// Define the handler of a function for float or double, whichever the first operand is.
#define DEFINE_FOR_BOTH_DTYPES(function)                                                      \
  ffi::Error function##_handler(const ffi::Call& call) {                                      \
    Contract contract(call.name, call.args, call.rets);                                       \
    const ffi::DataType real = real_type(call.args, 0);                                       \
    const double b1 = call.attribute<double>("b1"), b2 = call.attribute<double>("b2");        \
    const int64_t threads = call.attribute<int64_t>("threads");                               \
    ffi::Error error = check_attributes(contract, b1, b2, threads);                           \
    if (!error.failure()) error = check_##function(contract, real, call.args.size());         \
    if (error.failure()) return error;                                                        \
    return real == ffi::F64                                                                   \
               ? function<double>(contract, call.pool, call.args, call.rets, b1, b2, threads) \
               : function<float>(contract, call.pool, call.args, call.rets, b1, b2, threads); \
  }

DEFINE_FOR_BOTH_DTYPES(adam_catch_up)
DEFINE_FOR_BOTH_DTYPES(adam_rows)

}  // namespace

LSTM_HANDLER(lstm_jax_adam_catch_up, adam_catch_up_handler, 3)
LSTM_HANDLER(lstm_jax_adam_rows, adam_rows_handler, 3)
