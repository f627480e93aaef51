// The compiled functions called through a small stand-in for XLA, with threads of its own, several
// calls at once: for ThreadSanitizer, which Python and XLA do not run under. It prints what differs
// between one thread and several, and what an allocation that fails leaves behind. Calls of few
// rows, whose threads meet after each step, also run while the pool's threads are late or do not
// come at all, and while its queue is full.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "xla/ffi/api/c_api.h"

extern "C" {
XLA_FFI_Error* lstm_jax_forward(XLA_FFI_CallFrame*);
XLA_FFI_Error* lstm_jax_backward(XLA_FFI_CallFrame*);
XLA_FFI_Error* lstm_jax_linear_forward(XLA_FFI_CallFrame*);
XLA_FFI_Error* lstm_jax_linear_backward(XLA_FFI_CallFrame*);
XLA_FFI_Error* lstm_jax_adam_catch_up(XLA_FFI_CallFrame*);
XLA_FFI_Error* lstm_jax_adam_rows(XLA_FFI_CallFrame*);
XLA_FFI_Error* lstm_jax_mask(XLA_FFI_CallFrame*);
int lstm_jax_has_products(int64_t);

// Linked with -Wl,--wrap=aligned_alloc: null once `allocations` are spent; at `kNoLimit` there is
// no limit.
constexpr int64_t kNoLimit = -1000000;
std::atomic<int64_t> allocations{kNoLimit};
void* __real_aligned_alloc(size_t, size_t);
void* __wrap_aligned_alloc(size_t alignment, size_t bytes) {
  if (allocations > kNoLimit && allocations-- <= 0) return nullptr;
  return __real_aligned_alloc(alignment, bytes);
}
}

struct XLA_FFI_Error {
  std::string message;
  XLA_FFI_Error_Code code;
};

namespace {

class Pool {
 public:
  explicit Pool(int threads) {
    for (int n = 0; n < threads; ++n) workers.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      ending = true;
    }
    changed.notify_all();
    for (std::thread& worker : workers) worker.join();
  }
  void schedule(XLA_FFI_Task* task, void* data) {
    if (full) return task(data);
    {
      std::lock_guard<std::mutex> lock(mutex);
      tasks.emplace_back(task, data);
    }
    changed.notify_one();
  }
  int64_t size() const { return workers.size(); }
  std::atomic<bool> late{
      false};  // whether tasks start up to half a millisecond after they are taken
  std::atomic<bool> full{false};  // whether tasks run at once on the thread that schedules them, as
                                  // in XLA where its queue is full

 private:
  std::atomic<int64_t> tasks_late{0};
  void work() {
    for (std::unique_lock<std::mutex> lock(mutex);;) {
      changed.wait(lock, [this] { return ending || !tasks.empty(); });
      if (tasks.empty()) return;
      const auto [task, data] = tasks.front();
      tasks.pop_front();
      lock.unlock();
      if (late) std::this_thread::sleep_for(std::chrono::microseconds(tasks_late++ * 37 % 500));
      task(data);
      lock.lock();
    }
  }
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::pair<XLA_FFI_Task*, void*>> tasks;
  std::vector<std::thread> workers;
  bool ending = false;
};

Pool* pool;

const XLA_FFI_Api* api() {
  static const XLA_FFI_Api made = [] {
    XLA_FFI_Api api{};
    api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
    api.XLA_FFI_Error_Create = [](XLA_FFI_Error_Create_Args* args) {
      return new XLA_FFI_Error{args->message, args->errc};
    };
    api.XLA_FFI_Error_GetMessage = [](XLA_FFI_Error_GetMessage_Args* args) {
      args->message = args->error->message.c_str();
    };
    api.XLA_FFI_Error_Destroy = [](XLA_FFI_Error_Destroy_Args* args) { delete args->error; };
    api.XLA_FFI_ThreadPool_Schedule = [](XLA_FFI_ThreadPool_Schedule_Args* args) -> XLA_FFI_Error* {
      pool->schedule(args->task, args->data);
      return nullptr;
    };
    api.XLA_FFI_ThreadPool_NumThreads =
        [](XLA_FFI_ThreadPool_NumThreads_Args* args) -> XLA_FFI_Error* {
      *args->num_threads = pool->size();
      return nullptr;
    };
    return api;
  }();
  return &made;
}

struct Array {
  XLA_FFI_DataType type;
  std::vector<int64_t> extents;
  std::vector<char> data;

  Array(XLA_FFI_DataType type, std::vector<int64_t> extents, size_t width)
      : type(type), extents(extents) {
    size_t count = 1;
    for (const int64_t extent : extents) count *= extent;
    data.resize(count * width);
  }
  size_t count(size_t width) const { return data.size() / width; }
};

