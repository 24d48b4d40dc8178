// swift-tools-version: 6.1

import PackageDescription

// MLXQuantMLX works on mlx-swift's arrays. Only who asks for the trait `MLX` gets mlx-swift: without
// it nothing outside of this package is resolved.
//
//     .package(url: "…", from: "…", traits: ["MLX"])     in the manifest of a package
//     MLXQUANT_MLX=1 swift build                         for this package alone
//     MLXQUANT_MLX=stand-in swift test                   tests of it where there is no MLX: against
//                                                        modules with mlx-swift's signatures
let mlx = Context.environment["MLXQUANT_MLX"] ?? ""
let standIn = mlx == "stand-in"

let mlxDependencies: [Target.Dependency] =
    standIn
    ? ["MLX", "MLXNN"]
    : ["MLX", "MLXNN"].map {
        .product(name: $0, package: "mlx-swift", condition: .when(traits: ["MLX"]))
    }

let package = Package(
    name: "mlxquant",
    platforms: [.macOS(.v14), .iOS(.v17), .tvOS(.v17), .visionOS(.v1)],
    products: [
        .library(name: "MLXQuantFormats", targets: ["MLXQuantFormats"]),
        .library(name: "MLXQuantMLX", targets: ["MLXQuantMLX"]),
        .library(name: "MLXQuantRuntime", targets: ["MLXQuantRuntime"]),
        .executable(name: "mlxquant-swift", targets: ["mlxquant-swift"]),
    ],
    traits: [
        .trait(name: "MLX", description: "MLXQuantMLX hands its arrays to mlx-swift."),
        .default(enabledTraits: mlx == "1" ? ["MLX"] : []),
    ],
    dependencies: standIn
        ? []
        : [
            .package(
                url: "https://github.com/ml-explore/mlx-swift",
                .upToNextMinor(from: "0.31.4")
            )
        ],
    targets: [
        .target(name: "MLXQuantFormats", path: "swift-bridge/Sources/MLXQuantFormats"),
        .target(
            name: "MLXQuantMLX",
            dependencies: ["MLXQuantFormats"] + mlxDependencies,
            path: "swift-bridge/Sources/MLXQuantMLX"
        ),
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

if standIn {
    // Nothing but what these tests need, so that they build in little time.
    let needed = ["MLXQuantFormats", "MLXQuantMLX"]
    package.products.removeAll { !needed.contains($0.name) }
    package.targets.removeAll { !needed.contains($0.name) }
    package.targets += [
        .target(name: "MLX", path: "swift-bridge/Tests/StandIns/MLX"),
        .target(
            name: "MLXNN",
            dependencies: ["MLX"],
            path: "swift-bridge/Tests/StandIns/MLXNN"
        ),
        .testTarget(
            name: "MLXQuantMLXTests",
            dependencies: ["MLXQuantFormats", "MLXQuantMLX", "MLX", "MLXNN"],
            path: "swift-bridge/Tests/MLXQuantMLXTests"
        ),
    ]
}
