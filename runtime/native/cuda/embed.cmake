# Writes the bytes of FATBIN into OUTPUT, a C++ file: cmake -DFATBIN=... -DOUTPUT=... -P embed.cmake
file(READ "${FATBIN}" bytes HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
file(WRITE "${OUTPUT}" "#include \"card.h\"

namespace zsl {
namespace {
alignas(16) constexpr unsigned char kImage[] = {${bytes}};
}

std::span<const unsigned char> kernel_image() { return kImage; }

}  // namespace zsl
")
