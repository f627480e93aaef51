// The contract of a call as a table of its operands, results and attributes. A call that breaks it
// gets an error that names the operand, its shape and dtype, and the expected ones. The check takes
// some dozens of comparisons for each call.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "ffi.h"
#include "sets.h"

namespace {

// An extent of a shape: a number, or `times` a letter `plus` a number. A letter stands for one
// number in the whole call, set by the first operand that has the letter.
struct Extent {
  char letter = 0;
  int64_t times = 0, plus = 0;
  constexpr Extent() = default;
  constexpr Extent(int number) : plus(number) {}
  constexpr Extent(char letter, int64_t times, int64_t plus)
      : letter(letter), times(times), plus(plus) {}
};
constexpr Extent operator*(int times, Extent extent) {
  return {extent.letter, times * extent.times, times * extent.plus};
}
constexpr Extent operator+(Extent extent, int more) {
  return {extent.letter, extent.times, extent.plus + more};
}

constexpr Extent letter_of(char letter) { return {letter, 1, 0}; }

// The shape expected of an operand: given extents, any shape, or the shape of the first operand.
struct Shape {
  enum Kind { kGiven, kAny, kLikeFirst } kind = kGiven;
  static constexpr size_t kMostExtents = 3;
  size_t rank = 0;
  Extent extents[kMostExtents];
  Shape(Kind kind) : kind(kind) {}
  Shape(std::initializer_list<Extent> given) : rank(given.size()) {
    std::copy(given.begin(), given.end(), extents);
  }
};

struct Operand {
  const char* name;
  ffi::DataType type;
  Shape shape;
  bool present = true;  // in this call
};

struct Attribute {
  const char* name;
  double value;
  bool fits;
  const char* remedy;
};

// Indices into some arrays are 32 bits wide.
constexpr int64_t kMostExtent = std::numeric_limits<int32_t>::max();

inline std::string name_of(ffi::DataType type) {
  switch (type) {
    case ffi::PRED:
      return "bool";
    case ffi::S8:
      return "int8";
    case ffi::S16:
      return "int16";
    case ffi::S32:
      return "int32";
    case ffi::S64:
      return "int64";
    case ffi::U8:
      return "uint8";
    case ffi::U16:
      return "uint16";
    case ffi::U32:
      return "uint32";
    case ffi::U64:
      return "uint64";
    case ffi::F16:
      return "float16";
    case ffi::BF16:
      return "bfloat16";
    case ffi::F32:
      return "float32";
    case ffi::F64:
      return "float64";
    default:
      return "type " + std::to_string(static_cast<int>(type));
  }
}

class Contract {
 public:
  // The arrays are in the order of the tables, and a call for several sets is refused.
  Contract(const char* function, const ffi::Buffers& args, const ffi::Buffers& rets)
      : function(function), args(args), rets(rets) {
    std::fill(std::begin(bound), std::end(bound), -1);
  }
  // The arrays have names.
  Contract(const char* function, const ffi::Arrays& args, const ffi::Arrays& rets)
      : function(function),
        args(args.buffers()),
        rets(rets.buffers()),
        named_args(&args),
        named_rets(&rets),
        sets(args, rets) {
    std::fill(std::begin(bound), std::end(bound), -1);
  }

  // Return an error for the first attribute that does not fit.
  ffi::Error check_attributes(std::initializer_list<Attribute> table) const {
    for (const Attribute& attribute : table) {
      if (!attribute.fits)
        return invalid(attribute.name, number(attribute.value), attribute.remedy);
    }
    return ffi::Error::Success();
  }

  // Return an error for the first operand or result that does not fit.
  ffi::Error check_arrays(std::initializer_list<Operand> operands,
                          std::initializer_list<Operand> results) {
    ffi::Error error = check_all("operands", args, named_args, operands, true);
    return error.failure() ? error : check_all("results", rets, named_rets, results, false);
  }

  // The number that a letter stands for, once an operand has set it.
  int64_t number_of(const Extent& letter) const { return bound[letter.letter - 'A']; }

  ffi::Error invalid(const std::string& name, const std::string& found,
                     const std::string& remedy) const {
    return ffi::Error::InvalidArgument(std::string(function) + ": " + name + ": " + found + "; " +
                                       remedy);
  }

