#if canImport(MLX)
    import Foundation
    import MLX
    import MLXQuantFormats

    /// MLX's objects for kernels, made once each; a call compiles one where it is new to MLX.
    ///
    /// Shared by all threads: the one thing in it that changes is guarded by its lock.
    final class KernelCache: @unchecked Sendable {
        private struct Key: Hashable {
            let kernel: Kernel
            let format: String
            let type: FloatType
        }

        private let lock = NSLock()
        // Guarded by `lock`.
        private var made: [Key: MLXFast.MLXFastKernel] = [:]

        /// The kernel of a launch.
        ///
        /// - Throws: `FormatError` if the format has none.
        func kernel(of launch: Launch) throws(FormatError) -> MLXFast.MLXFastKernel {
            guard KernelSource.formats.contains(launch.format) else {
                throw FormatError(
                    .request,
                    field: launch.format,
                    reason: "has no kernel; formats that have one: "
                        + KernelSource.formats.joined(separator: ", ")
                )
            }
            let key = Key(kernel: launch.kernel, format: launch.format, type: launch.type)
            lock.lock()
            defer { lock.unlock() }
            if let found = made[key] {
                return found
            }
            // One for each type: MLX compiles a kernel again whose signature changes.
            let name = "\(launch.kernel.name)_\(launch.format.lowercased())_\(launch.type.dtype)"
            let kernel = MLXFast.metalKernel(
                name: "mlxquant_\(name)",
                inputNames: launch.kernel.inputs,
                outputNames: ["out"],
                source: launch.kernel.call(launch.format),
                header: KernelSource.preamble
                    + KernelSource.header(launch.format, launch.kernel)
            )
            made[key] = kernel
            return kernel
        }
    }
#endif
