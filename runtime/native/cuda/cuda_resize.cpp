#include "cuda_resize.h"

#include <algorithm>
#include <map>
#include <utility>

#include "resize_device.h"

namespace zsl {
namespace {

using cuda::driver;
using cuda::require;

static_assert(device::kFractionBits == kFractionBits);

// Columns of a picture lie side by side in memory, and so do the threads of a block.
constexpr unsigned kBlockColumns = 32, kBlockRows = 8;

// Everything that the kernels need beside the pixels, and what the sizes of their grids follow from.
struct Plan {
  std::vector<device::Picture> pictures;
  std::vector<std::int32_t> table;
  std::size_t narrow_bytes = 0;
  std::size_t most_rows = 0;
};

device::AxisPlace place(const Resampling& axis, std::vector<std::int32_t>& table) {
  const device::AxisPlace placed{static_cast<std::int64_t>(table.size()),
                                 static_cast<std::int64_t>(table.size() + axis.first.size()),
                                 static_cast<std::int64_t>(axis.width)};
  table.insert(table.end(), axis.first.begin(), axis.first.end());
  table.insert(table.end(), axis.taps.begin(), axis.taps.end());
  return placed;
}

// A picture of some size, but for where its pixels lie and where it goes.
device::Picture describe(const Picture& picture, std::size_t resize, std::size_t crop,
                         std::vector<std::int32_t>& table) {
  const SquareAxes axes = square_axes(picture.height, picture.width, resize, crop);
  const auto [lowest, highest] = std::minmax_element(axes.rows.first.begin(), axes.rows.first.end());
  const std::size_t row_count = static_cast<std::size_t>(*highest - *lowest) + axes.rows.width;
  return {0,
          static_cast<std::int64_t>(picture.width * kChannels),
          *lowest,
          static_cast<std::int64_t>(row_count),
          0,
          place(axes.columns, table),
          place(axes.rows, table)};
}

Plan make_plan(const std::vector<Picture>& pictures, std::size_t resize, std::size_t crop) {
  Plan plan;
  plan.pictures.reserve(pictures.size());
  // Coefficients follow from the size alone, and cost more than all that the card does with them.
  std::map<std::pair<std::size_t, std::size_t>, device::Picture> of_size;
  for (const Picture& picture : pictures) {
    const auto [known, is_new] = of_size.try_emplace({picture.height, picture.width});
    if (is_new) {
      known->second = describe(picture, resize, crop, plan.table);
    }
    device::Picture& placed = plan.pictures.emplace_back(known->second);
    placed.pixels = reinterpret_cast<std::uintptr_t>(picture.pixels);
    placed.narrow = static_cast<std::int64_t>(plan.narrow_bytes);
    const auto row_count = static_cast<std::size_t>(placed.row_count);
    plan.narrow_bytes += row_count * crop * kChannels;
    plan.most_rows = std::max(plan.most_rows, row_count);
  }
  return plan;
}

template <class T>
void copy_to_device(const cuda::Memory& to, const std::vector<T>& from, cuda::Stream stream) {
  // From pageable memory: the driver has read all of it when the call returns.
  require(driver().copy_to_device(to.address(), from.data(), from.size() * sizeof(T), stream), "copy to the card");
}

}  // namespace

struct CudaResizer::State {
  explicit State(int device)
      : card(device), columns(card.function("zsl_resample_columns")), rows(card.function("zsl_resample_rows")) {}

  void run(cuda::Function function, device::Batch batch, std::size_t rows_of_grid, cuda::Stream stream) const {
    void* arguments[] = {&batch};
    const auto crop = static_cast<std::size_t>(batch.crop), count = static_cast<std::size_t>(batch.count);
    require(driver().launch(function, cuda::blocks(crop, kBlockColumns), cuda::blocks(rows_of_grid, kBlockRows),
                            cuda::blocks(count, 1), kBlockColumns, kBlockRows, 1, 0, stream, arguments, nullptr),
            "start the resize on the card");
  }

  void resize_crop(const std::vector<Picture>& pictures, std::size_t resize, std::size_t crop, std::uint8_t* out,
                   cuda::Stream stream) const {
    const Plan plan = make_plan(pictures, resize, crop);
    const cuda::Memory descriptions(plan.pictures.size() * sizeof(device::Picture), stream);
    const cuda::Memory table(plan.table.size() * sizeof(std::int32_t), stream);
    const cuda::Memory narrow(plan.narrow_bytes, stream);
    copy_to_device(descriptions, plan.pictures, stream);
    copy_to_device(table, plan.table, stream);
    const device::Batch batch{descriptions.as<device::Picture>(), table.as<std::int32_t>(), narrow.as<std::uint8_t>(),
                              out, static_cast<std::int64_t>(pictures.size()), static_cast<std::int64_t>(crop)};
    run(columns, batch, plan.most_rows, stream);
    run(rows, batch, crop, stream);
  }

  cuda::Card card;
  cuda::Function columns, rows;
};

CudaResizer::CudaResizer(int device) : state_(std::make_unique<State>(device)) {}

CudaResizer::~CudaResizer() = default;

void CudaResizer::resize_crop_batch(const std::vector<Picture>& pictures, std::size_t resize, std::size_t crop,
                                    std::uint64_t out, std::uint64_t stream) {
  if (pictures.empty()) {
    return;
  }
  const cuda::Current current(state_->card);
  state_->resize_crop(pictures, resize, crop, reinterpret_cast<std::uint8_t*>(out),
                      reinterpret_cast<cuda::Stream>(stream));
}

void CudaResizer::resize_crop_batch_copied(const std::vector<Picture>& pictures, std::size_t resize, std::size_t crop,
                                           std::uint8_t* out) {
  if (pictures.empty()) {
    return;
  }
  const cuda::Current current(state_->card);
  const cuda::Stream stream = nullptr;
  std::size_t bytes = 0;
  for (const Picture& picture : pictures) {
    bytes += picture.height * picture.width * kChannels;
  }
  const cuda::Memory source(bytes, stream);
  const std::size_t out_bytes = pictures.size() * crop * crop * kChannels;
  const cuda::Memory squares(out_bytes, stream);
  std::vector<Picture> there = pictures;
  std::size_t offset = 0;
  for (Picture& picture : there) {
    const std::size_t size = picture.height * picture.width * kChannels;
    require(driver().copy_to_device(source.address() + offset, picture.pixels, size, stream), "copy to the card");
    picture.pixels = source.as<const std::uint8_t>() + offset;
    offset += size;
  }
  state_->resize_crop(there, resize, crop, squares.as<std::uint8_t>(), stream);
  require(driver().copy_to_host(out, squares.address(), out_bytes, stream), "copy from the card");
  require(driver().synchronize(stream), "finish the resize on the card");
}

}  // namespace zsl