 private:
  ffi::Error check_all(const char* what, const ffi::Buffers& buffers, const ffi::Arrays* named,
                       std::initializer_list<Operand> table, bool shared) {
    const size_t wanted = std::count_if(table.begin(), table.end(),
                                        [](const Operand& operand) { return operand.present; });
    if (buffers.size() != wanted)
      return invalid(what, std::to_string(buffers.size()),
                     "give " + std::to_string(wanted) + names(table));
    int64_t next = 0;
    for (const Operand& operand : table) {
      if (!operand.present) continue;
      const int64_t n = named ? named->find(operand.name) : next++;
      if (n < 0 || !buffers.has(n)) return invalid(operand.name, "no array", "give one");
      const ffi::Buffer buffer = buffers[n];
      if (buffer.element_type() != operand.type ||
          !fits(buffer.dimensions(), operand.shape, shared)) {
        return invalid(operand.name, described(buffer), "give " + described(operand));
      }
      if (!buffer.untyped_data() && buffer.element_count() > 0)
        return invalid(operand.name, "no memory", "give " + described(operand));
    }
    return ffi::Error::Success();
  }

  static std::string names(std::initializer_list<Operand> table) {
    std::string all;
    for (const Operand& operand : table) {
      if (operand.present) all += std::string(all.empty() ? ": " : ", ") + operand.name;
    }
    return all;
  }

  bool fits(ffi::Extents extents, const Shape& shape, bool shared) {
    if (shape.kind == Shape::kAny) return true;
    if (shape.kind == Shape::kLikeFirst) {
      const auto first = args[0].dimensions();
      return std::equal(first.begin(), first.end(), extents.begin(), extents.end());
    }
    if (extents.size() != shape.rank + sets.rank() || !sets.fit(extents, shared)) return false;
    for (size_t n = 0; n < shape.rank; ++n) {
      if (!fits(extents[sets.rank() + n], shape.extents[n])) return false;
    }
    return true;
  }

  bool fits(int64_t found, const Extent& extent) {
    if (!extent.letter) return found == extent.plus;
    int64_t& value = bound[extent.letter - 'A'];
    if (value < 0) {
      const int64_t rest = found - extent.plus;
      if (rest < 0 || rest % extent.times != 0 || rest / extent.times > kMostExtent) return false;
      value = rest / extent.times;
    }
    return found == value * extent.times + extent.plus;
  }

  static std::string described(const ffi::Buffer& buffer) {
    std::string text;
    for (const int64_t extent : buffer.dimensions())
      text += (text.empty() ? "" : ", ") + std::to_string(extent);
    return name_of(buffer.element_type()) + "[" + text + "]";
  }

  std::string described(const Operand& operand) const {
    if (operand.shape.kind == Shape::kAny) return name_of(operand.type);
    if (operand.shape.kind == Shape::kLikeFirst)
      return name_of(operand.type) + " in the shape of the first operand";
    std::string text;
    for (const int64_t extent : sets.extents) text += std::to_string(extent) + ", ";
    for (size_t n = 0; n < operand.shape.rank; ++n)
      text += (n ? ", " : "") + described(operand.shape.extents[n]);
    return name_of(operand.type) + "[" + text + "]";
  }

  std::string described(const Extent& extent) const {
    if (!extent.letter) return std::to_string(extent.plus);
    const int64_t value = bound[extent.letter - 'A'];
    if (value >= 0) return std::to_string(value * extent.times + extent.plus);
    const std::string letter =
        (extent.times == 1 ? "" : std::to_string(extent.times)) + extent.letter;
    return extent.plus ? letter + " + " + std::to_string(extent.plus) : letter;
  }

  static std::string number(double value) {
    const bool whole = std::floor(value) == value && std::abs(value) < 1e18;
    return whole ? std::to_string(static_cast<int64_t>(value)) : std::to_string(value);
  }

  const char* const function;
  const ffi::Buffers& args;
  const ffi::Buffers& rets;
  const ffi::Arrays* const named_args = nullptr;
  const ffi::Arrays* const named_rets = nullptr;
  const Sets sets;
  int64_t bound[26];
};

// Return float64 if operand number `n`, 0 or more, is float64, else float32.
inline ffi::DataType real_type(const ffi::Buffers& args, int64_t n) {
  return n >= 0 && args.has(n) && args[n].element_type() == ffi::F64 ? ffi::F64 : ffi::F32;
}

inline Attribute threads_attribute(int64_t threads) {
  return {"threads", static_cast<double>(threads), threads >= 1, "give 1 or more"};
}

}  // namespace
