// The few functions of the CUDA driver API that we call, found in libcuda when first needed.
// Types and names as in cuda.h, which need not be there; tests/support/fake_cuda.cpp checks them against it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace zsl::cuda {

using Result = int;  // CUresult; 0 is success
using Device = int;
using Context = void*;
using Module = void*;
using Function = void*;
using Stream = void*;
using Pointer = unsigned long long;  // CUdeviceptr

struct Driver {
  Result (*init)(unsigned flags);
  Result (*get_error_string)(Result, const char** text);
  Result (*device_get)(Device*, int ordinal);
  Result (*primary_retain)(Context*, Device);
  Result (*primary_release)(Device);
  Result (*push_context)(Context);
  Result (*pop_context)(Context*);
  Result (*module_load)(Module*, const void* image);
  Result (*module_unload)(Module);
  Result (*module_function)(Function*, Module, const char* name);
  Result (*allocate)(Pointer*, std::size_t bytes, Stream);
  Result (*release)(Pointer, Stream);
  Result (*copy_to_device)(Pointer, const void* from, std::size_t bytes, Stream);
  Result (*copy_to_host)(void* to, Pointer, std::size_t bytes, Stream);
  Result (*launch)(Function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared_bytes, Stream, void** arguments, void** extra);
  Result (*synchronize)(Stream);
};

// Opened once for the whole process. Throws CudaError when there is no driver, or one that lacks a function (older than
// CUDA 11.2).
const Driver& driver();

// Throws CudaError with the driver's own words unless `result` is 0. `doing` completes "could not ...".
void require(Result result, const char* doing);

}  // namespace zsl::cuda
