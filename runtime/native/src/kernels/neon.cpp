// NEON of 64-bit Arm, where every CPU has it: one lane.
#include <arm_neon.h>

#include "simd.h"

namespace zsl {
namespace {

struct Neon {
  using Vector = uint8x16_t;
  static constexpr std::size_t kLanes = 1;

  static int32x4_t wide(Vector v) { return vreinterpretq_s32_u8(v); }
  static Vector bytes(int32x4_t v) { return vreinterpretq_u8_s32(v); }

  static Vector lanes_of(const std::uint8_t* from) { return vld1q_u8(from); }
  static Vector load_lanes(const std::uint8_t* const* rows, std::size_t offset) { return vld1q_u8(rows[0] + offset); }
  static void store_lanes(std::uint8_t* const* out, std::size_t offset, Vector v) { vst1q_u8(out[0] + offset, v); }
  static Vector load(const std::uint8_t* from) { return vld1q_u8(from); }
  static void store(std::uint8_t* to, Vector v) { vst1q_u8(to, v); }
  static Vector spread(std::int32_t value) { return bytes(vdupq_n_s32(value)); }
  static Vector shuffle(Vector v, Vector indices) { return vqtbl1q_u8(v, indices); }
  static Vector weave_low(Vector a, Vector b) { return vzip1q_u8(a, b); }
  static Vector weave_high(Vector a, Vector b) { return vzip2q_u8(a, b); }
  static Vector multiply_add(Vector sum, Vector samples, Vector taps) {
    const int16x8_t a = vreinterpretq_s16_u8(samples), b = vreinterpretq_s16_u8(taps);
    const int32x4_t lower = vmull_s16(vget_low_s16(a), vget_low_s16(b));
    const int32x4_t pairs = vpaddq_s32(lower, vmull_high_s16(a, b));
    return bytes(vaddq_s32(wide(sum), pairs));
  }
  static Vector combine(Vector high, Vector low) {
    return bytes(vshrq_n_s32(vaddq_s32(vshlq_n_s32(wide(high), kLowBits), wide(low)), kFractionBits));
  }
  static Vector narrow(Vector a, Vector b, Vector c, Vector d) {
    const int16x8_t lower = vcombine_s16(vqmovn_s32(wide(a)), vqmovn_s32(wide(b)));
    const int16x8_t upper = vcombine_s16(vqmovn_s32(wide(c)), vqmovn_s32(wide(d)));
    return vcombine_u8(vqmovun_s16(lower), vqmovun_s16(upper));
  }
};

}  // namespace

const Kernels kNeon = {"neon", Neon::kLanes, simd_columns<Neon>, simd_rows<Neon>};

}  // namespace zsl
