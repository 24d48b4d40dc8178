import MLXQuantFormats

#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Bytes of a mapped file as a GPU can have them without a copy: in whole pages.
///
/// Metal makes a buffer of memory that is there already only where that begins at a page and fills
/// pages. An array that does not is taken with the rest of its pages, and cut out of them:
///
///     page                page                page                page
///     ├───────────────────┼───────────────────┼───────────────────┤
///     │ array before │ this array                       │ array behind
///     │◀──── skip ──▶│◀───────────── count ────────────▶│
///     │◀─────────────────────── window ──────────────────────────▶│
///
/// What lies in a window beside the array is other arrays of the same file, the header, or zeros
/// behind the file's end. `mlxquant export --to swift` writes arrays in an order in which all that
/// can fill whole pages do: these need no window.
struct MappedBytes {
    /// Where the window begins; a page.
    let start: UnsafeMutableRawPointer
    /// Bytes of the window; whole pages.
    let window: Int
    /// Bytes of the window in front of the array.
    let skip: Int
    /// Bytes of the array.
    let count: Int
    /// The file, which keeps the bytes where they are for as long as it lives.
    let file: MappedFile

    /// Whether the array fills whole pages alone.
    var isWhole: Bool {
        skip == 0 && window == count
    }

    /// The window of a region; nil where it holds nothing.
    ///
    /// - Parameters:
    ///   - region: of a mapped file.
    ///   - page: bytes of a page, a power of two.
    init?(_ region: FileRegion, page: Int = MappedBytes.pageSize) {
        guard region.count > 0 else { return nil }
        // The pointer outlives the call: a mapped file's bytes stay in place until it is let go of, and
        // whoever has the window holds `file`.
        let base = region.withUnsafeBytes { bytes in
            bytes.baseAddress.map { UnsafeMutableRawPointer(mutating: $0) }
        }
        guard let base else { return nil }
        skip = Int(bitPattern: base) & (page - 1)
        start = base - skip
        count = region.count
        window = (skip + count + page - 1) & ~(page - 1)
        file = region.file
    }

    /// Bytes of a page of memory: 16,384 on Apple's own chips.
    static let pageSize = Int(sysconf(Int32(_SC_PAGESIZE)))
}
