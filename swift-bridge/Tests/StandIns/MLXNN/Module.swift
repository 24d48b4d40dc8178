// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import MLX

// What MLXQuantMLX uses of MLXNN, with its signatures; see the stand-in for MLX. A module's items are
// found by reflection, what is replaced goes through ModuleInfo, and updates refuse what MLX's refuse:
// among others modules of an array whose first one is not in the update.

/// As MLX's: what a module has by one name.
public enum ModuleItem {
    case parameter(MLXArray)
    case module(Module)
    case several([Module])
}

private protocol AnyModuleInfo: AnyObject {
    var key: String? { get }
    var content: Any? { get }
    func set(_ value: Any) -> Bool
}

/// As MLX's: a child that can be replaced by what its type takes.
@propertyWrapper
public final class ModuleInfo<T>: AnyModuleInfo {
    private var module: T?
    let key: String?

    var content: Any? { module }

    public var wrappedValue: T {
        get {
            guard let found = module ?? (Optional<Any>.none as Any) as? T else {
                preconditionFailure("it has not been set")
            }
            return found
        }
        set { module = newValue }
    }

    public init(wrappedValue: T, key: String? = nil) {
        (module, self.key) = (wrappedValue, key)
    }

    public init(key: String? = nil) {
        self.key = key
    }

    func set(_ value: Any) -> Bool {
        guard let value = value as? T else { return false }
        module = value
        return true
    }
}

/// As MLX's, thrown where names, shapes or types do not fit.
public enum UpdateError: Error, Equatable {
    case unhandledKeys(path: [String], keys: [String])
    case keyNotFound(path: [String])
    case mismatchedSize(path: [String], expectedShape: [Int], actualShape: [Int])
    case mismatchedContainers(base: String, key: String)
    case unexpectedStructure(key: String)
    case incompatibleItems(path: [String])
    case needModuleInfo(String)
}

/// A layer, or a model of layers.
open class Module: Evaluatable {
    /// For tests: what happened, in order.
    public var events: [String] = []

    /// As MLX's.
    public init() {}

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

    private func eachItem(_ body: (String, ModuleItem, AnyModuleInfo?) -> Void) {
        var mirror: Mirror? = Mirror(reflecting: self)
        while let level = mirror, level.subjectType != Module.self {
            for child in level.children {
                let info = child.value as? any AnyModuleInfo
                let label = child.label ?? ""
                let name = info == nil ? label : info?.key ?? String(label.dropFirst())
                let value: Any? = info == nil ? child.value : info?.content
                if let array = value as? MLXArray {
                    body(name, .parameter(array), info)
                } else if let module = value as? Module {
                    body(name, .module(module), info)
                } else if let modules = value as? [Module], !modules.isEmpty {
                    body(name, .several(modules), info)
                }
            }
            mirror = level.superclassMirror
        }
    }

    /// As MLX's, with less in it.
    public func items() -> [String: ModuleItem] {
        var found: [String: ModuleItem] = [:]
        eachItem { name, item, _ in found[name] = item }
        return found
    }

    /// As MLX's.
    open func parameters() -> ModuleParameters {
        ModuleParameters(
            values: items().mapValues { item in
                switch item {
                case .parameter(let array): .value(array)
                case .module(let module): .dictionary(module.parameters().values)
                case .several(let modules):
                    .array(modules.map { .dictionary($0.parameters().values) })
                }
            }
        )
    }

    /// As MLX's.
    open func children() -> ModuleChildren {
        ModuleChildren(
            values: items().compactMapValues { item in
                switch item {
                case .parameter: nil
                case .module(let module): .value(module)
                case .several(let modules): .array(modules.map { .value($0) })
                }
            }
        )
    }

    /// As MLX's.
    open func leafModules() -> ModuleChildren {
        func leaves(_ module: Module) -> NestedItem<String, Module> {
            let inner = module.leafModules().values
            return inner.isEmpty ? .value(module) : .dictionary(inner)
        }
        return ModuleChildren(
            values: items().compactMapValues { item in
                switch item {
                case .parameter: nil
                case .module(let module): leaves(module)
                case .several(let modules): .array(modules.map(leaves))
                }
            }
        )
    }

    /// As MLX's.
    open func namedModules() -> [(String, Module)] {
        [("", self)]
            + children().flattened().flatMap { name, module in
                module.namedModules().map { ($0.0.isEmpty ? name : "\(name).\($0.0)", $0.1) }
            }
    }

