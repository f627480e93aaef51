// XLA's binary interface for compiled code, as far as this folder uses it: version 0.3, which XLA
// accepts for a year after it has a newer one. With these declarations the code compiles without
// JAX. tests/native/ffi_layout.cc compares them with jaxlib's header.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace ffi {

enum DataType : int32_t {
  PRED = 1,
  S8 = 2,
  S16 = 3,
  S32 = 4,
  S64 = 5,
  U8 = 6,
  U16 = 7,
  U32 = 8,
  U64 = 9,
  F16 = 10,
  F32 = 11,
  F64 = 12,
  BF16 = 16
};

enum class ErrorCode : int32_t {
  kOk = 0,
  kInvalidArgument = 3,
  kResourceExhausted = 8,
  kInternal = 13
};

// The structs that XLA hands over or reads.
namespace abi {

struct Extension {
  size_t size;
  int32_t type;
  Extension* next;
};
constexpr int32_t kMetadata = 1, kBuffer = 1, kScalar = 3, kString = 4;

struct Version {
  size_t size;
  Extension* extensions;
  int32_t major, minor;
};

struct Metadata {
  size_t size;
  Version version;
  uint32_t traits;
  int64_t state_type;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

struct Buffer {
  size_t size;
  Extension* extensions;
  DataType type;
  void* data;
  int64_t rank;
  int64_t* extents;
};

struct Text {
  const char* data;
  size_t size;
};

struct Scalar {
  DataType type;
  void* value;
};

// Operands or results.
struct Items {
  size_t size;
  Extension* extensions;
  int64_t count;
  int32_t* types;
  void** items;
};

struct Attributes {
  size_t size;
  Extension* extensions;
  int64_t count;
  int32_t* types;
  Text** names;
  void** values;
};

struct Failure;  // an error that XLA has made
struct Context;

struct MakeFailure {
  size_t size;
  Extension* extensions;
  const char* message;
  ErrorCode code;
};

struct DestroyFailure {
  size_t size;
  Extension* extensions;
  Failure* failure;
};

struct Schedule {
  size_t size;
  Extension* extensions;
  Context* context;
  void (*task)(void*);
  void* data;
};

struct CountThreads {
  size_t size;
  Extension* extensions;
  Context* context;
  int64_t* threads;
};

struct Api {
  size_t size;
  Extension* extensions;
  Version version;
  const void* internal;
  Failure* (*make_failure)(MakeFailure*);
  void* failure_message;
  void (*destroy_failure)(DestroyFailure*);
  void* others[8];
  Failure* (*schedule)(Schedule*);
  Failure* (*count_threads)(CountThreads*);
};

struct Frame {
  size_t size;
  Extension* extensions;
  const Api* api;
  Context* context;
  int32_t stage;
  Items operands, results;
  Attributes attributes;
};

}  // namespace abi

class Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}
  static Error Success() { return {ErrorCode::kOk, ""}; }
  static Error InvalidArgument(std::string message) {
    return {ErrorCode::kInvalidArgument, std::move(message)};
  }
  bool failure() const { return code_ != ErrorCode::kOk; }
  abi::Failure* made_by(const abi::Api* api) const {
    if (!failure()) return nullptr;
    abi::MakeFailure made{sizeof(made), nullptr, message_.c_str(), code_};
    return api->make_failure(&made);
  }

 private:
  ErrorCode code_;
  std::string message_;
};

struct Extents {
  const int64_t* data;
  size_t rank;
  size_t size() const { return rank; }
  const int64_t* begin() const { return data; }
  const int64_t* end() const { return data + rank; }
  int64_t operator[](size_t n) const { return data[n]; }
};

// An array in XLA's memory.
class Buffer {
 public:
  explicit Buffer(const void* from) : from_(static_cast<const abi::Buffer*>(from)) {}
  DataType element_type() const { return from_->type; }
  Extents dimensions() const { return {from_->extents, static_cast<size_t>(from_->rank)}; }
  void* untyped_data() const { return from_->data; }
  // The number of elements, without overflow where one of the extents is 0.
  int64_t element_count() const {
    for (const int64_t extent : dimensions()) {
      if (extent == 0) return 0;
    }
    int64_t count = 1;
    for (const int64_t extent : dimensions()) count *= extent;
    return count;
  }
  size_t size_bytes() const { return element_count() * width(); }

 private:
  size_t width() const {
    switch (element_type()) {
      case F64:
      case S64:
      case U64:
        return 8;
      case F32:
      case S32:
      case U32:
        return 4;
      case F16:
      case BF16:
      case S16:
      case U16:
        return 2;
      default:
        return 1;
    }
  }
  const abi::Buffer* from_;
};

// The operands or the results of a call.
class Buffers {
 public:
  explicit Buffers(const abi::Items& from) : from_(&from) {}
  size_t size() const { return from_->count; }
  bool has(size_t n) const { return n < size() && from_->types[n] == abi::kBuffer; }
  Buffer operator[](size_t n) const { return Buffer(from_->items[n]); }

 private:
  const abi::Items* from_;
};

