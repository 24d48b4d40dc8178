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
    var groupBytes: Int { 8 }
    var scaleBytes: Int { 1 }
    private nonisolated(unsafe) let pairs = CodeTables.pairsOfE2M1
    private nonisolated(unsafe) let values = CodeTables.e4m3

    @inline(__always)
    func decode(_ group: Wire, _ out: UnsafeMutablePointer<Float>) {
        let scale = values[Int(group.scales.load(as: UInt8.self))]
        let scales = SIMD8<Float>(repeating: scale)
        let word = load64(group.weight)
        store(eight(word, pairs) * scales, out)
        store(eight(word &>> 32, pairs) * scales, out + 8)
    }
}
