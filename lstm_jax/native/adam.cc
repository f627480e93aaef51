// Adam's step as Keras has it, in one pass over memory; XLA makes three, each of which reads again what it needs.

#include <cstring>

#include "threads.h"

namespace {

// Compilers make vectors only of what cannot overlap, and a result may lie where an argument does: numbers pass through pieces of this size.
constexpr int64_t kPiece = 64;
// Parts a thread: one that wakes late takes fewer.
constexpr int64_t kFine = 8;

template <typename T>
struct Adam {
  T scale, by_m, by_v, eps;  // 1 - b1 and 1 - b2, from double: 1 - 0.999 in float is 5e-5 off

  Adam(T scale, double b1, double b2, double eps) : scale(scale), by_m(1 - b1), by_v(1 - b2), eps(eps) {}

  // m += (1 - b1) (g - m);  v += (1 - b2) (g^2 - v);  step = -scale m / (sqrt(v) + eps)
  void operator()(const T* g, T* m, T* v, T* step) const {
    for (int64_t n = 0; n < kPiece; ++n) {
      m[n] += by_m * (g[n] - m[n]);
      v[n] += by_v * (g[n] * g[n] - v[n]);
      step[n] = -scale * m[n] / (std::sqrt(v[n]) + eps);
    }
  }
};

// In order: m, v, gradient (any shape), scale. Results: step, m, v.
template <typename T>
ffi::Error adam(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, double b1, double b2, double eps, int64_t threads) {
  auto arg = [&](size_t n) { return data_of<const T>(*args.get<ffi::AnyBuffer>(n)); };
  auto ret = [&](size_t n) { return data_of<T>(**rets.get<ffi::AnyBuffer>(n)); };
  const T *m = arg(0), *v = arg(1), *g = arg(2);
  T *step = ret(0), *m_new = ret(1), *v_new = ret(2);
  const Adam<T> adam(*arg(3), b1, b2, eps);
  const int64_t size = args.get<ffi::AnyBuffer>(0)->element_count();
  threads = threads_for(pool, threads, size);
  share_out(pool, threads, kFine * threads, size, [&](int64_t part, int64_t first, int64_t last) {
    T g_n[kPiece] = {}, m_n[kPiece] = {}, v_n[kPiece] = {}, step_n[kPiece];
    for (; first < last; first += kPiece) {
      const size_t bytes = std::min(kPiece, last - first) * sizeof(T);
      std::memcpy(g_n, g + first, bytes);
      std::memcpy(m_n, m + first, bytes);
      std::memcpy(v_n, v + first, bytes);
      adam(g_n, m_n, v_n, step_n);
      std::memcpy(m_new + first, m_n, bytes);
      std::memcpy(v_new + first, v_n, bytes);
      std::memcpy(step + first, step_n, bytes);
    }
  });
  return ffi::Error::Success();
}

// A table whose gradient is zero but in some rows. In order: table, m, v (V, C), ids (N,), their gradients (N, C), of which those of the same
// id add up, scale. Results: table, m, v, in place.
template <typename T>
ffi::Error adam_rows(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, double b1, double b2, double eps,
                     int64_t threads) {
  auto ret = [&](size_t n) { return data_of<T>(**rets.get<ffi::AnyBuffer>(n)); };
  T *const p = ret(0), *const m = ret(1), *const v = ret(2);
  const int32_t* ids = data_of<const int32_t>(*args.get<ffi::AnyBuffer>(3));
  const T *rows = data_of<const T>(*args.get<ffi::AnyBuffer>(4)), *scale = data_of<const T>(*args.get<ffi::AnyBuffer>(5));
  const auto shape = args.get<ffi::AnyBuffer>(0)->dimensions();
  const int64_t count = shape[0], columns = shape[1], given = args.get<ffi::AnyBuffer>(3)->element_count();
  for (size_t n = 0; n < 3; ++n) {
    const T* from = data_of<const T>(*args.get<ffi::AnyBuffer>(n));
    if (from != ret(n)) std::memcpy(ret(n), from, count * columns * sizeof(T));
  }
  std::vector<int32_t> place(count, -1);  // of a row's gradient among the sums
  std::vector<T> sums;
  sums.reserve(given * columns);
  for (int64_t n = 0; n < given; ++n) {
    const int64_t id = ids[n] < 0 ? ids[n] + count : ids[n];
    if (id < 0 || id >= count) continue;
    const T* row = rows + n * columns;
    if (place[id] < 0) {
      place[id] = sums.size() / columns;
      sums.insert(sums.end(), row, row + columns);
    } else {
      T* sum = sums.data() + place[id] * columns;
      for (int64_t c = 0; c < columns; ++c) sum[c] += row[c];
    }
  }
  const Adam<T> adam(*scale, b1, b2, eps);
  threads = threads_for(pool, threads, count);
  share_out(pool, threads, kFine * threads, count, [&](int64_t part, int64_t first, int64_t last) {
    T g_n[kPiece], p_n[kPiece] = {}, m_n[kPiece] = {}, v_n[kPiece] = {}, step_n[kPiece];
    for (int64_t id = first; id < last; ++id) {
      for (int64_t c = 0; c < columns; c += kPiece) {
        const int64_t at = id * columns + c, size = std::min(kPiece, columns - c);
        std::fill(g_n, g_n + kPiece, T(0));
        if (place[id] >= 0) std::memcpy(g_n, sums.data() + place[id] * columns + c, size * sizeof(T));
        std::memcpy(p_n, p + at, size * sizeof(T));
        std::memcpy(m_n, m + at, size * sizeof(T));
        std::memcpy(v_n, v + at, size * sizeof(T));
        adam(g_n, m_n, v_n, step_n);
        for (int64_t n = 0; n < kPiece; ++n) p_n[n] += step_n[n];
        std::memcpy(p + at, p_n, size * sizeof(T));
        std::memcpy(m + at, m_n, size * sizeof(T));
        std::memcpy(v + at, v_n, size * sizeof(T));
      }
    }
  });
  return ffi::Error::Success();
}

bool wide(const ffi::RemainingArgs& args) { return args.get<ffi::AnyBuffer>(0)->element_type() == ffi::F64; }

template <typename... Rest>
ffi::Error any_adam(ffi::ThreadPool pool, ffi::RemainingArgs args, Rest... rest) {
  return wide(args) ? adam<double>(pool, args, rest...) : adam<float>(pool, args, rest...);
}

template <typename... Rest>
ffi::Error any_adam_rows(ffi::ThreadPool pool, ffi::RemainingArgs args, Rest... rest) {
  return wide(args) ? adam_rows<double>(pool, args, rest...) : adam_rows<float>(pool, args, rest...);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_adam, (any_adam<ffi::RemainingRets, double, double, double, int64_t>),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<double>("b1")
                                  .Attr<double>("b2")
                                  .Attr<double>("eps")
                                  .Attr<int64_t>("threads"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_adam_rows, (any_adam_rows<ffi::RemainingRets, double, double, double, int64_t>),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<double>("b1")
                                  .Attr<double>("b2")
                                  .Attr<double>("eps")
                                  .Attr<int64_t>("threads"));
