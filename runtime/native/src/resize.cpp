#include "zsl/resize.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace zsl {
namespace {

constexpr int kFractionBits = 22;
constexpr std::int32_t kRounding = 1 << (kFractionBits - 1);
// 255 * 2^23 + 2^21 < 2^31: weights that sum to one (2^22) leave room for their own rounding and no more is needed.
constexpr std::int64_t kLargestSum = std::int64_t{1} << (kFractionBits + 1);
constexpr std::size_t kChannels = 3;

void check(const Axis& axis, std::size_t source, const char* name) {
  if (source == 0 || axis.count == 0 || axis.width == 0 || axis.width > source) {
    throw std::invalid_argument(std::string(name) + ": " + std::to_string(axis.count) + " outputs of " +
                                std::to_string(axis.width) + " taps do not fit a source of " + std::to_string(source));
  }
  const auto last = static_cast<std::int64_t>(source - axis.width);
  for (std::size_t i = 0; i < axis.count; ++i) {
    std::int64_t sum = 0;
    for (std::size_t t = 0; t < axis.width; ++t) {
      sum += std::abs(static_cast<std::int64_t>(axis.taps[i * axis.width + t]));
    }
    if (axis.first[i] < 0 || axis.first[i] > last || sum >= kLargestSum) {
      throw std::invalid_argument(std::string(name) + ": output " + std::to_string(i) + " begins at " +
                                  std::to_string(axis.first[i]) + " with taps of sum " + std::to_string(sum) +
                                  "; the source has " + std::to_string(source));
    }
  }
}

std::uint8_t to_byte(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

// One source row to one row of axis.count pixels.
void resample_columns(const std::uint8_t* row, const Axis& axis, std::uint8_t* out) {
  for (std::size_t i = 0; i < axis.count; ++i) {
    const std::uint8_t* pixel = row + static_cast<std::size_t>(axis.first[i]) * kChannels;
    const std::int32_t* taps = axis.taps + i * axis.width;
    std::int32_t red = kRounding, green = kRounding, blue = kRounding;
    for (std::size_t t = 0; t < axis.width; ++t) {
      red += taps[t] * pixel[0];
      green += taps[t] * pixel[1];
      blue += taps[t] * pixel[2];
      pixel += kChannels;
    }
    out[0] = to_byte(red);
    out[1] = to_byte(green);
    out[2] = to_byte(blue);
    out += kChannels;
  }
}

// One output row from the `width` rows that begin at `source`; `sums` is scratch of `stride` sums.
void resample_rows(const std::uint8_t* source, std::size_t stride, const std::int32_t* taps, std::size_t width,
                   std::int32_t* sums, std::uint8_t* out) {
  std::fill(sums, sums + stride, kRounding);
  for (std::size_t t = 0; t < width; ++t) {
    const std::uint8_t* row = source + t * stride;
    const std::int32_t tap = taps[t];
    for (std::size_t j = 0; j < stride; ++j) {
      sums[j] += tap * row[j];
    }
  }
  std::transform(sums, sums + stride, out, to_byte);
}

}  // namespace

void resize_crop(const std::uint8_t* pixels, std::size_t height, std::size_t width, const Axis& columns,
                 const Axis& rows, std::uint8_t* out) {
  check(columns, width, "columns");
  check(rows, height, "rows");
  const auto [lowest, highest] = std::minmax_element(rows.first, rows.first + rows.count);
  const auto top = static_cast<std::size_t>(*lowest);
  const std::size_t bottom = static_cast<std::size_t>(*highest) + rows.width;
  const std::size_t stride = columns.count * kChannels;

  const auto narrow = std::make_unique_for_overwrite<std::uint8_t[]>((bottom - top) * stride);
  for (std::size_t y = top; y < bottom; ++y) {
    resample_columns(pixels + y * width * kChannels, columns, narrow.get() + (y - top) * stride);
  }
  std::vector<std::int32_t> sums(stride);
  for (std::size_t i = 0; i < rows.count; ++i) {
    const std::size_t begin = static_cast<std::size_t>(rows.first[i]) - top;
    resample_rows(narrow.get() + begin * stride, stride, rows.taps + i * rows.width, rows.width, sums.data(),
                  out + i * stride);
  }
}

}  // namespace zsl
