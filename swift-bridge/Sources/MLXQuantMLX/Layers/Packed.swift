#if canImport(MLX)
    import MLX
    import MLXQuantFormats

    /// Refuses what is no matrix of whole blocks of a format that has a kernel; with `experts` what is no
    /// stack of such matrices.
    func checkPacked(
        _ weight: MLXArray,
        _ format: WeightFormat,
        experts: Bool = false
    ) throws(FormatError) {
        guard KernelSource.formats.contains(format.name) else {
            let reason = "has no kernel; formats that have one: "
            throw FormatError(
                .request,
                field: format.name,
                reason: reason + KernelSource.formats.joined(separator: ", ")
            )
        }
        guard weight.dtype == .uint8, weight.ndim == (experts ? 3 : 2),
            weight.dim(-1) % format.blockBytes == 0
        else {
            throw FormatError(
                .request,
                field: "weight of \(format.name)",
                reason: "\(weight.dtype) \(weight.shape); uint8 "
                    + (experts ? "[experts, rows, bytes]" : "[rows, bytes]")
                    + " of whole blocks of \(format.blockBytes) bytes needed"
            )
        }
    }

    /// x [..., columns] times packed rows → [..., rows].
    func packedProduct(
        _ x: MLXArray,
        _ weight: MLXArray,
        _ format: WeightFormat
    ) -> MLXArray {
        let columns = x.shape.last ?? 1
        let x = x.dtype.isFloatingPoint ? x : x.asType(.float32)
        let flat = x.reshaped([columns == 0 ? 0 : x.size / columns, columns])
        let result = orStop {
            () throws(FormatError) in try PackedKernels.product(flat, weight, format)
        }
        return result.reshaped(Array(x.shape.dropLast()) + [weight.dim(0)])
    }

    /// A layer's result. MLX's layers do not throw: an input of the wrong shape stops the program there
    /// too, with a line that says which.
    func orStop(_ body: () throws(FormatError) -> MLXArray) -> MLXArray {
        do throws(FormatError) {
            return try body()
        } catch {
            preconditionFailure(error.description)
        }
    }
#endif
