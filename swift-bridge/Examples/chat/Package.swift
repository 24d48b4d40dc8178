// swift-tools-version: 6.1

import PackageDescription

// An app outside of this repository names it by its URL instead.
let package = Package(
    name: "chat",
    platforms: [.macOS(.v14)],
    dependencies: [.package(name: "mlxquant", path: "../../..")],
    targets: [
        .executableTarget(
            name: "chat",
            dependencies: [
                .product(name: "MLXQuantFormats", package: "mlxquant"),
                .product(name: "MLXQuantRuntime", package: "mlxquant"),
            ]
        )
    ]
)