std::mt19937 random_numbers(0);

Array floats(std::vector<int64_t> extents, float least = -0.5f) {
  Array array(XLA_FFI_DataType_F32, extents, sizeof(float));
  std::uniform_real_distribution<float> draw(least, 0.5f);
  float* const to = reinterpret_cast<float*>(array.data.data());
  std::generate(to, to + array.count(sizeof(float)), [&] { return draw(random_numbers); });
  return array;
}

Array ints(std::vector<int64_t> extents, int32_t below,
           XLA_FFI_DataType type = XLA_FFI_DataType_S32) {
  Array array(type, extents, sizeof(int32_t));
  int32_t* const to = reinterpret_cast<int32_t*>(array.data.data());
  std::generate(to, to + array.count(sizeof(int32_t)),
                [&] { return static_cast<int32_t>(random_numbers() % below); });
  return array;
}

Array bools(std::vector<int64_t> extents) {
  Array array(XLA_FFI_DataType_PRED, extents, 1);
  for (char& value : array.data) value = random_numbers() % 2;
  return array;
}

using Arrays = std::vector<Array>;
using Attributes =
    std::map<std::string, std::variant<bool, int64_t, double, float,
                                       std::string>>;  // sorted by name, as XLA has them

// The error's text, empty if there is none.
std::string call(XLA_FFI_Error* (*function)(XLA_FFI_CallFrame*), Arrays& operands, Arrays& results,
                 Attributes attributes) {
  const auto buffers = [](Arrays& arrays) {
    std::vector<XLA_FFI_Buffer> made;
    for (Array& array : arrays) {
      made.push_back({XLA_FFI_Buffer_STRUCT_SIZE, nullptr, array.type, array.data.data(),
                      int64_t(array.extents.size()), array.extents.data()});
    }
    return made;
  };
  std::vector<XLA_FFI_Buffer> in = buffers(operands), out = buffers(results);
  std::vector<void*> in_at, out_at, values;
  for (XLA_FFI_Buffer& buffer : in) in_at.push_back(&buffer);
  for (XLA_FFI_Buffer& buffer : out) out_at.push_back(&buffer);
  std::vector<XLA_FFI_ArgType> in_types(in.size(), XLA_FFI_ArgType_BUFFER);
  std::vector<XLA_FFI_RetType> out_types(out.size(), XLA_FFI_RetType_BUFFER);
  std::vector<XLA_FFI_AttrType> types;
  std::deque<XLA_FFI_ByteSpan> names, texts;
  std::deque<XLA_FFI_Scalar> scalars;
  std::vector<XLA_FFI_ByteSpan*> names_at;
  constexpr XLA_FFI_DataType kTypes[] = {XLA_FFI_DataType_PRED, XLA_FFI_DataType_S64,
                                         XLA_FFI_DataType_F64, XLA_FFI_DataType_F32};
  for (auto& [name, value] : attributes) {
    names.push_back({name.data(), name.size()});
    names_at.push_back(&names.back());
    if (const auto text = std::get_if<std::string>(&value)) {
      texts.push_back({text->data(), text->size()});
      types.push_back(XLA_FFI_AttrType_STRING);
      values.push_back(&texts.back());
      continue;
    }
    scalars.push_back({kTypes[value.index()],
                       std::visit([](auto& held) { return static_cast<void*>(&held); }, value)});
    types.push_back(XLA_FFI_AttrType_SCALAR);
    values.push_back(&scalars.back());
  }
  XLA_FFI_CallFrame frame{};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = api();
  frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, int64_t(in.size()), in_types.data(),
                in_at.data()};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, int64_t(out.size()), out_types.data(),
                out_at.data()};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr,      int64_t(values.size()), types.data(),
                 names_at.data(),           values.data()};
  XLA_FFI_Error* const error = function(&frame);
  const std::string message = error ? error->message : "";
  delete error;
  return message;
}

struct Case {
  const char* name;
  XLA_FFI_Error* (*function)(XLA_FFI_CallFrame*);
  Arrays operands, results;
  Attributes attributes;
  bool exact;  // whether threads change no bit of it
};

constexpr int64_t kFew = 3;  // kMostFewRows of common.h

