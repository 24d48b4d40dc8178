// The element types: no blocks, no codes, one value a weight, little-endian.
//
//     type  F64  F32  F16  BF16  I8  I16  I32  I64
//     bytes   8    4    2     2   1    2    4    8
//
// Decoding is exact for F32, F16, BF16, I8 and I16, and rounds to nearest for the rest; NaN keeps its
// sign and payload, and becomes quiet in F16.

/// One value a weight.
private protocol PlainValue: Sendable {
    associatedtype Stored: BitwiseCopyable

    static var type: ElementType { get }
    static func float(_ stored: Stored) -> Float
}

private enum PlainF32: PlainValue {
    static let type = ElementType.f32

    @inline(__always)
    static func float(_ stored: UInt32) -> Float { Float(bitPattern: UInt32(littleEndian: stored)) }
}

private enum PlainF64: PlainValue {
    static let type = ElementType.f64

    @inline(__always)
    static func float(_ stored: UInt64) -> Float {
        Float(Double(bitPattern: UInt64(littleEndian: stored)))
    }
}

private enum PlainF16: PlainValue {
    static let type = ElementType.f16

    @inline(__always)
    static func float(_ stored: UInt16) -> Float {
        let bits = UInt16(littleEndian: stored)
        let quiet: UInt32 = bits & 0x7FFF > 0x7C00 ? 0x0040_0000 : 0
        return Float(
            bitPattern: MLXQuantFormats.float(half: bits).bitPattern | quiet
        )
    }
}

private enum PlainBF16: PlainValue {
    static let type = ElementType.bf16

    @inline(__always)
    static func float(_ stored: UInt16) -> Float {
        MLXQuantFormats.float(bfloat: UInt16(littleEndian: stored))
    }
}

private enum PlainI8: PlainValue {
    static let type = ElementType.i8

    @inline(__always)
    static func float(_ stored: Int8) -> Float { Float(stored) }
}

private enum PlainI16: PlainValue {
    static let type = ElementType.i16

    @inline(__always)
    static func float(_ stored: Int16) -> Float { Float(Int16(littleEndian: stored)) }
}

private enum PlainI32: PlainValue {
    static let type = ElementType.i32

    @inline(__always)
    static func float(_ stored: Int32) -> Float { Float(Int32(littleEndian: stored)) }
}

private enum PlainI64: PlainValue {
    static let type = ElementType.i64

    @inline(__always)
    static func float(_ stored: Int64) -> Float { Float(Int64(littleEndian: stored)) }
}

extension WeightFormat {
    /// The format of an element type: one value a weight.
    ///
    /// - Parameter type: of the stored values; what is no number cannot be decoded.
    public init(_ type: ElementType) {
        switch type {
        case .f32: self.init(PlainF32.self)
        case .f64: self.init(PlainF64.self)
        case .f16: self.init(PlainF16.self)
        case .bf16: self.init(PlainBF16.self)
        case .i8: self.init(PlainI8.self)
        case .i16: self.init(PlainI16.self)
        case .i32: self.init(PlainI32.self)
        case .i64: self.init(PlainI64.self)
        default: self.init(plain: type, decoder: nil)
        }
    }

    private init<Value: PlainValue>(_ value: Value.Type) {
        let stride = MemoryLayout<Value.Stored>.size
        let decoder = Decoder(
            floats: { wire, count, out in
                for index in 0..<count {
                    let at = wire.weight + index &* stride
                    out[index] = Value.float(at.loadUnaligned(as: Value.Stored.self))
                }
            },
            halves: { wire, count, out in
                for index in 0..<count {
                    let at = wire.weight + index &* stride
                    out[index] = halfBits(Value.float(at.loadUnaligned(as: Value.Stored.self)))
                }
            }
        )
        self.init(plain: Value.type, decoder: decoder)
    }

    /// A value of several to the byte (F4, F6) counts as a block that fills whole bytes.
    private init(plain type: ElementType, decoder: Decoder?) {
        let together = type.bits % 8 == 0 ? 1 : type.bits == 4 ? 2 : 4
        self.init(
            name: type.rawValue,
            bits: type.bits,
            blockSize: together,
            parts: [Part(suffix: "weight", type: type, blockBytes: together * type.bits / 8)],
            decoder: decoder
        )
    }
}
