// Which steps of a row read an x again that it has read before.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "vectors.h"

namespace {

// Numbers for each x that rows first..last-1 of tokens (T, B) read more than once, `size` of them, zeros to begin with.
template <typename T>
class Repeats {
 public:
  Repeats(const int32_t* tokens, int64_t steps, int64_t batch, int64_t first, int64_t last, int64_t size) : size(size) {
    if (!tokens) return;
    const int64_t rows = last - first;
    // what does not stay in the caches would be no gain
    const int64_t most = kBytes / (size * static_cast<int64_t>(sizeof(T)));
    places.assign(steps * rows, kAlone);
    // by hash: a token, the step it came first at and its place
    int64_t slots = 2;
    while (slots < 2 * steps) slots *= 2;
    std::vector<int32_t> token(slots), step(slots), seen(slots, -1);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t t = 0; t < steps; ++t) {
        const int32_t own = tokens[t * batch + first + row];
        int64_t at = (static_cast<uint32_t>(own) * 2654435769u >> 7) & (slots - 1);
        while (seen[at] == row && token[at] != own) at = (at + 1) & (slots - 1);
        if (seen[at] != row) {
          seen[at] = row, token[at] = own, step[at] = t;
          continue;
        }
        int32_t& begins = places[step[at] * rows + row];
        if (begins == kAlone && count < most) begins = 2 * count++;
        if (begins != kAlone) places[t * rows + row] = begins + 1;
      }
    }
    numbers = std::make_unique<Aligned<T>>(count * size);
    std::fill_n(numbers->get(), count * size, T(0));
  }

  bool any() const { return count > 0; }
  // The numbers of row k % rows at step k / rows; null unless it has read its x before.
  T* repeated(int64_t k) const { return any() && places[k] >= 0 && places[k] % 2 == 1 ? of(places[k]) : nullptr; }
  // Likewise, unless it will read its x again and has not before.
  T* begins(int64_t k) const { return any() && places[k] >= 0 && places[k] % 2 == 0 ? of(places[k]) : nullptr; }

 private:
  static constexpr int32_t kAlone = -1;
  static constexpr int64_t kBytes = 4 << 20;
  T* of(int32_t place) const { return numbers->get() + place / 2 * size; }
  int64_t size, count = 0;
  std::vector<int32_t> places;  // 2 n where x number n comes first, 2 n + 1 where it comes again, or kAlone
  std::unique_ptr<Aligned<T>> numbers;
};

}  // namespace
