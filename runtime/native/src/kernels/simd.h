// The two kernels, written once for vectors of 128-bit lanes. Included by one file for each instruction set, which
// describes its vectors by a type V:
//
//   V::Vector     kLanes lanes of 16 bytes, as bytes, int16 or int32
//   kLanes        lanes; one source row to a lane when columns are resampled
//   load_lanes(rows, offset), store_lanes(out, offset, v)     16 bytes of each of kLanes rows
//   load(pointer), store(pointer, v)                          16 * kLanes bytes of one row
//   spread(v)                                                 one int32 to all places
//   shuffle(v, indices)      bytes within each lane; index 128 gives 0
//   weave_low/high(a, b)     a0 b0 a1 b1 ... of the lower or upper 8 bytes of each lane
//   multiply_add(sum, samples, taps)   sum[i] + samples[2 i] * taps[2 i] + samples[2 i + 1] * taps[2 i + 1], modulo 2^32
//   combine(high, low)       (high * 2^11 + low) >> 22, arithmetic
//   narrow(a, b, c, d)       int32 to bytes within each lane, clipped to 0 ... 255
#pragma once

#include <cstring>

#include "zsl/kernels.h"

namespace zsl {
namespace {

constexpr std::uint8_t kNone = 128;
// Pixels 0 and 1, then 2 and 3, of 16 bytes R G B R G B ... as int16 pairs R R, G G, B B, 0 0.
alignas(16) constexpr std::uint8_t kPixels01[16] = {0, kNone, 3, kNone, 1, kNone, 4, kNone,
                                                    2, kNone, 5, kNone, kNone, kNone, kNone, kNone};
alignas(16) constexpr std::uint8_t kPixels23[16] = {6, kNone, 9,  kNone, 7,     kNone, 10,    kNone,
                                                    8, kNone, 11, kNone, kNone, kNone, kNone, kNone};
// R G B 0 R G B 0 ... to R G B R G B ...
alignas(16) constexpr std::uint8_t kDropFourth[16] = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, kNone, kNone, kNone, kNone};

template <class V>
void simd_columns(const std::uint8_t* const* rows, const Windows& windows, std::uint8_t* const* out) {
  using Vector = typename V::Vector;
  const Vector pixels01 = V::lanes_of(kPixels01), pixels23 = V::lanes_of(kPixels23);
  const Vector drop_fourth = V::lanes_of(kDropFourth);
  const Vector rounding = V::spread(kRounding);
  const std::int32_t* high_taps = windows.high;
  const std::int32_t* low_taps = windows.low;
  for (std::size_t i = 0; i < windows.outputs; i += kOutputsAtOnce) {
    Vector sums[kOutputsAtOnce];
    for (std::size_t j = 0; j < kOutputsAtOnce; ++j) {
      std::size_t offset = static_cast<std::size_t>(windows.first[i + j]) * kChannels;
      Vector high = V::spread(0), low = rounding;
      for (std::size_t pair = 0; pair < windows.pairs; pair += 2) {
        const Vector pixels = V::load_lanes(rows, offset);
        const Vector first = V::shuffle(pixels, pixels01), second = V::shuffle(pixels, pixels23);
        high = V::multiply_add(high, first, V::spread(high_taps[pair]));
        low = V::multiply_add(low, first, V::spread(low_taps[pair]));
        high = V::multiply_add(high, second, V::spread(high_taps[pair + 1]));
        low = V::multiply_add(low, second, V::spread(low_taps[pair + 1]));
        offset += kTapsAtOnce * kChannels;
      }
      high_taps += windows.pairs;
      low_taps += windows.pairs;
      sums[j] = V::combine(high, low);
    }
    const Vector pixels = V::narrow(sums[0], sums[1], sums[2], sums[3]);
    V::store_lanes(out, i * kChannels, V::shuffle(pixels, drop_fourth));
  }
}

// One vector of samples of one output.
template <class V>
typename V::Vector simd_samples(const std::uint8_t* source, std::size_t stride, std::size_t width,
                                const std::int32_t* high_taps, const std::int32_t* low_taps) {
  using Vector = typename V::Vector;
  const Vector zero = V::spread(0), rounding = V::spread(kRounding);
  Vector high[4] = {zero, zero, zero, zero};
  Vector low[4] = {rounding, rounding, rounding, rounding};
  for (std::size_t t = 0; t < width; t += 2) {
    const Vector even = V::load(source + t * stride);
    // There may be no row after the last one; its tap is zero then.
    const Vector odd = t + 1 < width ? V::load(source + (t + 1) * stride) : even;
    const Vector lower = V::weave_low(even, odd), upper = V::weave_high(even, odd);
    const Vector samples[4] = {V::weave_low(lower, zero), V::weave_high(lower, zero), V::weave_low(upper, zero),
                               V::weave_high(upper, zero)};
    const Vector high_pair = V::spread(high_taps[t / 2]), low_pair = V::spread(low_taps[t / 2]);
    for (int k = 0; k < 4; ++k) {
      high[k] = V::multiply_add(high[k], samples[k], high_pair);
      low[k] = V::multiply_add(low[k], samples[k], low_pair);
    }
  }
  return V::narrow(V::combine(high[0], low[0]), V::combine(high[1], low[1]), V::combine(high[2], low[2]),
                   V::combine(high[3], low[3]));
}

template <class V>
void simd_rows(const std::uint8_t* source, std::size_t stride, const Windows& windows, std::size_t output,
               std::size_t bytes, std::uint8_t* out) {
  constexpr std::size_t kBytes = V::kLanes * 16;
  static_assert(kBytes <= kLargestVector);
  const std::int32_t* high = windows.high + output * windows.pairs;
  const std::int32_t* low = windows.low + output * windows.pairs;
  std::size_t x = 0;
  for (; x + kBytes <= bytes; x += kBytes) {
    V::store(out + x, simd_samples<V>(source + x, stride, windows.axis.width, high, low));
  }
  if (x < bytes) {
    std::uint8_t tail[kBytes];
    V::store(tail, simd_samples<V>(source + x, stride, windows.axis.width, high, low));
    std::memcpy(out + x, tail, bytes - x);
  }
}

}  // namespace
}  // namespace zsl
