// AVX-512 (F and BW): four lanes. Compiled with -mavx512f -mavx512bw; reached only where the CPU has them.
#include <immintrin.h>

#include "simd.h"

namespace zsl {
namespace {

struct Avx512 {
  using Vector = __m512i;
  static constexpr std::size_t kLanes = 4;

  static __m128i load_lane(const std::uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
  static void store_lane(std::uint8_t* to, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), v); }
  static Vector lanes_of(const std::uint8_t* from) { return _mm512_broadcast_i32x4(load_lane(from)); }
  static Vector load_lanes(const std::uint8_t* const* rows, std::size_t offset) {
    Vector v = _mm512_castsi128_si512(load_lane(rows[0] + offset));
    v = _mm512_inserti32x4(v, load_lane(rows[1] + offset), 1);
    v = _mm512_inserti32x4(v, load_lane(rows[2] + offset), 2);
    return _mm512_inserti32x4(v, load_lane(rows[3] + offset), 3);
  }
  static void store_lanes(std::uint8_t* const* out, std::size_t offset, Vector v) {
    store_lane(out[0] + offset, _mm512_castsi512_si128(v));
    store_lane(out[1] + offset, _mm512_extracti32x4_epi32(v, 1));
    store_lane(out[2] + offset, _mm512_extracti32x4_epi32(v, 2));
    store_lane(out[3] + offset, _mm512_extracti32x4_epi32(v, 3));
  }
  static Vector load(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
  static void store(std::uint8_t* to, Vector v) { _mm512_storeu_si512(to, v); }
  static Vector spread(std::int32_t value) { return _mm512_set1_epi32(value); }
  static Vector shuffle(Vector v, Vector indices) { return _mm512_shuffle_epi8(v, indices); }
  static Vector weave_low(Vector a, Vector b) { return _mm512_unpacklo_epi8(a, b); }
  static Vector weave_high(Vector a, Vector b) { return _mm512_unpackhi_epi8(a, b); }
  static Vector multiply_add(Vector sum, Vector samples, Vector taps) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(samples, taps));
  }
  static Vector combine(Vector high, Vector low) {
    return _mm512_srai_epi32(_mm512_add_epi32(_mm512_slli_epi32(high, kLowBits), low), kFractionBits);
  }
  static Vector narrow(Vector a, Vector b, Vector c, Vector d) {
    return _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  }
};

}  // namespace

const Kernels kAvx512 = {"avx512", Avx512::kLanes, simd_columns<Avx512>, simd_rows<Avx512>};

}  // namespace zsl
