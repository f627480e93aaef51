// Vectors of GCC and Clang (`vector_size`), as wide as the machine that compiles has them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

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
inline Vec<T> all(T value) {
  return value - Vec<T>{};
}

template <typename T>
inline Vec<T> load(const T* from) {
  Vec<T> vector;
  std::memcpy(&vector, from, kVectorBytes);
  return vector;
}

template <typename T>
inline void store(T* to, Vec<T> vector) {
  std::memcpy(to, &vector, kVectorBytes);
}

// The first `count` numbers; the rest are zeros.
template <typename T>
inline Vec<T> load(const T* from, int count) {
  if (count == kLanes<T>) return load(from);
  Vec<T> vector{};
  std::memcpy(&vector, from, count * sizeof(T));
  return vector;
}

template <typename T>
inline void store(T* to, Vec<T> vector, int count) {
  if (count == kLanes<T>) return store(to, vector);
  std::memcpy(to, &vector, count * sizeof(T));
}

// Room for `count` numbers, as it comes.
template <typename T>
struct Aligned {
  explicit Aligned(size_t count) {
    const size_t bytes = (count * sizeof(T) + kVectorBytes) / kVectorBytes * kVectorBytes;
    data.reset(static_cast<T*>(std::aligned_alloc(kVectorBytes, bytes)));
  }
  struct Free {
    void operator()(T* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<T, Free> data;
  T* get() const { return data.get(); }
};

}  // namespace
