// swift-tools-version: 6.0

import PackageDescription

let package = Package(
    name: "mlxquant",
    platforms: [.macOS(.v14), .iOS(.v17), .tvOS(.v17), .visionOS(.v1)],
    products: [
        .library(name: "MLXQuantFormats", targets: ["MLXQuantFormats"]),
        .library(name: "MLXQuantRuntime", targets: ["MLXQuantRuntime"]),
        .executable(name: "mlxquant-swift", targets: ["mlxquant-swift"]),
    ],
    targets: [
        .target(name: "MLXQuantFormats", path: "swift-bridge/Sources/MLXQuantFormats"),
        .target(
            name: "MLXQuantRuntime",
            dependencies: ["MLXQuantFormats"],
            path: "swift-bridge/Sources/MLXQuantRuntime"
        ),
        .executableTarget(
            name: "mlxquant-swift",
            dependencies: ["MLXQuantFormats", "MLXQuantRuntime"],
            path: "swift-bridge/Sources/mlxquant-swift"
        ),
        .executableTarget(
            name: "formats-benchmark",
            dependencies: ["MLXQuantFormats"],
            path: "swift-bridge/Benchmarks"
        ),
        .testTarget(
            name: "MLXQuantFormatsTests",
            dependencies: ["MLXQuantFormats"],
            path: "swift-bridge/Tests/MLXQuantFormatsTests"
        ),
        .testTarget(
            name: "MLXQuantRuntimeTests",
            dependencies: ["MLXQuantRuntime"],
            path: "swift-bridge/Tests/MLXQuantRuntimeTests"
        ),
    ],
    swiftLanguageModes: [.v6]
)
