// Plain C++, for every CPU. `check` keeps every sum inside 32 bits.
#include "zsl/kernels.h"

namespace zsl {
namespace {

std::uint8_t to_byte(std::int32_t sum) {
  const std::int32_t value = sum >> kFractionBits;
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

void scalar_columns(const std::uint8_t* const* rows, const Windows& windows, std::uint8_t* const* out) {
  const Axis& axis = windows.axis;
  std::uint8_t* to = *out;
  for (std::size_t i = 0; i < axis.count; ++i, to += kChannels) {
    const std::uint8_t* pixel = *rows + static_cast<std::size_t>(axis.first[i]) * kChannels;
    const std::int32_t* taps = axis.taps + i * axis.width;
    std::int32_t red = kRounding, green = kRounding, blue = kRounding;
    for (std::size_t t = 0; t < axis.width; ++t, pixel += kChannels) {
      red += taps[t] * pixel[0];
      green += taps[t] * pixel[1];
      blue += taps[t] * pixel[2];
    }
    to[0] = to_byte(red);
    to[1] = to_byte(green);
    to[2] = to_byte(blue);
  }
}

// In blocks whose sums stay in registers or the nearest cache.
void scalar_rows(const std::uint8_t* source, std::size_t stride, const Windows& windows, std::size_t output,
                 std::size_t bytes, std::uint8_t* out) {
  constexpr std::size_t kBlock = 64;
  const Axis& axis = windows.axis;
  const std::int32_t* taps = axis.taps + output * axis.width;
  for (std::size_t x = 0; x < bytes; x += kBlock) {
    const std::size_t count = bytes - x < kBlock ? bytes - x : kBlock;
    std::int32_t sums[kBlock];
    for (std::size_t j = 0; j < count; ++j) {
      sums[j] = kRounding;
    }
    for (std::size_t t = 0; t < axis.width; ++t) {
      const std::uint8_t* row = source + t * stride + x;
      for (std::size_t j = 0; j < count; ++j) {
        sums[j] += taps[t] * row[j];
      }
    }
    for (std::size_t j = 0; j < count; ++j) {
      out[x + j] = to_byte(sums[j]);
    }
  }
}

}  // namespace

const Kernels kScalar = {"scalar", 1, scalar_columns, scalar_rows};

}  // namespace zsl