std::vector<Case> cases(int64_t T, int64_t B, int64_t E, int64_t H) {
  const Arrays kernels = {floats({E, 4 * H}), floats({H, 4 * H})},
               state = {floats({B, H}), floats({B, H})};
  const Array x = floats({T, B, E}), valid = bools({T, B}), tokens = ints({T, B}, 3),
              bias = floats({4 * H});
  const Arrays last = {floats({4, B, E}), floats({4, B, H}), valid,         tokens,
                       bools({T, B}),     floats({B, H}),    floats({B, H})};
  const Arrays all_steps = {floats({T, B, 4 * H}), floats({T + 1, B, H}), floats({T + 1, B, H})};
  const auto all = [](std::vector<Arrays> parts) {
    Arrays whole;
    for (Arrays& part : parts) whole.insert(whole.end(), part.begin(), part.end());
    return whole;
  };
  const Attributes common = {
      {"cell", int64_t{0}}, {"batch_first", false}, {"products", int64_t{0}}};
  const auto with = [](Attributes attributes, const char* name, auto value) {
    attributes[name] = value;
    return attributes;
  };
  const auto named = [](Attributes attributes, std::string operands, std::string results) {
    attributes["operands"] = operands;
    attributes["results"] = results;
    return attributes;
  };
  const std::string masks = "input mask,recurrent mask,", few_steps = "valid,resets,h of resets",
                    steps = "valid,tokens,resets,h of resets", c = ",c of resets",
                    final = "final h,final c,h of all steps", kept = ",c of all steps,kept",
                    first = "x,kernel,recurrent kernel,",
                    before =
                        "kept,h of all steps,c of all steps,d of final h,d of final c,"
                        "d of outputs,",
                    gradients =
                        "d of h,d of c,d of kernel,d of recurrent kernel,d of bias,d of x,"
                        "d of h of resets,d of c of resets";
  const auto forward_of = [&](Attributes attributes, bool tokens, bool keep) {
    return named(attributes, first + "bias,h,c," + masks + (tokens ? steps : few_steps) + c,
                 final + (keep ? kept : ""));
  };
  const auto backward_of = [&](Attributes attributes, bool tokens) {
    return named(attributes, first + before + masks + (tokens ? steps : few_steps) + c, gradients);
  };
  // the GRU, without masks: three gates, a second bias, no c
  const Arrays gru = {floats({E, 3 * H}), floats({H, 3 * H}), floats({3 * H}), floats({3 * H})},
               gru_last = {valid, tokens, last[4], last[5]};
  const Attributes gru_cell = with(common, "cell", int64_t{1});
  const auto gru_forward = [&](bool tokens) {
    return named(gru_cell, first + "bias,extras,h," + (tokens ? steps : few_steps),
                 "final h,h of all steps,kept");
  };
  const auto gru_backward = [&](bool tokens) {
    return named(gru_cell,
                 first + "extras,kept,h of all steps,d of final h,d of outputs," +
                     (tokens ? steps : few_steps),
                 "d of h,d of kernel,d of recurrent kernel,d of bias,d of extras,d of x,"
                 "d of h of resets");
  };
  // minGRU, which has no U, with x, the outputs and their gradient (B, T, ...) where there are
  // enough rows
  const bool batch_first = B > 3;
  const Arrays minimal = {floats({E, 2 * H}), floats({2 * H}), floats({T, B, 2 * H}),
                          batch_first ? floats({B, T, E}) : x,
                          batch_first ? floats({B, T, H}) : floats({T, B, H})};
  const Arrays minimal_outputs = batch_first ? Arrays{minimal[4]} : Arrays{};
  const Attributes minimal_cell =
      with(with(common, "cell", int64_t{13}), "batch_first", batch_first);
  const Attributes minimal_forward =
      named(minimal_cell, "x,kernel,bias,h," + steps,
            std::string("final h,h of all steps,kept") + (batch_first ? ",outputs" : ""));
  const Attributes minimal_backward =
      named(minimal_cell, "x,kernel,kept,h of all steps,d of final h,d of outputs," + steps,
            "d of h,d of kernel,d of bias,d of x,d of h of resets");
  // without tokens, few rows take few_forward.h and few_backward.h
  const Arrays few_last = {last[0], last[1], last[2], last[4], last[5], last[6]},
               few_gru_last = {valid, last[4], last[5]};
  const Attributes narrow = with(common, "products", int64_t{lstm_jax_has_products(1)}),
                   int8 = with(common, "products", int64_t{lstm_jax_has_products(2) ? 2 : 0});
  // steps long enough for several threads
  const Array a = floats({T, 64 * B, H + 100}), start = floats({64 * B, H + 100}),
              flags = bools({T, 64 * B});
  const Attributes linear = {
      {"complex", false}, {"constant", false}, {"resets", true}, {"batch_first", false}};
  // complex numbers with the same a at all steps, (B, T, ...)
  const int64_t width = 2 * (H + 100);
  const Array factors = floats({width}), turned = floats({64 * B, T, width}),
              turned_start = floats({64 * B, width}), turned_flags = bools({64 * B, T});
  const Attributes turning = {
      {"complex", true}, {"constant", true}, {"resets", true}, {"batch_first", true}};
  const Attributes rates = {{"b1", 0.9}, {"b2", 0.999}};
  const Arrays moments = {floats({B * H, E}), floats({B * H, E}, 0.0f)};
  const Arrays table = all({{floats({B * H, E})},
                            moments,
                            {ints({B * H}, 3), floats({4}), floats({4}), Array(ints({}, 1))}});
  Arrays late = table, table_results = {table[0], table[1], table[2], table[3]};
  reinterpret_cast<int32_t&>(late[6].data[0]) = 3;
  const Array ids = ints({3 * B}, B * H);
  return {
      {"forward", lstm_jax_forward, all({{x}, kernels, {bias}, state, last}),
       all({state, {all_steps[1], all_steps[2], all_steps[0]}}), forward_of(common, true, true),
       true},
      {"backward", lstm_jax_backward,
       all({{x}, kernels, all_steps, state, {floats({T, B, H})}, last}),
       all({state, kernels, {bias, x}, state}), backward_of(common, true), false},
      {"forward, GRU",
       lstm_jax_forward,
       all({{x}, gru, {state[0]}, gru_last}),
       {state[0], all_steps[1], all_steps[0]},
       gru_forward(true),
       true},
      {"backward, GRU",
       lstm_jax_backward,
       all({{x, gru[0], gru[1], gru[3], all_steps[0], all_steps[1], state[0], floats({T, B, H})},
            gru_last}),
       {state[0], gru[0], gru[1], gru[2], gru[3], x, state[0]},
       gru_backward(true),
       false},
      {"forward, minGRU", lstm_jax_forward,
       all({{minimal[3], minimal[0], minimal[1], state[0]}, gru_last}),
       all({{state[0], all_steps[1], minimal[2]}, minimal_outputs}), minimal_forward, true},
      {"backward, minGRU",
       lstm_jax_backward,
       all({{minimal[3], minimal[0], minimal[2], all_steps[1], state[0], minimal[4]}, gru_last}),
       {state[0], minimal[0], minimal[1], minimal[3], state[0]},
       minimal_backward,
       false},
      {"forward, bfloat16", lstm_jax_forward, all({{x}, kernels, {bias}, state, last}),
       all({state, {all_steps[1], all_steps[2], all_steps[0]}}), forward_of(narrow, true, true),
       true},
      {"backward, bfloat16", lstm_jax_backward,
       all({{x}, kernels, all_steps, state, {floats({T, B, H})}, last}),
       all({state, kernels, {bias, x}, state}), backward_of(narrow, true), false},
      {"forward, int8", lstm_jax_forward, all({{x}, kernels, {bias}, state, last}),
       all({state, {all_steps[1]}}), forward_of(int8, true, false), true},
      {"forward, int8, no tokens", lstm_jax_forward, all({{x}, kernels, {bias}, state, few_last}),
       all({state, {all_steps[1]}}), forward_of(int8, false, false), true},
      {"forward, no tokens", lstm_jax_forward, all({{x}, kernels, {bias}, state, few_last}),
       all({state, {all_steps[1], all_steps[2], all_steps[0]}}), forward_of(common, false, true),
       true},
      {"backward, no tokens", lstm_jax_backward,
       all({{x}, kernels, all_steps, state, {floats({T, B, H})}, few_last}),
       all({state, kernels, {bias, x}, state}), backward_of(common, false), B <= kFew},
      {"forward, GRU, no tokens",
       lstm_jax_forward,
       all({{x}, gru, {state[0]}, few_gru_last}),
       {state[0], all_steps[1], all_steps[0]},
       gru_forward(false),
       true},
      {"backward, GRU, no tokens",
       lstm_jax_backward,
       all({{x, gru[0], gru[1], gru[3], all_steps[0], all_steps[1], state[0], floats({T, B, H})},
            few_gru_last}),
       {state[0], gru[0], gru[1], gru[2], gru[3], x, state[0]},
       gru_backward(false),
       B <= kFew},
      {"linear forward", lstm_jax_linear_forward, {a, a, start, flags}, {a}, linear, true},
      {"linear backward",
       lstm_jax_linear_backward,
       {a, start, a, a, flags},
       {a, a, start},
       linear,
       true},
      {"linear forward, complex",
       lstm_jax_linear_forward,
       {factors, turned, turned_start, turned_flags},
       {turned},
       turning,
       true},
      {"linear backward, complex",
       lstm_jax_linear_backward,
       {factors, turned_start, turned, turned, turned_flags},
       {turned_start, turned, turned_start},
       turning,
       true},
      {"catch up", lstm_jax_adam_catch_up, late, table_results, rates, true},
      {"catch up rows", lstm_jax_adam_catch_up, all({late, {ids}}), table_results, rates, true},
      {"rows", lstm_jax_adam_rows, all({late, {ids, floats({3 * B, E})}}), table_results, rates,
       true},
      {"mask",
       lstm_jax_mask,
       {ints({2}, 99, XLA_FFI_DataType_U32)},
       {floats({3, 70001})},
       {{"keep", 0.5f}, {"scale", 2.0f}},
       true},
  };
}