// Operands or results by their names, which an attribute of the call lists: "x,kernel,bias".
class Arrays {
 public:
  Arrays(const Buffers& buffers, std::string_view listed) : buffers_(buffers) {
    while (!listed.empty() && count_ < kMost) {
      const size_t end = std::min(listed.find(','), listed.size());
      names_[count_++] = listed.substr(0, end);
      listed.remove_prefix(std::min(end + 1, listed.size()));
    }
    if (!listed.empty() || count_ > buffers.size())
      throw std::invalid_argument("names of arrays: give as many as there are arrays");
  }
  const Buffers& buffers() const { return buffers_; }
  // The position of an array, or -1 where the call does not have it.
  int64_t find(std::string_view name) const {
    for (size_t n = 0; n < count_; ++n) {
      if (names_[n] == name) return n;
    }
    return -1;
  }
  bool has(std::string_view name) const {
    const int64_t n = find(name);
    return n >= 0 && buffers_.has(n);
  }
  Buffer operator[](std::string_view name) const { return buffers_[find(name)]; }

 private:
  static constexpr size_t kMost = 32;
  Buffers buffers_;
  std::string_view names_[kMost];
  size_t count_ = 0;
};

// The threads of XLA's pool.
class ThreadPool {
 public:
  ThreadPool(const abi::Api* api, abi::Context* context) : api_(api), context_(context) {}

  // Let a thread of the pool call f(), or call it here where the pool refuses.
  template <typename F>
  void Schedule(F f) const {
    const auto task = [](void* data) {
      F* const held = static_cast<F*>(data);
      (*held)();
      delete held;
    };
    abi::Schedule asked{sizeof(asked), nullptr, context_, task, new F(std::move(f))};
    if (refused(api_->schedule(&asked))) task(asked.data);
  }

  int64_t num_threads() const {
    int64_t threads = 0;
    abi::CountThreads asked{sizeof(asked), nullptr, context_, &threads};
    refused(api_->count_threads(&asked));
    return threads;
  }

 private:
  bool refused(abi::Failure* failure) const {
    if (!failure) return false;
    abi::DestroyFailure destroyed{sizeof(destroyed), nullptr, failure};
    api_->destroy_failure(&destroyed);
    return true;
  }
  const abi::Api* api_;
  abi::Context* context_;
};

struct Call {
  const char* const name;
  const abi::Attributes& attributes;
  const ThreadPool pool;
  const Buffers args, rets;

  // Return an attribute, an int64_t, bool, float, double or text.
  template <typename T>
  T attribute(const char* wanted) const {
    constexpr bool kIsText = std::is_same_v<T, std::string_view>;
    constexpr DataType kType = std::is_same_v<T, bool>      ? PRED
                               : std::is_same_v<T, int64_t> ? S64
                               : std::is_same_v<T, float>   ? F32
                                                            : F64;
    for (int64_t n = 0; n < attributes.count; ++n) {
      const abi::Text& found = *attributes.names[n];
      if (std::string_view(found.data, found.size) != wanted ||
          attributes.types[n] != (kIsText ? abi::kString : abi::kScalar))
        continue;
      if constexpr (kIsText) {
        const auto text = static_cast<const abi::Text*>(attributes.values[n]);
        return {text->data, text->size};
      } else {
        const auto scalar = static_cast<const abi::Scalar*>(attributes.values[n]);
        if (scalar->type == kType) return *static_cast<const T*>(scalar->value);
      }
    }
    throw std::invalid_argument(std::string(wanted) + ": no such attribute of its type");
  }
};

constexpr int32_t kMajor = 0, kMinor = 3;

// Answer XLA's question for the version of the interface, or call function(Call) and turn its
// exceptions into errors: none may pass through XLA. attributes: how many a call has.
template <typename Function>
abi::Failure* handle(const char* name, int64_t attributes, abi::Frame* frame,
                     const Function& function) noexcept {
  if (frame->extensions && frame->extensions->type == abi::kMetadata) {
    const abi::Version& here = frame->api->version;
    if (here.major != kMajor ||
        here.minor < kMinor) {  // an older one has no room for all of the answer
      return Error::InvalidArgument(std::string(name) +
                                    ": version of XLA's interface: too old; install a newer jaxlib")
          .made_by(frame->api);
    }
    abi::Metadata* const metadata =
        reinterpret_cast<abi::MetadataExtension*>(frame->extensions)->metadata;
    metadata->version = {sizeof(abi::Version), nullptr, kMajor, kMinor};
    metadata->traits = 0;
    metadata->state_type = 0;
    return nullptr;
  }
  const auto run = [&]() -> Error {
    const std::string subject = std::string(name) + ": ";
    const int64_t given = frame->attributes.count;
    if (given != attributes)
      return Error::InvalidArgument(subject + "attributes: " + std::to_string(given) + "; give " +
                                    std::to_string(attributes));
    try {
      return function(Call{name, frame->attributes, ThreadPool(frame->api, frame->context),
                           Buffers(frame->operands), Buffers(frame->results)});
    } catch (const std::bad_alloc&) {
      return {ErrorCode::kResourceExhausted, subject + "not enough memory for what it works with"};
    } catch (const std::invalid_argument& error) {
      return {ErrorCode::kInvalidArgument, subject + error.what()};
    } catch (const std::exception& error) {
      return {ErrorCode::kInternal, subject + error.what()};
    }
  };
  return run().made_by(frame->api);
}

}  // namespace ffi

// Define the function `name` that XLA calls, with a number of attributes; `function` takes an
// ffi::Call and returns an ffi::Error.
#define LSTM_HANDLER(name, function, attributes)               \
  extern "C" ffi::abi::Failure* name(ffi::abi::Frame* frame) { \
    return ffi::handle(#name, attributes, frame, function);    \
  }
