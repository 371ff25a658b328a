// Resize and crop on an NVIDIA card. Without nvcc at build time there are no kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "card.h"
#include "zsl/resize.h"

namespace zsl {

// Calls may come from several threads.
class CudaResizer {
 public:
  // `device` as the driver counts. Throws CudaError.
  explicit CudaResizer(int device);
  ~CudaResizer();
  CudaResizer(const CudaResizer&) = delete;
  CudaResizer& operator=(const CudaResizer&) = delete;

  // Decoded pictures on the card (Picture::pixels is the card's address) to squares at `out`, on the card:
  // (pictures.size(), crop, crop, 3). Queued on `stream` (a CUstream, 0 for the default one) and not waited for.
  // Throws CudaError, and std::invalid_argument as `square_axes`.
  void resize_crop_batch(const std::vector<Picture>& pictures, std::size_t resize, std::size_t crop,
                         std::uint64_t out, std::uint64_t stream);

  // The same from and to ordinary memory: copies there and back, and waits.
  void resize_crop_batch_copied(const std::vector<Picture>& pictures, std::size_t resize, std::size_t crop,
                                std::uint8_t* out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace zsl
