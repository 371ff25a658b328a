// Compiled with -ffp-contract=off: a fused multiply-add would round where the reference does not.
#include "zsl/axis.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace zsl {
namespace {

// 255 * 2^23 + 2^21 < 2^31: weights that sum to one (2^22) leave room for their own rounding and no more is needed.
constexpr std::int64_t kLargestSum = std::int64_t{1} << (kFractionBits + 1);

struct Window {
  double centre;
  std::int64_t low, high;
};

Window window(std::int64_t output, double scale, double support, std::int64_t source) {
  const double centre = (static_cast<double>(output) + 0.5) * scale;
  const auto low = static_cast<std::int64_t>(std::max(std::trunc(centre - support + 0.5), 0.0));
  const auto high = static_cast<std::int64_t>(std::min(std::trunc(centre + support + 0.5), static_cast<double>(source)));
  return {centre, low, high};
}

}  // namespace

Resampling coefficients(std::int64_t source, std::int64_t target, std::int64_t start, std::int64_t count) {
  if (source > kLongest || count > kMostTaps) {
    throw std::invalid_argument(std::to_string(count) + " outputs of " + std::to_string(source) +
                                " samples: expected at most " + std::to_string(kMostTaps) + " of " +
                                std::to_string(kLongest));
  }
  const double scale = static_cast<double>(source) / static_cast<double>(target);
  const double support = std::max(scale, 1.0);
  const double per_pixel = 1.0 / support;
  std::vector<Window> windows;
  windows.reserve(static_cast<std::size_t>(count));
  std::int64_t width = 0;
  for (std::int64_t i = start; i < start + count; ++i) {
    windows.push_back(window(i, scale, support, source));
    width = std::max(width, windows.back().high - windows.back().low);
  }
  if (width > kMostTaps / count) {
    throw std::invalid_argument(std::to_string(count) + " outputs of " + std::to_string(width) +
                                " taps: expected at most " + std::to_string(kMostTaps) + " taps");
  }

  Resampling out{std::vector<std::int32_t>(windows.size()),
                 std::vector<std::int32_t>(windows.size() * static_cast<std::size_t>(width)),
                 static_cast<std::size_t>(width)};
  std::vector<double> weights(out.width);
  std::int32_t* taps = out.taps.data();
  for (std::size_t i = 0; i < windows.size(); ++i, taps += width) {
    const auto& [centre, low, high] = windows[i];
    const std::int64_t first = std::min(low, source - width);
    double total = 0;
    for (std::int64_t t = 0; t < width; ++t) {
      const std::int64_t index = first + t;
      const double distance = std::abs((static_cast<double>(index) - centre + 0.5) * per_pixel);
      const double weight = index < low || index >= high ? 0.0 : std::max(1.0 - distance, 0.0);
      weights[static_cast<std::size_t>(t)] = weight;
      total += weight;
    }
    out.first[i] = static_cast<std::int32_t>(first);
    std::transform(weights.begin(), weights.end(), taps, [total](double weight) {
      return static_cast<std::int32_t>(weight / total * (1 << kFractionBits) + 0.5);
    });
  }
  return out;
}

SquareAxes square_axes(std::size_t height, std::size_t width, std::size_t resize, std::size_t crop) {
  constexpr auto longest = static_cast<std::size_t>(kLongest);
  if (height == 0 || width == 0 || crop == 0 || crop > resize || std::max({height, width, resize}) > longest) {
    throw std::invalid_argument("resize " + std::to_string(resize) + " and crop " + std::to_string(crop) +
                                " of a picture of " + std::to_string(height) + " x " + std::to_string(width) +
                                ": expected sizes from 1 to " +
                                std::to_string(kLongest) + ", and a crop that is not larger than the resize");
  }
  const auto axis = [&](std::size_t source) {
    const std::size_t target = resize * source / std::min(height, width);
    return coefficients(static_cast<std::int64_t>(source), static_cast<std::int64_t>(target),
                        static_cast<std::int64_t>((target - crop) / 2), static_cast<std::int64_t>(crop));
  };
  return {axis(width), axis(height)};
}

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

}  // namespace zsl
