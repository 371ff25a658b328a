#include "driver.h"

#include <string>

#include "card.h"

#ifdef __linux__
#include <dlfcn.h>
#endif

namespace zsl::cuda {
namespace {

#ifdef __linux__
void* library() {
  void* handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    throw CudaError("no NVIDIA driver: libcuda.so.1 cannot be loaded");
  }
  return handle;
}

template <class Pointer>
void find(void* handle, const char* name, Pointer& function) {
  function = reinterpret_cast<Pointer>(dlsym(handle, name));
  if (!function) {
    throw CudaError(std::string("the NVIDIA driver is too old: it has no ") + name);
  }
}

Driver load() {
  void* handle = library();  // never closed: other libraries of this process use the driver, too
  Driver d{};
  find(handle, "cuInit", d.init);
  find(handle, "cuGetErrorString", d.get_error_string);
  find(handle, "cuDeviceGet", d.device_get);
  find(handle, "cuDevicePrimaryCtxRetain", d.primary_retain);
  find(handle, "cuDevicePrimaryCtxRelease_v2", d.primary_release);
  find(handle, "cuCtxPushCurrent_v2", d.push_context);
  find(handle, "cuCtxPopCurrent_v2", d.pop_context);
  find(handle, "cuModuleLoadData", d.module_load);
  find(handle, "cuModuleUnload", d.module_unload);
  find(handle, "cuModuleGetFunction", d.module_function);
  find(handle, "cuMemAllocAsync", d.allocate);
  find(handle, "cuMemFreeAsync", d.release);
  find(handle, "cuMemcpyHtoDAsync_v2", d.copy_to_device);
  find(handle, "cuMemcpyDtoHAsync_v2", d.copy_to_host);
  find(handle, "cuLaunchKernel", d.launch);
  find(handle, "cuStreamSynchronize", d.synchronize);
  return d;
}
#else
Driver load() { throw CudaError("resizing on a card is built for Linux only"); }
#endif

}  // namespace

const Driver& driver() {
  static const Driver loaded = load();
  return loaded;
}

void require(Result result, const char* doing) {
  if (result == 0) {
    return;
  }
  const char* text = nullptr;
  driver().get_error_string(result, &text);
  throw CudaError(std::string("could not ") + doing + ": " + (text ? text : "unknown error") + " (CUDA error " +
                  std::to_string(result) + ")");
}

}  // namespace zsl::cuda
