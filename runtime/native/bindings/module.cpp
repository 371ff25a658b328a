// The Python module zsl_runtime._native: checks types, owns results, releases the GIL; no arithmetic here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>

#include "zsl/resize.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Pixels = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using First = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Taps = nb::ndarray<const std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<3>>;

zsl::Axis to_axis(const First& first, const Taps& taps) {
  if (first.shape(0) != taps.shape(0)) {
    throw std::invalid_argument("`first` and `taps` have different lengths");
  }
  return {first.data(), taps.data(), taps.shape(0), taps.shape(1)};
}

Result resize_crop(const Pixels& pixels, const First& column_first, const Taps& column_taps, const First& row_first,
                   const Taps& row_taps) {
  const zsl::Axis columns = to_axis(column_first, column_taps);
  const zsl::Axis rows = to_axis(row_first, row_taps);
  auto* data = new std::uint8_t[rows.count * columns.count * 3];
  nb::capsule owner(data, [](void* pointer) noexcept { delete[] static_cast<std::uint8_t*>(pointer); });
  {
    nb::gil_scoped_release release;
    zsl::resize_crop(pixels.data(), pixels.shape(0), pixels.shape(1), columns, rows, data);
  }
  return Result(data, {rows.count, columns.count, 3}, owner);
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "Compiled core of zsl_runtime: fixed-point resize and crop. Used through zsl_runtime.pixels.";
  module.def("resize_crop", &resize_crop, "pixels"_a.noconvert(), "column_first"_a.noconvert(),
             "column_taps"_a.noconvert(), "row_first"_a.noconvert(), "row_taps"_a.noconvert(),
             "Resample columns, then rows, of uint8 (H, W, 3) with int32 taps of 22 fractional bits.\n\n"
             "column_first (P,), column_taps (P, T), row_first (Q,), row_taps (Q, U); returns uint8 (Q, P, 3).\n"
             "Raises TypeError for other dtypes or layouts, ValueError for a window outside the picture.");
}
