// swift-tools-version: 6.1

import PackageDescription

// What benchmarks/swift.py measures; a package of its own, so that users of the library do not build it.
let package = Package(
    name: "benchmarks",
    platforms: [.macOS(.v14)],
    dependencies: [.package(name: "mlxquant", path: "../..")],
    targets: [
        .executableTarget(
            name: "formats-benchmark",
            dependencies: [.product(name: "MLXQuantFormats", package: "mlxquant")]
        )
    ],
    swiftLanguageModes: [.v6]
)
