// A card with our kernels in its primary context (the one that PyTorch, ONNX Runtime and TensorRT use, too), through the
// driver alone: libcuda is opened when the first Card is made, and nothing of CUDA is linked.
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <vector>

#include "driver.h"

namespace zsl {

// No driver, no such card, or a call of the driver failed; what() says which.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The compiled kernels (a fatbin); empty where nvcc was not there at build time.
std::span<const unsigned char> kernel_image();

namespace cuda {

class Card {
 public:
  // `device` as the driver counts. Throws CudaError.
  explicit Card(int device);
  ~Card();
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;

  Function function(const char* name) const;  // of our kernels; throws CudaError
  Context context() const { return context_; }

 private:
  void release() noexcept;

  Device device_ = 0;
  Context context_ = nullptr;
  Module module_ = nullptr;
};

// Makes a card's context that of this thread, for as long as it lives.
class Current {
 public:
  explicit Current(const Card& card);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
};

// Memory on the card, given back in the order of the stream: after everything that was queued before.
class Memory {
 public:
  Memory(std::size_t bytes, Stream stream);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Pointer address() const { return address_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(address_);
  }

 private:
  Pointer address_ = 0;
  Stream stream_;
};

// How many blocks of `in_a_block` threads for `things`; the kernels loop where a grid cannot be as large.
unsigned blocks(std::size_t things, unsigned in_a_block);

}  // namespace cuda
}  // namespace zsl
