// The kernels: what every thread does is in the headers. Found under these names by card.cpp's `function`.
#include "resize_device.h"
#include "topk_device.h"

namespace {

__device__ std::int64_t first_column() { return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ std::int64_t first_row() { return static_cast<std::int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; }
__device__ std::int64_t all_columns() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }
__device__ std::int64_t all_rows() { return static_cast<std::int64_t>(gridDim.y) * blockDim.y; }

__device__ zsl::device::Index first_index() { return {first_column(), first_row(), blockIdx.z}; }
__device__ zsl::device::Index all_threads() { return {all_columns(), all_rows(), gridDim.z}; }

}  // namespace

extern "C" __global__ void zsl_resample_columns(zsl::device::Batch batch) {
  zsl::device::resample_columns(batch, first_index(), all_threads());
}

extern "C" __global__ void zsl_resample_rows(zsl::device::Batch batch) {
  zsl::device::resample_rows(batch, first_index(), all_threads());
}

extern "C" __global__ void zsl_topk_slices(zsl::device::TopK job) {
  zsl::device::best_of_slices(job, {first_column(), first_row()}, {all_columns(), all_rows()});
}

extern "C" __global__ void zsl_topk_merge(zsl::device::TopK job) {
  zsl::device::merge_slices(job, {first_column(), first_row()}, {all_columns(), all_rows()});
}
