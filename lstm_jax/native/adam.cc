// Adam's step as Keras has it, in one pass over the moments and the gradient; XLA makes three, each of which reads again what it needs.

#include <cstring>

#include "threads.h"

namespace {

// m' = m + (1 - b1) (g - m);  v' = v + (1 - b2) (g^2 - v);  step = -scale m' / (sqrt(v') + eps)
template <typename T>
void adam(const T* m, const T* v, const T* g, T scale, T b1, T b2, T eps, T* step, T* m_new, T* v_new, int64_t first, int64_t last) {
  // in pieces copied to places of their own: a result may lie where an argument does, and compilers make vectors only of what cannot
  constexpr int64_t kPiece = 64;
  T g_n[kPiece] = {}, m_n[kPiece] = {}, v_n[kPiece] = {}, step_n[kPiece];
  for (; first < last; first += kPiece) {
    const size_t bytes = std::min(kPiece, last - first) * sizeof(T);
    std::memcpy(g_n, g + first, bytes);
    std::memcpy(m_n, m + first, bytes);
    std::memcpy(v_n, v + first, bytes);
    for (int64_t n = 0; n < kPiece; ++n) {
      m_n[n] += (T(1) - b1) * (g_n[n] - m_n[n]);
      v_n[n] += (T(1) - b2) * (g_n[n] * g_n[n] - v_n[n]);
      step_n[n] = -scale * m_n[n] / (std::sqrt(v_n[n]) + eps);
    }
    std::memcpy(m_new + first, m_n, bytes);
    std::memcpy(v_new + first, v_n, bytes);
    std::memcpy(step + first, step_n, bytes);
  }
}

// In order: m, v, gradient (any shape), scale. Results: step, m, v.
template <typename T>
ffi::Error adam_of(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, double b1, double b2, double eps,
                   int64_t threads) {
  auto arg = [&](size_t n) { return data_of<const T>(*args.get<ffi::AnyBuffer>(n)); };
  auto ret = [&](size_t n) { return data_of<T>(**rets.get<ffi::AnyBuffer>(n)); };
  const int64_t size = args.get<ffi::AnyBuffer>(0)->element_count();
  share_out(pool, parts_of(pool, threads, size), size, [&](int64_t part, int64_t first, int64_t last) {
    adam<T>(arg(0), arg(1), arg(2), *arg(3), b1, b2, eps, ret(0), ret(1), ret(2), first, last);
  });
  return ffi::Error::Success();
}

ffi::Error any_adam(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, double b1, double b2, double eps,
                    int64_t threads) {
  const bool wide = args.get<ffi::AnyBuffer>(0)->element_type() == ffi::F64;
  return wide ? adam_of<double>(pool, args, rets, b1, b2, eps, threads) : adam_of<float>(pool, args, rets, b1, b2, eps, threads);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_adam, any_adam,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<double>("b1")
                                  .Attr<double>("b2")
                                  .Attr<double>("eps")
                                  .Attr<int64_t>("threads"));
