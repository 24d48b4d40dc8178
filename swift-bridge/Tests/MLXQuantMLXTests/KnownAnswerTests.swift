import MLX
import MLXQuantFormats
import Testing

@testable import MLXQuantMLX

/// The check of kernels before their first use: that it tries those that layers use, accepts right ones,
/// and no others.
struct KnownAnswerTests {
    private static func format(_ name: String) throws -> WeightFormat {
        try #require(WeightFormat(named: name))
    }

    private static func wire(_ format: WeightFormat, _ shape: [Int]) -> [Int] {
        shape.dropLast() + [shape[shape.count - 1] / format.blockSize * format.blockBytes]
    }

    private static func key(_ launch: Launch) -> Trial.Key {
        Trial.Key(kernel: launch.kernel, format: launch.format, type: launch.type)
    }

    /// Whatever number of rows there are, the kernel that takes them is among those that are tried.
    @Test(
        arguments: [[16, 256], [1024, 4096], [2000, 8192], [14336, 4096]],
        FloatType.allCases
    )
    func everyKernelOfAMatrixIsTried(shape: [Int], type: FloatType) throws {
        for name in ["Q8_0", "Q4_K", "Q6_K"] {
            let format = try Self.format(name)
            let wire = Self.wire(format, shape)
            let tried = try Set(Trial.all(format, wire: wire, type, looksUp: true).map(\.key))
            for m in Array(1...70) + [100, 512, 4096] {
                let launch = try Launch.product(format, x: [m, shape[1]], wire: wire, type)
                #expect(tried.contains(Self.key(launch)), "\(m)")
            }
            let rows = try Launch.dequantizeRows(format, wire: wire, count: 1, type)
            #expect(tried.contains(Self.key(rows)))
        }
    }

    @Test(arguments: [[8, 768, 2048], [128, 1024, 4096], [2, 14336, 8192]], FloatType.allCases)
    func everyKernelOfExpertsIsTried(shape: [Int], type: FloatType) throws {
        let format = try Self.format("Q4_K")
        let wire = Self.wire(format, shape)
        let tried = try Set(Trial.all(format, wire: wire, type).map(\.key))
        for pairs in Array(1...70) + [320, 400, 1024, 8192, 60_000] {
            let launch = try Launch.gather(format, x: [pairs, shape[2]], wire: wire, type)
            #expect(tried.contains(Self.key(launch)), "\(pairs)")
        }
    }

    /// Trials of which each has another kernel.
    private static func trials(
        _ format: WeightFormat,
        _ shape: [Int],
        _ type: FloatType
    ) throws -> [Trial] {
        var seen: Set<Trial.Key> = []
        return try Trial.all(format, wire: wire(format, shape), type, looksUp: shape.count == 2)
            .filter { seen.insert($0.key).inserted }
    }

    @Test(arguments: [
        ([16, 256], FloatType.float32), ([3, 16, 256], .float16), ([9, 256], .bfloat16),
    ])
    func rightKernelsAreAccepted(shape: [Int], type: FloatType) throws {
        let trials = try Self.trials(try Self.format("Q4_K"), shape, type)
        let (_, calls) = try run { try PackedKernels.check(trials + trials) }
        // one row alone is tried with both kinds of x
        #expect(Set(calls).count == trials.count)
        #expect(calls.count == trials.count + (shape.count == 2 ? 1 : 0))
    }

    /// Every format has blocks to try, and their rows are looked up and multiplied.
    @Test(arguments: KernelSource.formats)
    func everyFormatIsChecked(name: String) throws {
        let format = try Self.format(name)
        let trials = try Self.trials(format, [16, 2 * 256], .float16).prefix(2)
        let (_, calls) = try run { try PackedKernels.check(Array(trials)) }
        #expect(calls.count == 3)
    }

    /// Half of a kernel's sums are split: longer rows are tried.
    @Test func splitKernelsAreAccepted() throws {
        let format = try Self.format("Q8_0")
        let trials = try Self.trials(format, [16, 8448], .bfloat16).filter {
            $0.launch.kernel.name.contains("split")
        }
        #expect(Set(trials.map { $0.x[1] }) == [8448])
        let (_, calls) = try run { try PackedKernels.check(trials.suffix(2)) }
        #expect(calls.allSatisfy { $0.contains("split8") })
    }

