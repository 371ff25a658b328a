// AVX2: two lanes. Compiled with -mavx2; reached only where the CPU has it.
#include <immintrin.h>

#include "simd.h"

namespace zsl {
namespace {

struct Avx2 {
  using Vector = __m256i;
  static constexpr std::size_t kLanes = 2;

  static __m128i load_lane(const std::uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
  static Vector lanes_of(const std::uint8_t* from) { return _mm256_broadcastsi128_si256(load_lane(from)); }
  static Vector load_lanes(const std::uint8_t* const* rows, std::size_t offset) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_lane(rows[0] + offset)), load_lane(rows[1] + offset), 1);
  }
  static void store_lanes(std::uint8_t* const* out, std::size_t offset, Vector v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out[0] + offset), _mm256_castsi256_si128(v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out[1] + offset), _mm256_extracti128_si256(v, 1));
  }
  static Vector load(const std::uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const Vector*>(from)); }
  static void store(std::uint8_t* to, Vector v) { _mm256_storeu_si256(reinterpret_cast<Vector*>(to), v); }
  static Vector spread(std::int32_t value) { return _mm256_set1_epi32(value); }
  static Vector shuffle(Vector v, Vector indices) { return _mm256_shuffle_epi8(v, indices); }
  static Vector weave_low(Vector a, Vector b) { return _mm256_unpacklo_epi8(a, b); }
  static Vector weave_high(Vector a, Vector b) { return _mm256_unpackhi_epi8(a, b); }
  static Vector multiply_add(Vector sum, Vector samples, Vector taps) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(samples, taps));
  }
  static Vector combine(Vector high, Vector low) {
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low), kFractionBits);
  }
  static Vector narrow(Vector a, Vector b, Vector c, Vector d) {
    return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  }
};

}  // namespace

const Kernels kAvx2 = {"avx2", Avx2::kLanes, simd_columns<Avx2>, simd_rows<Avx2>};

}  // namespace zsl
