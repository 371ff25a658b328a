#include "zsl/resize.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace zsl {
namespace {

constexpr std::size_t kMostRowsAtOnce = 4;
// A load of 16 bytes begins at a pixel of the row, so that it ends at most 13 bytes behind the row.
constexpr std::size_t kReadBehind = kLoadBytes - kChannels;

constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Taps split and padded as kernels.h describes.
class SplitTaps {
 public:
  explicit SplitTaps(const Axis& axis)
      : axis_(axis),
        outputs_(round_up(axis.count, kOutputsAtOnce)),
        pairs_(round_up(axis.width, kTapsAtOnce) / 2),
        first_(outputs_),
        high_(outputs_ * pairs_),
        low_(outputs_ * pairs_) {
    std::copy_n(axis.first, axis.count, first_.begin());
    for (std::size_t i = 0; i < axis.count; ++i) {
      for (std::size_t t = 0; t < axis.width; ++t) {
        const auto tap = axis.taps[i * axis.width + t];
        const std::size_t pair = i * pairs_ + t / 2;
        const int half = t % 2 == 0 ? 0 : 16;
        high_[pair] |= static_cast<std::int32_t>((static_cast<std::uint32_t>(tap >> kLowBits) & 0xffffu) << half);
        low_[pair] |= (tap & ((1 << kLowBits) - 1)) << half;
      }
    }
  }

  Windows windows() const { return {axis_, first_.data(), high_.data(), low_.data(), outputs_, pairs_}; }

 private:
  Axis axis_;
  std::size_t outputs_, pairs_;
  std::vector<std::int32_t> first_, high_, low_;
};

// Source rows that a kernel may read kReadBehind bytes past their end: those near the picture's end are copies.
class ReadableRows {
 public:
  explicit ReadableRows(const Picture& picture) : picture_(picture), row_bytes_(picture.width * kChannels) {}

  const std::uint8_t* row(std::size_t y, std::size_t slot) {
    const std::uint8_t* data = picture_.pixels + y * row_bytes_;
    if ((picture_.height - 1 - y) * row_bytes_ >= kReadBehind) {
      return data;
    }
    std::vector<std::uint8_t>& copy = copies_[slot];
    copy.assign(data, data + row_bytes_);
    copy.resize(row_bytes_ + kReadBehind);
    return copy.data();
  }

 private:
  const Picture& picture_;
  std::size_t row_bytes_;
  std::vector<std::uint8_t> copies_[kMostRowsAtOnce];
};

// Rows top ... bottom - 1 of the picture to rows of `narrow`, `stride` bytes apart.
void narrow_rows(const Picture& picture, std::size_t top, std::size_t bottom, const Windows& windows,
                 const Kernels& kernels, std::uint8_t* narrow, std::size_t stride) {
  ReadableRows source(picture);
  for (std::size_t y = top; y < bottom; y += kernels.rows_at_once) {
    const std::uint8_t* rows[kMostRowsAtOnce];
    std::uint8_t* out[kMostRowsAtOnce];
    for (std::size_t slot = 0; slot < kernels.rows_at_once; ++slot) {
      // The last row again where too few are left: it is computed again and is the same.
      const std::size_t from = std::min(y + slot, bottom - 1);
      rows[slot] = source.row(from, slot);
      out[slot] = narrow + (from - top) * stride;
    }
    kernels.resample_columns(rows, windows, out);
  }
}

// Calls work(i, scratch) for each i < count on up to `threads` threads; throws again what a call threw first.
template <class Work>
void share_out(std::size_t count, std::size_t threads, const Work& work) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto take = [&] {
    try {
      Scratch scratch;
      for (std::size_t i = next++; i < count; i = next++) {
        work(i, scratch);
      }
    } catch (...) {
      next = count;
      const std::lock_guard lock(mutex);
      if (!failure) {
        failure = std::current_exception();
      }
    }
  };
  std::vector<std::thread> others;
  others.reserve(std::min(threads, count));
  try {
    while (others.size() + 1 < std::min(threads, count)) {
      others.emplace_back(take);
    }
  } catch (const std::system_error&) {
    // A limit on processes: those that run do the work.
  }
  take();  // does not throw
  for (std::thread& other : others) {
    other.join();
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

}  // namespace

std::uint8_t* Scratch::reserve(std::size_t bytes) {
  if (bytes > size_) {
    size_ = 0;
    data_.reset();
    data_ = std::make_unique_for_overwrite<std::uint8_t[]>(bytes);
    size_ = bytes;
  }
  return data_.get();
}

void resize_crop(const Picture& picture, const Axis& columns, const Axis& rows, const Kernels& kernels,
                 Scratch& scratch, std::uint8_t* out) {
  check(columns, picture.width, "columns");
  check(rows, picture.height, "rows");
  const auto [lowest, highest] = std::minmax_element(rows.first, rows.first + rows.count);
  const auto top = static_cast<std::size_t>(*lowest);
  const std::size_t bottom = static_cast<std::size_t>(*highest) + rows.width;

  const SplitTaps column_taps(columns), row_taps(rows);
  const Windows column_windows = column_taps.windows(), row_windows = row_taps.windows();
  const std::size_t bytes = columns.count * kChannels;
  const std::size_t stored = (column_windows.outputs - kOutputsAtOnce) * kChannels + kLoadBytes;
  const std::size_t stride = round_up(stored, kLargestVector);
  std::uint8_t* narrow = scratch.reserve((bottom - top) * stride);
  narrow_rows(picture, top, bottom, column_windows, kernels, narrow, stride);
  for (std::size_t i = 0; i < rows.count; ++i) {
    const std::size_t begin = static_cast<std::size_t>(rows.first[i]) - top;
    kernels.resample_rows(narrow + begin * stride, stride, row_windows, i, bytes, out + i * bytes);
  }
}

void resize_crop_batch(const std::vector<Picture>& pictures, std::size_t resize, std::size_t crop, std::size_t threads,
                       const Kernels& kernels, std::uint8_t* out) {
  share_out(pictures.size(), threads, [&](std::size_t i, Scratch& scratch) {
    const Picture& picture = pictures[i];
    const SquareAxes axes = square_axes(picture.height, picture.width, resize, crop);
    resize_crop(picture, axes.columns.axis(), axes.rows.axis(), kernels, scratch, out + i * crop * crop * kChannels);
  });
}

}  // namespace zsl
