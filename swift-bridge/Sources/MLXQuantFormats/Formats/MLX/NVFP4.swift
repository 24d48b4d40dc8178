/// NVFP4, as MLX stores it: no second scale for the whole tensor.
///
///     weight    uint32 [n, k/8]     E2M1 codes, 8 a word, low bits first
///     scales    uint8  [n, k/16]    E4M3
///
///     one group of 16: 9 bytes, 4.5 bits per weight
///     ┌─────────────────────────────┐ ┌─────────┐
///     │ weight: 2 words, 16 codes   │ │ scale 1 │
///     └─────────────────────────────┘ └─────────┘
///
///     w = s · level
///
/// Nothing is rounded: a level times a scale has 6 significant bits and lies within 2^-10 … 2880,
/// which every type holds.
struct NVFP4Groups: GroupFormat {
    var groupSize: Int { 16 }

    @inline(__always)
    func decode(_ wire: Wire, _ group: Int, _ out: UnsafeMutablePointer<Float>) {
        let scale = e4m3(wire.scales.load(fromByteOffset: group, as: UInt8.self))
        storeE2M1(bytes8(wire.weight, 8 &* group), 0.5 * scale, out)
    }
}
