// Steps at which a row of the batch reads an x that it has read before.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "vectors.h"

namespace {

// `size` numbers, initially zeros, for each x that a row of first..last-1 reads more than once, as
// tokens (T, B) say.
template <typename T>
class Repeats {
 public:
  Repeats(const int32_t* tokens, int64_t steps, int64_t batch, int64_t first, int64_t last,
          int64_t size)
      : size(size) {
    if (!tokens) return;
    const int64_t rows = last - first;
    // numbers that do not fit into the caches would not save time
    const int64_t max_count = kBytes / (size * static_cast<int64_t>(sizeof(T)));
    codes.assign(steps * rows, kUnique);
    // a hash table: token, the step at which it came first, and the row that wrote the slot
    int64_t slots = 2;
    while (slots < 2 * steps) slots *= 2;
    std::vector<int32_t> token(slots), step(slots), seen(slots, -1);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t t = 0; t < steps; ++t) {
        const int32_t current = tokens[t * batch + first + row];
        int64_t at = (static_cast<uint32_t>(current) * 2654435769u >> 7) & (slots - 1);
        while (seen[at] == row && token[at] != current) at = (at + 1) & (slots - 1);
        if (seen[at] != row) {
          seen[at] = row, token[at] = current, step[at] = t;
          continue;
        }
        int32_t& begins = codes[step[at] * rows + row];
        if (begins == kUnique && count < max_count) begins = 2 * count++;
        if (begins != kUnique) codes[t * rows + row] = begins + 1;
      }
    }
    numbers = std::make_unique<Aligned<T>>(count * size);
    std::fill_n(numbers->get(), count * size, T(0));
  }

  bool any() const { return count > 0; }
  // Return the numbers of row k % rows at step k / rows if the row has read its x before, else
  // null.
  T* repeated(int64_t k) const {
    return any() && codes[k] >= 0 && codes[k] % 2 == 1 ? of(codes[k]) : nullptr;
  }
  // Return the numbers of row k % rows at step k / rows if the row reads its x for the first time
  // and will again, else null.
  T* begins(int64_t k) const {
    return any() && codes[k] >= 0 && codes[k] % 2 == 0 ? of(codes[k]) : nullptr;
  }

 private:
  static constexpr int32_t kUnique = -1;
  static constexpr int64_t kBytes = 4 << 20;
  T* of(int32_t code) const { return numbers->get() + code / 2 * size; }
  int64_t size, count = 0;
  std::vector<int32_t>
      codes;  // 2 n where x number n comes first, 2 n + 1 where it comes again, or kUnique
  std::unique_ptr<Aligned<T>> numbers;
};

}  // namespace
