// A CUDA driver that is none, for machines without a card: libcuda.so.1 with the functions that zsl_runtime calls, where
// the card's memory is ordinary memory and a launch runs the same device functions on the CPU, thread by thread, with the
// grid that was asked for. Compiled by the fixture `fake_driver` against the real cuda.h, which checks every signature.
#include <cuda.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <type_traits>

#include "driver.h"
#include "resize_device.h"
#include "topk_device.h"

namespace {

// Our declarations, written without cuda.h, pass the same number of arguments of the same sizes.
template <class Ours, class Theirs>
struct SameShape : std::false_type {};
template <class R, class... A, class S, class... B>
  requires(sizeof...(A) == sizeof...(B))
struct SameShape<R (*)(A...), S (*)(B...)>
    : std::bool_constant<sizeof(R) == sizeof(S) && ((sizeof(A) == sizeof(B)) && ...) &&
                         ((std::is_pointer_v<A> == std::is_pointer_v<B>) && ...)> {};

using D = zsl::cuda::Driver;
static_assert(SameShape<decltype(D::init), decltype(&cuInit)>::value);
static_assert(SameShape<decltype(D::get_error_string), decltype(&cuGetErrorString)>::value);
static_assert(SameShape<decltype(D::device_get), decltype(&cuDeviceGet)>::value);
static_assert(SameShape<decltype(D::primary_retain), decltype(&cuDevicePrimaryCtxRetain)>::value);
static_assert(SameShape<decltype(D::primary_release), decltype(&cuDevicePrimaryCtxRelease)>::value);
static_assert(SameShape<decltype(D::push_context), decltype(&cuCtxPushCurrent)>::value);
static_assert(SameShape<decltype(D::pop_context), decltype(&cuCtxPopCurrent)>::value);
static_assert(SameShape<decltype(D::module_load), decltype(&cuModuleLoadData)>::value);
static_assert(SameShape<decltype(D::module_unload), decltype(&cuModuleUnload)>::value);
static_assert(SameShape<decltype(D::module_function), decltype(&cuModuleGetFunction)>::value);
static_assert(SameShape<decltype(D::allocate), decltype(&cuMemAllocAsync)>::value);
static_assert(SameShape<decltype(D::release), decltype(&cuMemFreeAsync)>::value);
static_assert(SameShape<decltype(D::copy_to_device), decltype(&cuMemcpyHtoDAsync)>::value);
static_assert(SameShape<decltype(D::copy_to_host), decltype(&cuMemcpyDtoHAsync)>::value);
static_assert(SameShape<decltype(D::launch), decltype(&cuLaunchKernel)>::value);
static_assert(SameShape<decltype(D::synchronize), decltype(&cuStreamSynchronize)>::value);

namespace device = zsl::device;

constexpr std::size_t kGuard = 64;
constexpr unsigned char kFill = 0xa5;
int contexts = 0, depth = 0, modules = 0;
std::map<CUdeviceptr, std::size_t> allocations;
char context_place, module_place;

// One thread of a kernel: at `column`, `row` and `layer` of a grid of so many threads.
using Body = void (*)(const void* argument, device::Index at, device::Index step);
struct Kernel {
  const char* name;
  Body body;
};
Kernel kernels[] = {
    {"zsl_resample_columns",
     [](const void* batch, device::Index at, device::Index step) {
       device::resample_columns(*static_cast<const device::Batch*>(batch), at, step);
     }},
    {"zsl_resample_rows",
     [](const void* batch, device::Index at, device::Index step) {
       device::resample_rows(*static_cast<const device::Batch*>(batch), at, step);
     }},
    {"zsl_topk_slices",
     [](const void* job, device::Index at, device::Index step) {
       device::best_of_slices(*static_cast<const device::TopK*>(job), {at.column, at.row}, {step.column, step.row});
     }},
    {"zsl_topk_merge",
     [](const void* job, device::Index at, device::Index step) {
       device::merge_slices(*static_cast<const device::TopK*>(job), {at.column, at.row}, {step.column, step.row});
     }},
};

// $FAKE_CUDA_FAIL names a function that fails.
CUresult outcome(const char* name, CUresult failure) {
  const char* failing = std::getenv("FAKE_CUDA_FAIL");
  return failing && std::strcmp(failing, name) == 0 ? failure : CUDA_SUCCESS;
}

[[noreturn]] void misuse(const char* what) {
  std::fprintf(stderr, "misuse of the driver: %s\n", what);
  std::_Exit(86);
}

void need_context() {
  if (depth == 0) misuse("no current context");
}

}  // namespace

