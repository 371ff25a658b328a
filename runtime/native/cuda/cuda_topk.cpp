#include "cuda_topk.h"

#include <algorithm>
#include <limits>

#include "topk_device.h"

namespace zsl {
namespace {

using cuda::driver;
using cuda::require;

constexpr unsigned kBlockColumns = 32, kBlockRows = 8;
// Few columns a slice is many threads in the first launch; many slices are many candidates in the second.
constexpr std::size_t kSliceColumns = 16, kMostSlices = 128;

std::size_t slices_of(std::size_t columns) {
  return std::clamp<std::size_t>((columns + kSliceColumns - 1) / kSliceColumns, 1, kMostSlices);
}

}  // namespace

struct CudaTopK::State {
  explicit State(int device)
      : card(device), slices(card.function("zsl_topk_slices")), merge(card.function("zsl_topk_merge")) {}

  void run(cuda::Function function, device::TopK job, std::int64_t columns_of_grid, cuda::Stream stream) const {
    void* arguments[] = {&job};
    require(driver().launch(function, cuda::blocks(static_cast<std::size_t>(columns_of_grid), kBlockColumns),
                            cuda::blocks(static_cast<std::size_t>(job.rows), kBlockRows), 1, kBlockColumns, kBlockRows,
                            1, 0, stream, arguments, nullptr),
            "start the search for the best columns on the card");
  }

  cuda::Card card;
  cuda::Function slices, merge;
};

CudaTopK::CudaTopK(int device) : state_(std::make_unique<State>(device)) {}

CudaTopK::~CudaTopK() = default;

std::size_t CudaTopK::scratch_bytes(std::size_t rows, std::size_t columns, std::size_t count) {
  return rows * slices_of(columns) * count * sizeof(std::int32_t);
}

void CudaTopK::launch(std::uint64_t scores, std::size_t rows, std::size_t columns, std::size_t count,
                      std::uint64_t scratch, std::uint64_t out_columns, std::uint64_t out_scores,
                      std::uint64_t stream) const {
  if (rows == 0 || count == 0 || count > columns ||
      columns > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw std::invalid_argument("`count` is not from 1 to the number of columns, or there are no rows");
  }
  const device::TopK job{reinterpret_cast<const float*>(scores),
                         reinterpret_cast<std::int32_t*>(scratch),
                         reinterpret_cast<std::int32_t*>(out_columns),
                         reinterpret_cast<float*>(out_scores),
                         static_cast<std::int64_t>(rows),
                         static_cast<std::int64_t>(columns),
                         static_cast<std::int64_t>(slices_of(columns)),
                         static_cast<std::int64_t>(count)};
  const cuda::Current current(state_->card);
  const auto queue = reinterpret_cast<cuda::Stream>(stream);
  state_->run(state_->slices, job, job.slices, queue);
  state_->run(state_->merge, job, job.slices * job.count, queue);
}

void CudaTopK::best_copied(const float* scores, std::size_t rows, std::size_t columns, std::size_t count,
                           std::int32_t* out_columns, float* out_scores) const {
  const cuda::Current current(state_->card);
  const cuda::Stream stream = nullptr;
  const std::size_t found = rows * count;
  const cuda::Memory source(rows * columns * sizeof(float), stream);
  const cuda::Memory scratch(scratch_bytes(rows, columns, count), stream);
  const cuda::Memory best(found * sizeof(std::int32_t), stream), values(found * sizeof(float), stream);
  require(driver().copy_to_device(source.address(), scores, rows * columns * sizeof(float), stream),
          "copy to the card");
  launch(source.address(), rows, columns, count, scratch.address(), best.address(), values.address(), 0);
  require(driver().copy_to_host(out_columns, best.address(), found * sizeof(std::int32_t), stream),
          "copy from the card");
  require(driver().copy_to_host(out_scores, values.address(), found * sizeof(float), stream), "copy from the card");
  require(driver().synchronize(stream), "finish the search on the card");
}

}  // namespace zsl
