import Testing

@testable import MLXQuantRuntime
