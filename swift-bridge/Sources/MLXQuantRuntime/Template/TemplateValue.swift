/// A value as a template sees it: Python's, as far as templates have them.
enum TemplateValue {
    /// What is not there, by its name.
    case undefined(String)
    case none
    case bool(Bool)
    case int(Int)
    case float(Double)
    case string(String)
    case list([TemplateValue])
    case tuple([TemplateValue])
    case dictionary(TemplateDictionary)
    /// What `namespace(…)` gives: the one thing that a template can change.
    case namespace(TemplateNamespace)
    case function(TemplateFunction)

    var isTrue: Bool {
        switch self {
        case .undefined, .none: false
        case .bool(let value): value
        case .int(let value): value != 0
        case .float(let value): value != 0
        case .string(let text): !text.isEmpty
        case .list(let items), .tuple(let items): !items.isEmpty
        case .dictionary(let dictionary): !dictionary.members.isEmpty
        case .namespace, .function: true
        }
    }

    /// Truth values count as numbers, as in Python.
    var number: Double? {
        switch self {
        case .bool(let value): value ? 1 : 0
        case .int(let value): Double(value)
        case .float(let value): value
        default: nil
        }
    }

    var integer: Int? {
        switch self {
        case .bool(let value): value ? 1 : 0
        case .int(let value): value
        default: nil
        }
    }

    var string: String? {
        if case .string(let text) = self { text } else { nil }
    }

    /// How many values it holds, and bytes of text in them.
    var weight: (items: Int, bytes: Int) {
        func sum(_ values: some Sequence<TemplateValue>, _ own: Int) -> (Int, Int) {
            values.reduce((1, own)) { sum, value in
                let (items, bytes) = value.weight
                return (sum.0 + items, sum.1 + bytes)
            }
        }
        switch self {
        case .string(let text): return (1, text.utf8.count)
        case .list(let items), .tuple(let items): return sum(items, 0)
        case .dictionary(let dictionary):
            let keys = dictionary.members.reduce(0) { $0 + $1.key.utf8.count }
            return sum(dictionary.members.lazy.map(\.value), keys)
        default: return (1, 0)
        }
    }

    var isUndefined: Bool {
        if case .undefined = self { true } else { false }
    }

    /// What Python calls the value's type.
    var typeName: String {
        switch self {
        case .undefined: "Undefined"
        case .none: "NoneType"
        case .bool: "bool"
        case .int: "int"
        case .float: "float"
        case .string: "str"
        case .list: "list"
        case .tuple: "tuple"
        case .dictionary: "dict"
        case .namespace: "Namespace"
        case .function: "function"
        }
    }
}

/// A dictionary of texts to values, in order. Keys are told apart by their bytes.
struct TemplateDictionary {
    private(set) var members: [(key: String, value: TemplateValue)] = []
    /// Places by the keys' bytes, once there are more than a few.
    private var places: [[UInt8]: Int] = [:]

    private static let few = 16

    init(_ members: [(String, TemplateValue)] = []) {
        for (key, value) in members { self[key] = value }
    }

    private func place(of key: String) -> Int? {
        if members.count > Self.few { return places[Array(key.utf8)] }
        return members.firstIndex { $0.key.utf8.elementsEqual(key.utf8) }
    }

    subscript(key: String) -> TemplateValue? {
        get { place(of: key).map { members[$0].value } }
        set {
            guard let value = newValue else { return }
            if let place = place(of: key) {
                members[place].value = value
                return
            }
            members.append((key, value))
            if members.count == Self.few + 1 {
                for (place, member) in members.enumerated() {
                    places[Array(member.key.utf8)] = place
                }
            } else if members.count > Self.few {
                places[Array(key.utf8)] = members.count - 1
            }
        }
    }
}

final class TemplateNamespace {
    var values: TemplateDictionary

    init(_ values: TemplateDictionary) { self.values = values }
}

/// What a template can call.
final class TemplateFunction {
    typealias Body = (TemplateRenderer, TemplateArguments) throws(TemplateError) -> TemplateValue

    let name: String
    let body: Body
    /// `loop.index` and its kin; for functions that have attributes.
    let attributes: TemplateDictionary

    init(
        _ name: String,
        attributes: TemplateDictionary = TemplateDictionary(),
        _ body: @escaping Body
    ) {
        self.name = name
        self.attributes = attributes
        self.body = body
    }
}

/// What a function, filter, test or method is called with.
struct TemplateArguments {
    var positional: [TemplateValue] = []
    var named: [(String, TemplateValue)] = []

    /// An argument by its place or its name.
    func value(_ place: Int, _ name: String) -> TemplateValue? {
        if place < positional.count { return positional[place] }
        return named.last { $0.0 == name }?.1
    }
}

// A namespace changes while a template renders: values are for the task that renders. That is said, and
// not left to be inferred: types that hold each other are a cycle to the compiler in some orders of files.
@available(*, unavailable)
extension TemplateValue: Sendable {}

@available(*, unavailable)
extension TemplateDictionary: Sendable {}