std::atomic<int> faults{0};

void fault(const std::string& text) {
  ++faults;
  std::printf("%s\n", text.c_str());
}

void run(Case one, const Arrays& wanted, int64_t threads) {
  one.attributes["threads"] = threads;
  const std::string error = call(one.function, one.operands, one.results, one.attributes);
  if (!error.empty()) return fault(std::string(one.name) + ": " + error);
  for (size_t n = 0; one.exact && n < wanted.size(); ++n) {
    if (one.results[n].data != wanted[n].data)
      fault(std::string(one.name) + ": result " + std::to_string(n) + " differs with threads");
  }
}

// Run a case while none of the pool's threads is free, and let them come once it has ended.
void run_without_pool(const Case& one, const Arrays& wanted) {
  std::atomic<bool> ended{false};
  std::atomic<int64_t> asleep{0};
  std::pair<std::atomic<bool>*, std::atomic<int64_t>*> shared{&ended, &asleep};
  for (int64_t n = 0; n < pool->size(); ++n) {
    const auto sleep = [](void* data) {
      const auto& [end, count] = *static_cast<decltype(shared)*>(data);
      for (++*count; !*end;) std::this_thread::sleep_for(std::chrono::microseconds(100));
      --*count;
    };
    pool->schedule(sleep, &shared);
  }
  while (asleep < pool->size()) std::this_thread::yield();
  run(one, wanted, 3);
  ended = true;
  while (asleep > 0) std::this_thread::yield();
}

