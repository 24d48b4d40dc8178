// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

/// As MLX's: values under names, and in arrays.
public indirect enum NestedItem<Key: Hashable, Element> {
    case none
    case value(Element)
    case array([NestedItem<Key, Element>])
    case dictionary([Key: NestedItem<Key, Element>])
}

/// As MLX's, of names that are strings.
public struct NestedDictionary<Key: Hashable, Element> {
    public let values: [Key: NestedItem<Key, Element>]

    public init(values: [Key: NestedItem<Key, Element>]) {
        self.values = values
    }
}

extension NestedDictionary where Key == String {
    /// As MLX's.
    public func flattened(prefix: String? = nil) -> [(String, Element)] {
        func flat(_ name: String, _ item: NestedItem<String, Element>) -> [(String, Element)] {
            switch item {
            case .none: []
            case .value(let value): [(name, value)]
            case .array(let items):
                items.enumerated().flatMap { flat("\(name).\($0.offset)", $0.element) }
            case .dictionary(let values):
                values.sorted { $0.key < $1.key }.flatMap { flat("\(name).\($0.key)", $0.value) }
            }
        }
        return values.sorted { $0.key < $1.key }.flatMap { key, item in
            flat(prefix.map { "\($0).\(key)" } ?? key, item)
        }
    }

    /// As MLX's: names that are numbers are places of an array, and those without a value are none.
    public static func unflattened(_ flat: some Collection<(String, Element)>) -> Self {
        func nested(_ flat: [(Substring, Element)]) -> NestedItem<String, Element> {
            if flat.count == 1, flat[0].0.isEmpty {
                return .value(flat[0].1)
            }
            var inner: [String: [(Substring, Element)]] = [:]
            for (path, value) in flat {
                let words = path.split(separator: ".", maxSplits: 1)
                let rest = words.count > 1 ? words[1] : ""
                inner[String(words[0]), default: []].append((rest, value))
            }
            guard inner.keys.contains(where: { Int($0) != nil }) else {
                return .dictionary(inner.mapValues(nested))
            }
            let last = inner.keys.compactMap { Int($0) }.max() ?? 0
            return .array((0...last).map { inner["\($0)"].map(nested) ?? .none })
        }
        guard !flat.isEmpty,
            case .dictionary(let values) = nested(flat.map { (Substring($0.0), $0.1) })
        else { return Self(values: [:]) }
        return Self(values: values)
    }

    /// As MLX's.
    public static func unflattened(_ flat: [String: Element]) -> Self {
        unflattened(flat.map { ($0.key, $0.value) })
    }
}
