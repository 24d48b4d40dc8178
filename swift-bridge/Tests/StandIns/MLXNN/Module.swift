// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import MLX

// What MLXQuantMLX uses of MLXNN, with its signatures; see the stand-in for MLX. A module's children and
// parameters are those that it has been given by name.

/// As MLX's, for what is updated here: paths and values.
public struct NestedDictionary<Key: Hashable, Element> {
    let values: [(Key, Element)]

    /// As MLX's.
    public func flattened(prefix: String? = nil) -> [(Key, Element)] { values }

    /// As MLX's.
    public static func unflattened(_ flat: some Collection<(Key, Element)>) -> Self {
        Self(values: Array(flat))
    }

    /// As MLX's.
    public static func unflattened(_ flat: [Key: Element]) -> Self {
        Self(values: flat.map { ($0, $1) })
    }
}

/// As MLX's.
public typealias ModuleParameters = NestedDictionary<String, MLXArray>
/// As MLX's.
public typealias ModuleChildren = NestedDictionary<String, Module>

/// As MLX's, thrown where names or shapes do not fit.
public enum UpdateError: Error, Equatable {
    case unusedKeys([String])
    case keyNotFound(String)
    case mismatchedSize(String)
}

/// A layer, or a model of layers by path.
open class Module: Evaluatable {
    /// For tests: a model's layers by path.
    public var layers: [String: Module] = [:]
    /// For tests: what happened, in order.
    public var events: [String] = []

    /// As MLX's.
    public init() {}

    /// For tests: the parameters by name.
    open var named: [String: MLXArray] { [:] }

    /// For tests.
    open func set(_ name: String, _ array: MLXArray) {}

    /// As MLX's.
    public struct VerifyUpdate: OptionSet, Sendable {
        public let rawValue: Int

        public init(rawValue: Int) {
            self.rawValue = rawValue
        }

        public static let noUnusedKeys = VerifyUpdate(rawValue: 1 << 0)
        public static let allModelKeysSet = VerifyUpdate(rawValue: 1 << 1)
        public static let shapeMismatch = VerifyUpdate(rawValue: 1 << 2)
        public static let all = VerifyUpdate(rawValue: -1)
        public static let none = VerifyUpdate([])
    }

    /// As MLX's.
    open func leafModules() -> ModuleChildren {
        .unflattened(layers)
    }

    /// As MLX's.
    @discardableResult
    open func update(
        modules: ModuleChildren,
        verify: VerifyUpdate,
        path: [String] = [],
        modulePath: [String] = []
    ) throws -> Self {
        for (name, module) in modules.flattened() {
            guard layers[name] != nil else { throw UpdateError.unusedKeys([name]) }
            layers[name] = module
        }
        return self
    }

    /// As MLX's.
    @discardableResult
    open func update(
        parameters: ModuleParameters,
        verify: VerifyUpdate,
        path: [String] = [],
        modulePath: [String] = []
    ) throws -> Self {
        var missing = Set(
            layers.flatMap { path, layer in layer.named.keys.map { "\(path).\($0)" } }
        )
        for (name, array) in parameters.flattened() {
            let (path, last) = split(name)
            guard let layer = layers[path], let old = layer.named[last] else {
                throw UpdateError.unusedKeys([name])
            }
            if verify.contains(.shapeMismatch), old.shape != array.shape {
                throw UpdateError.mismatchedSize("\(name): \(old.shape), \(array.shape)")
            }
            layer.set(last, array)
            missing.remove(name)
        }
        if verify.contains(.allModelKeysSet), let first = missing.min() {
            throw UpdateError.keyNotFound(first)
        }
        events.append("update")
        return self
    }

    /// As MLX's.
    public func freeze(recursive: Bool = true, keys: [String]? = nil) {}

    public func evaluated() {
        events.append("eval")
    }
}

private func split(_ name: String) -> (String, String) {
    let dot = name.lastIndex(of: ".") ?? name.startIndex
    return (String(name[..<dot]), String(name[name.index(after: dot)...]))
}
