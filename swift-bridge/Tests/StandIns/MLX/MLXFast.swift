// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import Foundation

/// What may be given for a template's parameters.
public protocol KernelTemplateArg {}

/// A call of a kernel, for tests.
public struct KernelCall {
    /// As it was made with.
    public let name: String
    public let inputNames: [String]
    public let outputNames: [String]
    public let source: String
    public let header: String
    /// As it was called with.
    public let inputs: [MLXArray]
    public let grid: (Int, Int, Int)
    public let threadGroup: (Int, Int, Int)
    public let outputShapes: [[Int]]
    public let outputDTypes: [DType]

    /// The same call of other inputs.
    public func with(_ inputs: [MLXArray]) -> KernelCall {
        KernelCall(
            name: name,
            inputNames: inputNames,
            outputNames: outputNames,
            source: source,
            header: header,
            inputs: inputs,
            grid: grid,
            threadGroup: threadGroup,
            outputShapes: outputShapes,
            outputDTypes: outputDTypes
        )
    }
}

/// MLX's, where kernels are.
public enum MLXFast {
    /// For tests: what calls of kernels give within `body`.
    public static func withKernels<R>(
        _ run: @escaping (KernelCall) throws -> [MLXArray],
        _ body: () throws -> R
    ) rethrows -> R {
        try $kernels.withValue(Run(run), operation: body)
    }

    struct Run: @unchecked Sendable {
        let body: (KernelCall) throws -> [MLXArray]

        init(_ body: @escaping (KernelCall) throws -> [MLXArray]) {
            self.body = body
        }
    }

    @TaskLocal static var kernels: Run?

    /// As MLX's.
    public final class MLXFastKernel: @unchecked Sendable {
        /// As MLX's.
        public let outputNames: [String]
        private let make:
            ([MLXArray], (Int, Int, Int), (Int, Int, Int), [[Int]], [DType]) -> KernelCall

        init(
            _ outputNames: [String],
            _ make:
                @escaping ([MLXArray], (Int, Int, Int), (Int, Int, Int), [[Int]], [DType]) ->
                KernelCall
        ) {
            self.outputNames = outputNames
            self.make = make
        }

        /// As MLX's; an error is MLX's own, as of a kernel that does not compile.
        public func callAsFunction(
            _ inputs: [any ScalarOrArray],
            template: [(String, any KernelTemplateArg)]? = nil,
            grid: (Int, Int, Int),
            threadGroup: (Int, Int, Int),
            outputShapes: some Sequence<[Int]>,
            outputDTypes: some Sequence<DType>,
            initValue: Float? = nil,
            verbose: Bool = false,
            stream: StreamOrDevice = .default
        ) -> [MLXArray] {
            let arrays = inputs.map { $0.asMLXArray(dtype: nil) }
            let (shapes, types) = (Array(outputShapes), Array(outputDTypes))
            guard let run = MLXFast.kernels else { preconditionFailure("no kernels in this test") }
            do {
                return try run.body(make(arrays, grid, threadGroup, shapes, types))
            } catch {
                return zip(shapes, types).map { shape, type in
                    let array = MLXArray.zeros(shape, dtype: type)
                    array.failure = "\(error)"
                    return array
                }
            }
        }
    }

    /// As MLX's.
    public static func metalKernel(
        name: String,
        inputNames: some Sequence<String>,
        outputNames: some Sequence<String>,
        source: String,
        header: String = "",
        ensureRowContiguous: Bool = true,
        atomicOutputs: Bool = false
    ) -> MLXFastKernel {
        let (inputNames, outputNames) = (Array(inputNames), Array(outputNames))
        return MLXFastKernel(outputNames) { inputs, grid, threads, shapes, types in
            KernelCall(
                name: name,
                inputNames: inputNames,
                outputNames: outputNames,
                source: source,
                header: header,
                inputs: inputs,
                grid: grid,
                threadGroup: threads,
                outputShapes: shapes,
                outputDTypes: types
            )
        }
    }
}

/// As MLX's.
public enum MLXError: Error, Sendable, Equatable {
    case caught(String)
}

/// As MLX's: what MLX reports within `body` is thrown at its end.
public func withError<R>(_ body: () throws -> R) throws -> R {
    let box = ErrorHandler()
    return try ErrorHandler.$current.withValue(box) {
        let result = try body()
        if let first = box.first {
            throw MLXError.caught(first)
        }
        return result
    }
}

final class ErrorHandler: @unchecked Sendable {
    @TaskLocal static var current: ErrorHandler?
    var first: String?

    static func report(_ message: String) {
        guard let current else { fatalError(message) }
        current.first = current.first ?? message
    }
}

/// As MLX's.
public enum QuantizationMode: String, Codable, Sendable {
    case affine, mxfp4, mxfp8, nvfp4
}

/// As MLX's, of what can be evaluated.
public protocol Evaluatable {
    /// For tests.
    func evaluated()
}

/// As MLX's.
public func checkedEval(_ values: Any...) throws {
    try withError {
        for case let array as MLXArray in values {
            if let failure = array.failure {
                ErrorHandler.report(failure)
            }
        }
        for case let value as Evaluatable in values {
            value.evaluated()
        }
    }
}
