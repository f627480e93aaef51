// Dropout masks from the same random bits as jax.random.bernoulli has: XLA draws them one after the other on one core.

#include "gates.h"
#include "threads.h"

namespace {

typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
constexpr int64_t kWords = kVectorBytes / sizeof(uint32_t);

// Threefry-2x32 with 20 rounds (Salmon et al. 2011) of the counters (0, n), both words in one, as JAX has it where
// `jax_threefry_partitionable` is on.
inline Words random_bits(uint32_t k0, uint32_t k1, Words n) {
  constexpr int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
  Words a = k0 - Words{}, b = n + k1;
#pragma GCC unroll 5
  for (uint32_t group = 0; group < 5; ++group) {
#pragma GCC unroll 4
    for (int round = 0; round < 4; ++round) {
      const int by = rotations[group % 2][round];
      a += b;
      b = a ^ (b << by | b >> (32 - by));
    }
    a += keys[(group + 1) % 3];
    b += keys[(group + 2) % 3] + group + 1;
  }
  return a ^ b;
}

// The numbers that a thread is worth waking for.
constexpr int64_t kLeast = 1 << 16;

// In order: the key's two words. Result: float, `scale` with probability `keep`, else 0.
ffi::Error mask(ffi::ThreadPool pool, ffi::Buffer<ffi::U32> key, ffi::Result<ffi::Buffer<ffi::F32>> result, float keep, float scale,
                int64_t threads) {
  const uint32_t k0 = key.typed_data()[0], k1 = key.typed_data()[1];
  float* const to = result->typed_data();
  const int64_t size = result->element_count(), parts = threads_for(pool, threads, size / kLeast);
  Words lanes;
  for (int64_t lane = 0; lane < kWords; ++lane) lanes[lane] = lane;
  share_out(pool, parts, parts, size, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t n = first; n < last; n += kWords) {
      const Words bits = random_bits(k0, k1, lanes + static_cast<uint32_t>(n)) >> 9;
      // 23 bits are a number in [0, 1) as jax.random.uniform makes it
      const Vec<float> uniform = __builtin_convertvector((Numbers<float>::Bits)bits, Vec<float>) * 0x1p-23f;
      store(to + n, uniform < keep ? all(scale) : all(0.0f), std::min(kWords, last - n));
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_jax_mask, mask,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<float>("keep")
                                  .Attr<float>("scale")
                                  .Attr<int64_t>("threads"));
