// swift-tools-version: 6.0

import PackageDescription

let package = Package(
    name: "mlxquant",
    platforms: [.macOS(.v14), .iOS(.v17), .tvOS(.v17), .visionOS(.v1)],
    products: [
        .library(name: "MLXQuantFormats", targets: ["MLXQuantFormats"]),
        .executable(name: "mlxquant-swift", targets: ["mlxquant-swift"]),
    ],
    targets: [
        .target(name: "MLXQuantFormats", path: "swift-bridge/Sources/MLXQuantFormats"),
        .executableTarget(
            name: "mlxquant-swift",
            dependencies: ["MLXQuantFormats"],
            path: "swift-bridge/Sources/mlxquant-swift"
        ),
        .testTarget(
            name: "MLXQuantFormatsTests",
            dependencies: ["MLXQuantFormats"],
            path: "swift-bridge/Tests/MLXQuantFormatsTests"
        ),
    ],
    swiftLanguageModes: [.v6]
)
