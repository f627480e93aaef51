// Compared by the compiler: the layouts of ffi.h and of jaxlib's header.

#include <cstddef>

#include "lstm_jax/native/ffi.h"
#include "xla/ffi/api/c_api.h"

#define SAME(ours, our_field, theirs, their_field)                          \
  static_assert(offsetof(ours, our_field) == offsetof(theirs, their_field), \
                #ours "::" #our_field);                                     \
  static_assert(sizeof(ours::our_field) == sizeof(theirs::their_field),     \
                #ours "::" #our_field " size");

namespace abi = ffi::abi;

static_assert(XLA_FFI_API_MAJOR == 0 && XLA_FFI_API_MINOR >= 3);
SAME(abi::Extension, type, XLA_FFI_Extension_Base, type)
SAME(abi::Extension, next, XLA_FFI_Extension_Base, next)
SAME(abi::Version, major, XLA_FFI_Api_Version, major_version)
SAME(abi::Version, minor, XLA_FFI_Api_Version, minor_version)
SAME(abi::Metadata, version, XLA_FFI_Metadata, api_version)
SAME(abi::Metadata, traits, XLA_FFI_Metadata, traits)
SAME(abi::Metadata, state_type, XLA_FFI_Metadata, state_type_id)
SAME(abi::MetadataExtension, metadata, XLA_FFI_Metadata_Extension, metadata)
SAME(abi::Buffer, type, XLA_FFI_Buffer, dtype)
SAME(abi::Buffer, data, XLA_FFI_Buffer, data)
SAME(abi::Buffer, rank, XLA_FFI_Buffer, rank)
SAME(abi::Buffer, extents, XLA_FFI_Buffer, dims)
SAME(abi::Text, data, XLA_FFI_ByteSpan, ptr)
SAME(abi::Text, size, XLA_FFI_ByteSpan, len)
SAME(abi::Scalar, type, XLA_FFI_Scalar, dtype)
SAME(abi::Scalar, value, XLA_FFI_Scalar, value)
SAME(abi::Items, count, XLA_FFI_Args, size)
SAME(abi::Items, types, XLA_FFI_Args, types)
SAME(abi::Items, items, XLA_FFI_Args, args)
SAME(abi::Items, count, XLA_FFI_Rets, size)
SAME(abi::Items, types, XLA_FFI_Rets, types)
SAME(abi::Items, items, XLA_FFI_Rets, rets)
SAME(abi::Attributes, count, XLA_FFI_Attrs, size)
SAME(abi::Attributes, types, XLA_FFI_Attrs, types)
SAME(abi::Attributes, names, XLA_FFI_Attrs, names)
SAME(abi::Attributes, values, XLA_FFI_Attrs, attrs)
SAME(abi::MakeFailure, message, XLA_FFI_Error_Create_Args, message)
SAME(abi::MakeFailure, code, XLA_FFI_Error_Create_Args, errc)
SAME(abi::DestroyFailure, failure, XLA_FFI_Error_Destroy_Args, error)
SAME(abi::Schedule, context, XLA_FFI_ThreadPool_Schedule_Args, ctx)
SAME(abi::Schedule, task, XLA_FFI_ThreadPool_Schedule_Args, task)
SAME(abi::Schedule, data, XLA_FFI_ThreadPool_Schedule_Args, data)
SAME(abi::CountThreads, context, XLA_FFI_ThreadPool_NumThreads_Args, ctx)
SAME(abi::CountThreads, threads, XLA_FFI_ThreadPool_NumThreads_Args, num_threads)
SAME(abi::Api, version, XLA_FFI_Api, api_version)
SAME(abi::Api, make_failure, XLA_FFI_Api, XLA_FFI_Error_Create)
SAME(abi::Api, destroy_failure, XLA_FFI_Api, XLA_FFI_Error_Destroy)
SAME(abi::Api, schedule, XLA_FFI_Api, XLA_FFI_ThreadPool_Schedule)
SAME(abi::Api, count_threads, XLA_FFI_Api, XLA_FFI_ThreadPool_NumThreads)
SAME(abi::Frame, extensions, XLA_FFI_CallFrame, extension_start)
SAME(abi::Frame, api, XLA_FFI_CallFrame, api)
SAME(abi::Frame, context, XLA_FFI_CallFrame, ctx)
SAME(abi::Frame, operands, XLA_FFI_CallFrame, args)
SAME(abi::Frame, results, XLA_FFI_CallFrame, rets)
SAME(abi::Frame, attributes, XLA_FFI_CallFrame, attrs)

#define SAME_NUMBER(ours, theirs) \
  static_assert(static_cast<int>(ours) == static_cast<int>(theirs), #ours);
SAME_NUMBER(abi::kMetadata, XLA_FFI_Extension_Metadata)
SAME_NUMBER(abi::kBuffer, XLA_FFI_ArgType_BUFFER)
SAME_NUMBER(abi::kBuffer, XLA_FFI_RetType_BUFFER)
SAME_NUMBER(abi::kScalar, XLA_FFI_AttrType_SCALAR)
SAME_NUMBER(abi::kString, XLA_FFI_AttrType_STRING)
SAME_NUMBER(ffi::ErrorCode::kOk, XLA_FFI_Error_Code_OK)
SAME_NUMBER(ffi::ErrorCode::kInvalidArgument, XLA_FFI_Error_Code_INVALID_ARGUMENT)
SAME_NUMBER(ffi::ErrorCode::kResourceExhausted, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED)
SAME_NUMBER(ffi::ErrorCode::kInternal, XLA_FFI_Error_Code_INTERNAL)
#define SAME_TYPE(name) SAME_NUMBER(ffi::name, XLA_FFI_DataType_##name)
SAME_TYPE(PRED)
SAME_TYPE(S8)
SAME_TYPE(S16)
SAME_TYPE(S32)
SAME_TYPE(S64)
SAME_TYPE(U8)
SAME_TYPE(U16)
SAME_TYPE(U32)
SAME_TYPE(U64)
SAME_TYPE(F16)
SAME_TYPE(BF16)
SAME_TYPE(F32)
SAME_TYPE(F64)