// Calls with 0, 1, 2, ... allocations that succeed, until one needs no more.
void run_out_of_memory(Case one) {
  one.attributes["threads"] = int64_t{3};
  for (int64_t allowed = 0;; ++allowed) {
    allocations = allowed;
    const std::string error = call(one.function, one.operands, one.results, one.attributes);
    allocations = kNoLimit;
    if (error.empty()) {
      const bool allocates = one.function == lstm_jax_forward || one.function == lstm_jax_backward;
      if (allocates != (allowed > 0))
        fault(std::string(one.name) + ": allocations are not counted");
      break;
    }
    if (error.find("not enough memory") == std::string::npos)
      fault(std::string(one.name) + ": " + error);
    if (allowed > 10000) return fault(std::string(one.name) + ": never enough");
  }
}

}  // namespace

int main() {
  Pool threads(3);
  pool = &threads;
  constexpr int64_t kSizes[][4] = {{7, 1, 5, 22},   {9, 3, 70, 4},   {5, 26, 3, 22},
                                   {2, 70, 9, 17},  {3, 5, 8, 140},  {70, 1, 9, 140},
                                   {9, 3, 40, 190}, {3, 5, 530, 521}};
  for (const auto& [T, B, E, H] : kSizes) {
    for (const Case& one : cases(T, B, E, H)) {
      Case alone = one;
      alone.attributes["threads"] = int64_t{1};
      const std::string error =
          call(alone.function, alone.operands, alone.results, alone.attributes);
      if (!error.empty()) fault(std::string(one.name) + ": " + error);
      std::vector<std::thread> callers;
      for (int64_t caller = 0; caller < 3; ++caller) {
        callers.emplace_back([&, caller] {
          for (int64_t turn = 0; turn < 4; ++turn) run(one, alone.results, 1 + (caller + turn) % 4);
        });
      }
      for (std::thread& caller : callers) caller.join();
      run_without_pool(one, alone.results);
      pool->late = true;
      for (int64_t turn = 0; turn < 6; ++turn) run(one, alone.results, 3);
      pool->late = false;
      pool->full = true;
      for (int64_t turn = 0; turn < 3; ++turn) run(one, alone.results, 3);
      pool->full = false;
      run_out_of_memory(one);
      run(one, alone.results, 3);
    }
  }
  std::printf("%d faults\n", faults.load());
  return faults != 0;
}
