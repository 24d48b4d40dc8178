import MLXQuantFormats

/// What takes as long as a value is large: as text, and beside another one.
extension TemplateRenderer {
    // MARK: As text

    /// Python's `str`; accounted for where it is made.
    func text(of value: TemplateValue) throws(TemplateError) -> String {
        switch value {
        case .list, .tuple, .dictionary: try chargeText(of: value)
        default: break
        }
        return value.text
    }

    /// JSON, accounted for; nil for what JSON has no place for.
    func json(
        of value: TemplateValue,
        _ style: TemplateValue.JSONStyle
    ) throws(TemplateError) -> String? {
        try chargeText(of: value, style)
        return value.json(style)
    }

    /// Accounts for a value's text: for at least as many bytes as it will have.
    private func chargeText(
        of value: TemplateValue,
        _ style: TemplateValue.JSONStyle? = nil,
        depth: Int = 1
    ) throws(TemplateError) {
        try step()
        let indent = style?.indent.map { 1 + depth * $0.utf8.count } ?? 0
        let item = indent + (style.map { max($0.item.utf8.count, $0.colon.utf8.count) } ?? 2)
        switch value {
        case .string(let text): try chargeQuoted(text)
        case .list(let items), .tuple(let items):
            try charge(2 + indent + items.count * item)
            for value in items { try chargeText(of: value, style, depth: depth + 1) }
        case .dictionary(let dictionary):
            try charge(2 + indent + 2 * dictionary.members.count * item)
            for (key, value) in dictionary.members {
                try chargeQuoted(key)
                try chargeText(of: value, style, depth: depth + 1)
            }
        default: try charge(32)
        }
    }

    /// Accounts for a text in quotes, with its escapes.
    private func chargeQuoted(_ text: String) throws(TemplateError) {
        try look(through: text.utf8.count)
        let size = text.utf8.reduce(2) { size, byte in
            switch byte {
            case 0..<0x20, 0x22, 0x27, 0x5C, 0x7F: size + 6
            case 0x80...: size + 3
            default: size + 1
            }
        }
        try charge(size)
    }

    // MARK: Beside another one

    /// Python's `==`.
    func equals(_ left: TemplateValue, _ right: TemplateValue) throws(TemplateError) -> Bool {
        try step()
        if let left = left.number, let right = right.number { return left == right }
        switch (left, right) {
        case (.undefined, .undefined), (.none, .none): return true
        case (.string(let left), .string(let right)):
            guard left.utf8.count == right.utf8.count else { return false }
            try look(through: left.utf8.count)
            return isSame(left, right)
        case (.list(let left), .list(let right)), (.tuple(let left), .tuple(let right)):
            guard left.count == right.count else { return false }
            for (one, other) in zip(left, right) where !(try equals(one, other)) { return false }
            return true
        case (.dictionary(let left), .dictionary(let right)):
            guard left.members.count == right.members.count else { return false }
            for (key, value) in left.members {
                guard let other = right[key], try equals(value, other) else { return false }
            }
            return true
        case (.namespace(let left), .namespace(let right)): return left === right
        default: return false
        }
    }

    /// Where a value stands in a list; nil where it does not.
    func place(
        of value: TemplateValue,
        in items: [TemplateValue]
    ) throws(TemplateError) -> Int? {
        for (place, item) in items.enumerated() where try equals(item, value) { return place }
        return nil
    }

    /// Python's `<`.
    func isLess(_ left: TemplateValue, _ right: TemplateValue) throws(TemplateError) -> Bool {
        try step()
        if let left = left.number, let right = right.number { return left < right }
        switch (left, right) {
        case (.string(let left), .string(let right)):
            try look(through: min(left.utf8.count, right.utf8.count))
            return left.unicodeScalars.lexicographicallyPrecedes(right.unicodeScalars)
        case (.list(let left), .list(let right)), (.tuple(let left), .tuple(let right)):
            for (one, other) in zip(left, right) where !(try equals(one, other)) {
                return try isLess(one, other)
            }
            return left.count < right.count
        default:
            throw failure("\(left.typeName) and \(right.typeName) cannot be ordered")
        }
    }

    /// Items in the order of their keys; those of equal keys as they stood.
    func sorted(
        _ items: [(key: TemplateValue, item: TemplateValue)]
    ) throws(TemplateError) -> [TemplateValue] {
        var from = items
        var to = items
        var width = 1
        // Runs that are in order are merged to longer ones.
        while width < items.count {
            for start in stride(from: 0, to: items.count, by: 2 * width) {
                let middle = min(start + width, items.count)
                let end = min(start + 2 * width, items.count)
                var (left, right) = (start, middle)
                for place in start..<end {
                    var takesRight = left == middle
                    if !takesRight, right < end {
                        takesRight = try isLess(from[right].key, from[left].key)
                    }
                    to[place] = takesRight ? from[right] : from[left]
                    if takesRight { right += 1 } else { left += 1 }
                }
            }
            swap(&from, &to)
            width *= 2
        }
        return from.map(\.item)
    }
}