    /// Ways in which a kernel is wrong.
    enum Wrong: CaseIterable {
        case doesNotCompile, oneNumber, oneWeight, noMatrix
    }

    /// A kernel of any kind that is wrong in any way is seen.
    @Test(arguments: [[16, 256], [3, 16, 256]], Wrong.allCases)
    func wrongKernelsAreRefused(shape: [Int], wrong: Wrong) throws {
        let format = try Self.format("Q8_0")
        let trials = try Self.trials(format, shape, .float16)
        let kinds = Dictionary(grouping: trials) { $0.launch.kernel.name.prefix { !$0.isNumber } }
        #expect(kinds.count == (shape.count == 2 ? 4 : 2))
        for trial in kinds.values.compactMap(\.first) {
            let looksUp = trial.launch.kernel.name.hasPrefix("dequantize")
            if wrong == .noMatrix, shape.count == 2, !looksUp { continue }
            let error = #expect(throws: FormatError.self) {
                var kernels = KnownKernels()
                try MLXFast.withKernels(
                    { call in try Self.call(call, &kernels, wrong) },
                    { try PackedKernels.check([trial]) }
                )
            }
            let text = error?.description ?? ""
            #expect(text.contains("of Q8_0") && text.contains("--requantize"))
            #expect(text.contains("does not compile") == (wrong == .doesNotCompile))
        }
    }

    private static func call(
        _ call: KernelCall,
        _ kernels: inout KnownKernels,
        _ wrong: Wrong
    ) throws -> [MLXArray] {
        switch wrong {
        case .doesNotCompile: throw KnownKernels.Unknown(name: "does not compile")
        case .oneNumber, .noMatrix:
            let out = try kernels.run(call)[0]
            var values = out.asArray(Float.self)
            if wrong == .oneNumber {
                values[values.count / 2] += 1
                values[0] += 1
            } else {
                // as if the last matrix were taken for one that is not there
                values = values.map { $0.isNaN ? 0 : $0 }
            }
            return [MLXArray(values, out.shape).asType(out.dtype)]
        case .oneWeight:
            // a block in which one code is another
            let place = call.inputNames.firstIndex(of: "wire") ?? 0
            var (inputs, wire) = (call.inputs, call.inputs[place].asArray(UInt8.self))
            for row in 0..<(wire.count / 34) where row % 40 == 3 { wire[row * 34 + 9] ^= 0x40 }
            inputs[place] = MLXArray(wire, call.inputs[place].shape)
            return try kernels.run(call.with(inputs))
        }
    }

    /// Without a GPU no kernel is started: mlx-swift would stop the program.
    @Test func aProcessorIsRefused() throws {
        let trials = try Self.trials(try Self.format("Q8_0"), [16, 256], .float16)
        let error = #expect(throws: FormatError.self) {
            try Device.withDefault(.cpu) { try PackedKernels.check(trials) }
        }
        #expect(error?.description.contains("cpu") == true)
        #expect(error?.description.contains("MLXQuantRuntime") == true)
        try Device.withDefault(.cpu) { try PackedKernels.check([]) }
    }

    /// The preamble keeps Metal from rounding otherwise than Python.
    @Test func kernelsBeginWithThePreamble() throws {
        let trials = try Self.trials(try Self.format("Q8_0"), [16, 256], .float16).prefix(1)
        var kernels = KnownKernels()
        var headers: [String] = []
        try MLXFast.withKernels(
            { call in
                headers.append(call.header)
                return try kernels.run(call)
            },
            { try PackedKernels.check(Array(trials)) }
        )
        let preamble =
            "#include <metal_stdlib>\nusing namespace metal;\n"
            + "#pragma clang fp contract(off)\n"
        #expect(!headers.isEmpty && headers.allSatisfy { $0.hasPrefix(preamble) })
    }
}
