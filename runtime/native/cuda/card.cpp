#include "card.h"

#include <algorithm>

namespace zsl::cuda {

Card::Card(int device) {
  if (kernel_image().empty()) {
    throw CudaError("no kernels: nvcc was not found when zsl-deploy was built");
  }
  require(driver().init(0), "start the NVIDIA driver");
  require(driver().device_get(&device_, device), "find the card");
  require(driver().primary_retain(&context_, device_), "use the card");
  try {
    const Current current(*this);
    require(driver().module_load(&module_, kernel_image().data()), "load the kernels");
  } catch (...) {
    release();
    throw;
  }
}

Card::~Card() { release(); }

void Card::release() noexcept {
  if (module_ && driver().push_context(context_) == 0) {
    driver().module_unload(module_);
    Context gone;
    driver().pop_context(&gone);
  }
  driver().primary_release(device_);
}

Function Card::function(const char* name) const {
  Function found = nullptr;
  require(driver().module_function(&found, module_, name), "find a kernel");
  return found;
}

Current::Current(const Card& card) { require(driver().push_context(card.context()), "use the card"); }

Current::~Current() {
  Context gone;
  driver().pop_context(&gone);
}

Memory::Memory(std::size_t bytes, Stream stream) : stream_(stream) {
  require(driver().allocate(&address_, bytes, stream), "reserve memory on the card");
}

Memory::~Memory() { driver().release(address_, stream_); }

unsigned blocks(std::size_t things, unsigned in_a_block) {
  constexpr std::size_t kMost = 65535;  // of a grid, in y and in z
  return static_cast<unsigned>(std::clamp<std::size_t>((things + in_a_block - 1) / in_a_block, 1, kMost));
}

}  // namespace zsl::cuda
