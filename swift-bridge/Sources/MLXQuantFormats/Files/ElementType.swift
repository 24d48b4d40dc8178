/// The element types of safetensors files, by their names there.
public enum ElementType: String, Sendable, Hashable, CaseIterable {
    /// Truth values, a byte each.
    case bool = "BOOL"
    /// 4-bit floats (E2M1), two to a byte.
    case f4 = "F4"
    /// 6-bit floats with a fraction of 3 bits.
    case f6e2m3 = "F6_E2M3"
    /// 6-bit floats with a fraction of 2 bits.
    case f6e3m2 = "F6_E3M2"
    /// Unsigned 8-bit integers.
    case u8 = "U8"
    /// Signed 8-bit integers.
    case i8 = "I8"
    /// 8-bit floats with a fraction of 2 bits.
    case f8e5m2 = "F8_E5M2"
    /// 8-bit floats with a fraction of 3 bits.
    case f8e4m3 = "F8_E4M3"
    /// Powers of two, an exponent of 8 bits.
    case f8e8m0 = "F8_E8M0"
    /// A variant of `f8e4m3` with a single NaN and no negative zero.
    case f8e4m3fnuz = "F8_E4M3FNUZ"
    /// A variant of `f8e5m2` with a single NaN and no negative zero.
    case f8e5m2fnuz = "F8_E5M2FNUZ"
    /// Signed 16-bit integers.
    case i16 = "I16"
    /// Unsigned 16-bit integers.
    case u16 = "U16"
    /// IEEE 754 half precision.
    case f16 = "F16"
    /// The upper half of an `f32`.
    case bf16 = "BF16"
    /// Signed 32-bit integers.
    case i32 = "I32"
    /// Unsigned 32-bit integers.
    case u32 = "U32"
    /// IEEE 754 single precision.
    case f32 = "F32"
    /// Complex numbers, two `f32`.
    case c64 = "C64"
    /// IEEE 754 double precision.
    case f64 = "F64"
    /// Signed 64-bit integers.
    case i64 = "I64"
    /// Unsigned 64-bit integers.
    case u64 = "U64"

    /// How many bits one element takes.
    public var bits: Int {
        switch self {
        case .f4: 4
        case .f6e2m3, .f6e3m2: 6
        case .bool, .u8, .i8, .f8e5m2, .f8e4m3, .f8e8m0, .f8e4m3fnuz, .f8e5m2fnuz: 8
        case .i16, .u16, .f16, .bf16: 16
        case .i32, .u32, .f32: 32
        case .c64, .f64, .i64, .u64: 64
        }
    }
}