extern "C" {

// What is still held: contexts, pushes, modules and allocations, added up.
int fake_cuda_held() { return contexts + depth + modules + static_cast<int>(allocations.size()); }

CUresult cuInit(unsigned) { return outcome("cuInit", CUDA_ERROR_NO_DEVICE); }

CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_NO_DEVICE ? "no CUDA-capable device is detected" : "an invented failure";
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  ++contexts;
  *context = reinterpret_cast<CUcontext>(&context_place);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) {
  --contexts;
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) {
  if (context != reinterpret_cast<CUcontext>(&context_place)) misuse("another context");
  ++depth;
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext* context) {
  need_context();
  --depth;
  *context = reinterpret_cast<CUcontext>(&context_place);
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  need_context();
  std::uint32_t magic;
  std::memcpy(&magic, image, sizeof magic);
  if (magic != 0xba55ed50) misuse("the image is no fatbin");
  const CUresult result = outcome("cuModuleLoadData", CUDA_ERROR_NO_BINARY_FOR_GPU);
  modules += result == CUDA_SUCCESS;
  *module = reinterpret_cast<CUmodule>(result == CUDA_SUCCESS ? &module_place : nullptr);
  return result;
}

CUresult cuModuleUnload(CUmodule) {
  need_context();
  --modules;
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
  for (Kernel& kernel : kernels) {
    if (std::strcmp(name, kernel.name) == 0) {
      *function = reinterpret_cast<CUfunction>(&kernel);
      return CUDA_SUCCESS;
    }
  }
  return CUDA_ERROR_NOT_FOUND;
}

CUresult cuMemAllocAsync(CUdeviceptr* pointer, size_t bytes, CUstream) {
  need_context();
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = outcome("cuMemAllocAsync", CUDA_ERROR_OUT_OF_MEMORY);
  if (result != CUDA_SUCCESS) return result;
  auto* block = static_cast<unsigned char*>(std::malloc(bytes + 2 * kGuard));
  std::memset(block, kFill, bytes + 2 * kGuard);
  *pointer = reinterpret_cast<CUdeviceptr>(block + kGuard);
  allocations[*pointer] = bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream) {
  need_context();
  const auto found = allocations.find(pointer);
  if (found == allocations.end()) misuse("memory that is not there is given back");
  auto* memory = reinterpret_cast<unsigned char*>(pointer);
  for (std::size_t i = 0; i < kGuard; ++i) {
    if (memory[-1 - static_cast<std::ptrdiff_t>(i)] != kFill || memory[found->second + i] != kFill) {
      misuse("something was written beside the memory");
    }
  }
  std::free(memory - kGuard);
  allocations.erase(found);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream) {
  need_context();
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream) {
  need_context();
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream, void** arguments, void** extra) {
  need_context();
  if (grid_x * grid_y * grid_z == 0 || grid_y > 65535 || grid_z > 65535 || block_x * block_y > 1024 || block_z != 1) {
    misuse("a grid that no card takes");
  }
  if (shared != 0 || extra != nullptr) misuse("other launch arguments");
  const CUresult result = outcome("cuLaunchKernel", CUDA_ERROR_LAUNCH_FAILED);
  if (result != CUDA_SUCCESS) return result;
  const Body body = reinterpret_cast<const Kernel*>(function)->body;
  const device::Index step{std::int64_t{grid_x} * block_x, std::int64_t{grid_y} * block_y, grid_z};
  // Backwards: nothing may depend on the order in which threads run.
  for (std::int64_t z = step.picture; z-- > 0;) {
    for (std::int64_t y = step.row; y-- > 0;) {
      for (std::int64_t x = step.column; x-- > 0;) {
        body(arguments[0], {x, y, z}, step);
      }
    }
  }
  return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream) {
  need_context();
  return CUDA_SUCCESS;
}

}  // extern "C"
