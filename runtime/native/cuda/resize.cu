// Resize and crop of a ragged batch on the card, in two passes. Loaded by cuda_resize.cpp under these names.
#include "resize_device.h"

namespace {

__device__ zsl::device::Index first_index() {
  return {static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x,
          static_cast<std::int64_t>(blockIdx.y) * blockDim.y + threadIdx.y, blockIdx.z};
}

__device__ zsl::device::Index all_threads() {
  return {static_cast<std::int64_t>(gridDim.x) * blockDim.x, static_cast<std::int64_t>(gridDim.y) * blockDim.y,
          gridDim.z};
}

}  // namespace

extern "C" __global__ void zsl_resample_columns(zsl::device::Batch batch) {
  zsl::device::resample_columns(batch, first_index(), all_threads());
}

extern "C" __global__ void zsl_resample_rows(zsl::device::Batch batch) {
  zsl::device::resample_rows(batch, first_index(), all_threads());
}
