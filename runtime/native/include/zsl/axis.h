// Where each output of a resize comes from along one axis, in fixed point. Knows no Python: pointers and sizes only.
// The arithmetic is defined in ARCHITECTURE.md ("Pixels"); runtime/zsl_runtime/pixels/pixels.py holds the reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace zsl {

constexpr int kFractionBits = 22;
constexpr std::int32_t kRounding = 1 << (kFractionBits - 1);
constexpr std::size_t kChannels = 3;

// Resampling of one axis: output i is the sum over t < width of taps[i * width + t] * source[first[i] + t],
// where a tap has 22 fractional bits.
struct Axis {
  const std::int32_t* first;  // (count,)
  const std::int32_t* taps;   // (count, width), row-major
  std::size_t count;
  std::size_t width;
};

// An Axis that owns its numbers.
struct Resampling {
  std::vector<std::int32_t> first;
  std::vector<std::int32_t> taps;
  std::size_t width;

  Axis axis() const { return {first.data(), taps.data(), first.size(), width}; }
};

// No axis is longer, before or after a resize: places fit their types.
constexpr std::int64_t kLongest = std::numeric_limits<std::int32_t>::max();
// No Resampling has more taps, which take 256 MiB; the crop of a picture has two for each of its samples.
constexpr std::int64_t kMostTaps = std::int64_t{1} << 26;

// The triangle filter of the definition for outputs start ... start + count - 1 of `target`: bit for bit what
// `coefficients` of pixels.py gives. All sizes >= 1, start >= 0, start + count <= target.
// Throws std::invalid_argument for a source beyond kLongest, and for more than kMostTaps.
Resampling coefficients(std::int64_t source, std::int64_t target, std::int64_t start, std::int64_t count);

struct SquareAxes {
  Resampling columns;
  Resampling rows;
};

// Short side to `resize`, then the centred crop: what `_axes` of pixels.py says.
// Throws std::invalid_argument unless height, width >= 1 and 1 <= crop <= resize, all at most kLongest.
SquareAxes square_axes(std::size_t height, std::size_t width, std::size_t resize, std::size_t crop);

// Throws std::invalid_argument when a size is zero, a window leaves a source of `source` samples, or the absolute taps
// of an output sum to 2^23 or more, so that 255 * sum + 2^21 could leave 32 bits. `name` begins the message.
void check(const Axis& axis, std::size_t source, const char* name);

}  // namespace zsl
