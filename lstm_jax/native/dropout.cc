// Dropout masks from the same random bits as jax.random.bernoulli, on all cores; XLA draws them on
// one core.

#include "gates.h"
#include "operands.h"
#include "threads.h"

namespace {

typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
constexpr int64_t kWords = kVectorBytes / sizeof(uint32_t);

// Threefry-2x32 with 20 rounds (Salmon et al. 2011) of the counters (0, n), the exclusive or of
// both words, as in JAX with `jax_threefry_partitionable`.
inline Words random_bits(uint32_t k0, uint32_t k1, Words n) {
  constexpr int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
  Words a = k0 - Words{}, b = n + k1;
  LSTM_UNROLL for (uint32_t group = 0; group < 5; ++group) {
    LSTM_UNROLL for (int round = 0; round < 4; ++round) {
      const int by = rotations[group % 2][round];
      a += b;
      b = a ^ (b << by | b >> (32 - by));
    }
    a += keys[(group + 1) % 3];
    b += keys[(group + 2) % 3] + group + 1;
  }
  return a ^ b;
}

// The least number of elements for which another thread is used.
constexpr int64_t kMinElements = 1 << 16;

// The number of counters (0, n).
constexpr int64_t kMaxElements = int64_t{1} << 32;

// Operand: the key's two words. Result: float, `scale` with probability `keep`, else 0.
ffi::Error mask(const Contract& contract, ffi::ThreadPool pool, const ffi::Buffer& key,
                const ffi::Buffer& result, float keep, float scale, int64_t threads) {
  const int64_t size = result.element_count(),
                parts = threads_for(pool, threads, size / kMinElements);
  if (size > kMaxElements)
    return contract.invalid("mask", std::to_string(size),
                            "give at most " + std::to_string(kMaxElements) + " numbers");
  const uint32_t k0 = data_of<const uint32_t>(key)[0], k1 = data_of<const uint32_t>(key)[1];
  float* const to = data_of<float>(result);
  Words lanes;
  for (int64_t lane = 0; lane < kWords; ++lane) lanes[lane] = lane;
  parallel_for(pool, parts, parts, size, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t n = first; n < last; n += kWords) {
      const Words bits = random_bits(k0, k1, lanes + static_cast<uint32_t>(n)) >> 9;
      // 23 bits give a number in [0, 1), as in jax.random.uniform
      const Vec<float> uniform =
          __builtin_convertvector((Numbers<float>::Bits)bits, Vec<float>) * 0x1p-23f;
      store(to + n, uniform < keep ? all(scale) : all(0.0f), std::min(kWords, last - n));
    }
  });
  return ffi::Error::Success();
}

ffi::Error mask_handler(const ffi::Call& call) {
  const float keep = call.attribute<float>("keep"), scale = call.attribute<float>("scale");
  const int64_t threads = call.attribute<int64_t>("threads");
  Contract contract(call.name, call.args, call.rets);
  ffi::Error error = contract.check_attributes(
      {{"keep", keep, keep >= 0 && keep <= 1, "give 0 to 1"}, threads_attribute(threads)});
  if (!error.failure())
    error = contract.check_arrays({{"key", ffi::U32, {2}}}, {{"mask", ffi::F32, Shape::kAny}});
  if (error.failure()) return error;
  return mask(contract, call.pool, call.args[0], call.rets[0], keep, scale, threads);
}

}  // namespace

LSTM_HANDLER(lstm_jax_mask, mask_handler, 3)
