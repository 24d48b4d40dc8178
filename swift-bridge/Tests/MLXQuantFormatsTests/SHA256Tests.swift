import Testing
@testable import MLXQuantFormats
