// SIMD vectors of GCC and Clang (`vector_size`), as wide as those of the machine that compiles.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define LSTM_INLINE inline __attribute__((always_inline))
// Unroll the loop that follows completely, so that its arrays of vectors stay in registers. The
// compiler must know the trip count, at most 24.
#define LSTM_UNROLL _Pragma("GCC unroll 24")

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float Type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double Type __attribute__((vector_size(kVectorBytes)));
};

template <typename T>
using Vec = typename VectorOf<T>::Type;
template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <typename T>
LSTM_INLINE Vec<T> all(T value) {
  return value - Vec<T>{};
}

template <typename T>
LSTM_INLINE Vec<T> load(const T* from) {
  Vec<T> vector;
  std::memcpy(&vector, from, kVectorBytes);
  return vector;
}

template <typename T>
LSTM_INLINE void store(T* to, Vec<T> vector) {
  std::memcpy(to, &vector, kVectorBytes);
}

// Load the first `count` numbers; the other lanes are zeros.
template <typename T>
inline Vec<T> load(const T* from, int count) {
  if (count == kLanes<T>) return load(from);
  Vec<T> vector{};
  std::memcpy(&vector, from, count * sizeof(T));
  return vector;
}

template <typename T>
LSTM_INLINE void store(T* to, Vec<T> vector, int count) {
  if (count == kLanes<T>) return store(to, vector);
  std::memcpy(to, &vector, count * sizeof(T));
}

// Call f(at, count) for the vectors of first..last-1; `count` is a constant but for the last one.
template <typename T, typename F>
LSTM_INLINE void over_vectors(int64_t first, int64_t last, const F& f) {
  int64_t at = first;
  for (; at + kLanes<T> <= last; at += kLanes<T>) f(at, kLanes<T>);
  if (at < last) f(at, static_cast<int>(last - at));
}

inline bool aligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0;
}

// Write past the caches what is read much later, so that a cache line is not fetched first only to
// be overwritten. Call `flush_streams` before another thread reads it.
template <typename T>
LSTM_INLINE void stream(T* to, Vec<T> vector, int count, bool aligned) {
#if defined(__AVX512F__)
  if (aligned) return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)vector);
#elif defined(__AVX__)
  if (aligned) return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)vector);
#endif
  store(to, vector, count);
}

inline void flush_streams() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

// Request large pages for new memory before it is first written: a page fault for each 4 KiB takes
// as long as the arithmetic that fills it.
inline void prefer_large_pages(void* data, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 2 << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// Uninitialised aligned memory for `count` numbers; throws std::bad_alloc.
template <typename T>
struct Aligned {
  explicit Aligned(size_t count) {
    if (count > std::numeric_limits<size_t>::max() / 2 / sizeof(T)) throw std::bad_alloc();
    const size_t bytes = (count * sizeof(T) + kVectorBytes) / kVectorBytes * kVectorBytes;
    data.reset(static_cast<T*>(std::aligned_alloc(kVectorBytes, bytes)));
    if (!data) throw std::bad_alloc();
    prefer_large_pages(data.get(), bytes);
  }
  struct Free {
    void operator()(T* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<T, Free> data;
  T* get() const { return data.get(); }
};

// Call f(ROWS) with `rows` as a compile-time constant, for 1 <= rows <= MAX.
template <int MAX, typename F>
LSTM_INLINE void with_rows(int64_t rows, const F& f) {
  if constexpr (MAX > 0) {
    if (rows == MAX) return f(std::integral_constant<int, MAX>{});
    with_rows<MAX - 1>(rows, f);
  }
}

}  // namespace