    /// As MLX's.
    @discardableResult
    open func update(
        modules: ModuleChildren,
        verify: VerifyUpdate,
        path: [String] = [],
        modulePath: [String] = []
    ) throws -> Self {
        let items = items()
        for (key, value) in modules.values {
            switch (items[key], value) {
            case (nil, _):
                if verify.contains(.noUnusedKeys) {
                    throw UpdateError.unhandledKeys(path: path, keys: [key])
                }
            case (.module, .value(let new)):
                try put(key, new)
            case (.module(let module), .dictionary(let values)):
                try module.update(modules: ModuleChildren(values: values), verify: verify)
            case (.several(let old), .array(let new)):
                try updateSeveral(key, old, new, verify)
            default:
                throw UpdateError.incompatibleItems(path: path + [key])
            }
        }
        return self
    }

    private func updateSeveral(
        _ key: String,
        _ old: [Module],
        _ new: [NestedItem<String, Module>],
        _ verify: VerifyUpdate
    ) throws {
        switch new.first {
        case .value:
            let modules = zip(old, new).map { module, item in
                if case .value(let replaced) = item { replaced } else { module }
            }
            try put(key, modules)
        case .dictionary:
            for (module, item) in zip(old, new) {
                guard case .dictionary(let values) = item else {
                    throw UpdateError.mismatchedContainers(base: "\(type(of: self))", key: key)
                }
                try module.update(modules: ModuleChildren(values: values), verify: verify)
            }
        default:
            throw UpdateError.unexpectedStructure(key: key)
        }
    }

    private func put(_ key: String, _ value: Any) throws {
        var taken: Bool?
        eachItem { name, _, info in
            if name == key, let info { taken = info.set(value) }
        }
        if taken != true {
            let reason = taken == nil ? "must be wrapped to receive updates" : "type mismatch"
            throw UpdateError.needModuleInfo("\(type(of: self)).\(key): \(reason)")
        }
    }

    /// As MLX's.
    @discardableResult
    open func update(
        parameters: ModuleParameters,
        verify: VerifyUpdate,
        path: [String] = [],
        modulePath: [String] = []
    ) throws -> Self {
        let items = items()
        let unknown = parameters.values.keys.filter { items[$0] == nil }
        if verify.contains(.noUnusedKeys), !unknown.isEmpty {
            throw UpdateError.unhandledKeys(path: path, keys: unknown.sorted())
        }
        for (key, item) in items {
            try set(item, parameters.values[key] ?? .none, verify, path + [key])
        }
        events.append("update")
        return self
    }

    private func set(
        _ item: ModuleItem,
        _ value: NestedItem<String, MLXArray>,
        _ verify: VerifyUpdate,
        _ path: [String]
    ) throws {
        switch (item, value) {
        case (.parameter(let old), .value(let new)):
            if verify.contains(.shapeMismatch), old.shape != new.shape {
                throw UpdateError.mismatchedSize(
                    path: path,
                    expectedShape: old.shape,
                    actualShape: new.shape
                )
            }
            old._updateInternal(new)
        case (.parameter, .none):
            if verify.contains(.allModelKeysSet) { throw UpdateError.keyNotFound(path: path) }
        case (.module(let module), .dictionary(let values)):
            try module.update(
                parameters: ModuleParameters(values: values),
                verify: verify,
                path: path
            )
        case (.module(let module), .none):
            try module.update(parameters: ModuleParameters(values: [:]), verify: verify, path: path)
        case (.several(let modules), _):
            var items: [NestedItem<String, MLXArray>] = []
            if case .array(let found) = value { items = found }
            for (index, module) in modules.enumerated() {
                let own = index < items.count ? items[index] : .none
                try set(.module(module), own, verify, path + ["\(index)"])
            }
        default:
            throw UpdateError.incompatibleItems(path: path)
        }
    }

    /// As MLX's.
    public func freeze(recursive: Bool = true, keys: [String]? = nil) {
        events.append("freeze")
    }

    /// As MLX's.
    open func unfreeze(
        recursive: Bool = true,
        keys: [String]? = nil,
        strict: Bool = false
    ) throws {
        events.append("unfreeze")
    }

    public func evaluated() {
        events.append("eval")
    }
}
