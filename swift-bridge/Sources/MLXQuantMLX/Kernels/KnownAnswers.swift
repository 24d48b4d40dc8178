#if canImport(MLX)
    import MLX
    import MLXQuantFormats

    extension PackedKernels {
        /// Has this GPU try kernels on weights that are known, and compares: before they are used for
        /// the first time, so that none gives a wrong number.
        ///
        /// Of x every second row has a single 1: it picks a column out, whose weights have to come to
        /// the bit. The others are of 1 and -1: a weight that is left out, or is another's, makes a sum
        /// that rounding does not explain. Where there is no such row or matrix of weights, NaN has to
        /// come. A GPU may take a subnormal number for zero.
        ///
        /// - Parameter trials: of the kernels; those that are the same are tried once.
        /// - Throws: `FormatError` if there is no GPU, or a kernel does not compile or gives another
        ///   number; it says what to do instead.
        static func check(_ trials: [Trial]) throws(FormatError) {
            guard trials.isEmpty || Device.defaultDevice().deviceType == .gpu else {
                throw FormatError(
                    .request,
                    field: "\(Device.defaultDevice())",
                    reason: "blocks are multiplied on a GPU: \(instead)"
                )
            }
            var seen: Set<Trial.Key> = []
            var pools: [String: KnownBlocks] = [:]
            for trial in trials where seen.insert(trial.key).inserted {
                let name = trial.format.name
                if pools[name] == nil {
                    pools[name] = try KnownBlocks(trial.format)
                }
                if let pool = pools[name] {
                    try check(trial, pool)
                }
            }
        }

        private static func check(_ trial: Trial, _ pool: KnownBlocks) throws(FormatError) {
            let (launch, format) = (trial.launch, trial.format)
            let columns = launch.kernel.name.hasPrefix("dequantize") ? launch.shape[1] : trial.x[1]
            let rows = trial.wire.dropLast().reduce(1, *)
            let (wire, weights) = pool.rows(rows, blocks: columns / format.blockSize)
            let packed = MLXArray(wire, trial.wire)
            switch trial.call {
            case .rows:
                let ids = (0..<trial.x[0]).map { ($0 * 7 + 3) % (rows + 1) } + [rows]
                let found = try answer(trial) { () throws(FormatError) in
                    try dequantizeRows(packed, MLXArray(ids.map(UInt32.init)), format, launch.type)
                }
                let wanted = try rounded(weights, launch.type)
                try compare(trial, found, [ids.count, columns]) { m, k in
                    ids[m] == rows ? nil : .exact(wanted[ids[m] * columns + k])
                }
            case .product, .gather:
                // one row alone picks out or sums up: once each
                for turn in 0..<(trial.x[0] == 1 ? 2 : 1) {
                    try check(trial, packed, try weightsOfSums(trial, weights), turn)
                }
            }
        }

        /// Decoded weights as a kernel sums them up: those of tiles are of x's type.
        private static func weightsOfSums(
            _ trial: Trial,
            _ weights: [Float]
        ) throws(FormatError) -> [Float] {
            guard trial.launch.kernel.name.contains("matmul") else { return weights }
            return try rounded(weights, trial.launch.type)
        }

        private static func check(
            _ trial: Trial,
            _ packed: MLXArray,
            _ weights: [Float],
            _ turn: Int
        ) throws(FormatError) {
            let (m, columns, type) = (trial.x[0], trial.x[1], trial.launch.type)
            let (n, matrices) = (trial.launch.shape[1], trial.wire.count == 3 ? trial.wire[0] : 1)
            var random = SplitMix(state: UInt64(m + turn))
            var x = [Float](repeating: 0, count: m * columns)
            let picked = (0..<m).map { row in
                (row + turn) % 2 == 0 ? (row * 997 + n * 31) % columns : nil
            }
            for row in 0..<m {
                if let column = picked[row] {
                    x[row * columns + column] = 1
                } else {
                    for column in 0..<columns {
                        x[row * columns + column] = random.next() % 2 == 0 ? 1 : -1
                    }
                }
            }
            // as a mixture's: in order, and at last one that is no matrix's
            let ids = (0..<m).map { trial.call == .gather ? $0 * (matrices + 1) / m : 0 }
            let given = MLXArray(x, trial.x).asType(type.dtype)
            let found = try answer(trial) { () throws(FormatError) in
                guard trial.call == .gather else { return try run(trial.launch, [given, packed]) }
                let ids = MLXArray(ids.map(UInt32.init))
                return try run(trial.launch, [given, inDeviceMemory(ids), packed])
            }
            let wanted = try rounded(weights, type)
            let terms = terms(weights, columns, trial.format.blockSize)
            try compare(trial, found, [m, n]) { row, index in
                guard ids[row] < matrices else { return nil }
                let first = (ids[row] * n + index) * columns
                if let column = picked[row] {
                    return .exact(wanted[first + column])
                }
                let sum = sum(x, row * columns, weights, first, columns)
                let rounding = terms[ids[row] * n + index] + abs(sum) * type.rounding
                return .about(sum, within: rounding)
            }
        }

        /// What a number has to be.
        private enum Wanted {
            case exact(Float)
            case about(Double, within: Double)

            func holds(_ found: Float, _ type: FloatType) -> Bool {
                switch self {
                case .exact(let wanted):
                    found == wanted || (found == 0 && abs(wanted) < type.leastNormal)
                case .about(let wanted, let error): abs(Double(found) - wanted) <= error
                }
            }
        }

        /// The product of a row of 1 and -1 with a row of weights.
        private static func sum(
            _ x: [Float],
            _ left: Int,
            _ weights: [Float],
            _ right: Int,
            _ columns: Int
        ) -> Double {
            x.withUnsafeBufferPointer { x in
                weights.withUnsafeBufferPointer { weights in
                    var (sum, column) = (0.0, 0)
                    while column < columns {
                        sum += Double(x[left + column] * weights[right + column])
                        column += 1
                    }
                    return sum
                }
            }
        }

        /// How far rounding may lead away from the sum of each row of weights: 32 lanes add up terms of
        /// the size of their block's greatest weight in float32, and are then added up.
        private static func terms(_ weights: [Float], _ columns: Int, _ size: Int) -> [Double] {
            stride(from: 0, to: weights.count, by: columns).map { row in
                let greatest = stride(from: row, to: row + columns, by: size).map { block in
                    weights[block..<(block + size)].reduce(0) { max($0, abs($1)) }
                }
                let sizes = Double(greatest.reduce(0, +)) * Double(size)
                return sizes * Double(columns / 32 + 64) * 0x1p-24
            }
        }

        /// Holds numbers [m, n] against what is wanted; nil for NaN.
        private static func compare(
            _ trial: Trial,
            _ found: [Float],
            _ shape: [Int],
            _ wanted: (Int, Int) -> Wanted?
        ) throws(FormatError) {
            for index in found.indices {
                let (row, column) = (index / shape[1], index % shape[1])
                let right = wanted(row, column)
                guard right?.holds(found[index], trial.launch.type) ?? found[index].isNaN else {
                    let said = right.map { "\($0)" } ?? "NaN"
                    throw wrong(trial, "[\(row), \(column)] is \(found[index]), not \(said)")
                }
            }
        }

        /// Numbers as another type has them, which MLX rounds to.
        private static func rounded(
            _ numbers: [Float],
            _ type: FloatType
        ) throws(FormatError) -> [Float] {
            guard type != .float32 else { return numbers }
            do {
                let array = MLXArray(numbers).asType(type.dtype).asType(.float32)
                try checkedEval(array)
                return array.asArray(Float.self)
            } catch {
                throw FormatError(.request, field: "\(type.dtype)", reason: "\(error)")
            }
        }

        /// A kernel's result as numbers; MLX's own errors as ours.
        private static func answer(
            _ trial: Trial,
            _ body: () throws(FormatError) -> MLXArray
        ) throws(FormatError) -> [Float] {
            do {
                // MLX reports what is wrong on the way, and reads what was never computed all the same:
                // nothing is read before it is known to be there.
                let array = try withError { try body().asType(.float32) }
                try checkedEval(array)
                return array.asArray(Float.self)
            } catch let error as FormatError {
                throw error
            } catch {
                throw wrong(trial, "\(error)")
            }
        }

        private static func wrong(_ trial: Trial, _ what: String) -> FormatError {
            FormatError(
                .request,
                field: "\(trial.launch.kernel.name) of \(trial.format.name)",
                reason: "fails its check on this GPU (\(what)): \(instead)"
            )
        }

        private static let instead =
            "run the model with MLXQuantRuntime, or make one of MLX's formats of it, "
            + "`mlxquant import --requantize affine4-g64`"
    }

    extension FloatType {
        /// Half a unit in the last place, of 1.
        fileprivate var rounding: Double {
            switch self {
            case .float32: 0x1p-24
            case .float16: 0x1p-11
            case .bfloat16: 0x1p-8
            }
        }

        /// The least number that is no subnormal one.
        fileprivate var leastNormal: Float {
            self == .float16 ? 0x1p-14 : 0x1p-126
        }
    }
#endif
