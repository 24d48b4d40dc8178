/// What is computed.
indirect enum TemplateExpression: Sendable {
    case none
    case bool(Bool)
    case int(Int)
    case float(Double)
    case string(String)
    case name(String)
    case list([TemplateExpression])
    case tuple([TemplateExpression])
    case dictionary([(TemplateExpression, TemplateExpression)])
    case attribute(TemplateExpression, String)
    case item(TemplateExpression, TemplateExpression)
    case slice(
        TemplateExpression,
        TemplateExpression?,
        TemplateExpression?,
        TemplateExpression?
    )
    case call(TemplateExpression, TemplateCall)
    case filter(TemplateExpression, String, TemplateCall)
    case test(TemplateExpression, String, TemplateCall)
    case not(TemplateExpression)
    case negative(TemplateExpression)
    case positive(TemplateExpression)
    case both(TemplateExpression, TemplateExpression)
    case either(TemplateExpression, TemplateExpression)
    case arithmetic(TemplateExpression, Arithmetic, TemplateExpression)
    /// `a < b <= c`: each with the next.
    case compared(TemplateExpression, [(Comparison, TemplateExpression)])
    /// The second where the first is true, else the third.
    case conditional(TemplateExpression, TemplateExpression, TemplateExpression?)

    enum Arithmetic: String, Sendable {
        case add = "+"
        case subtract = "-"
        case multiply = "*"
        case divide = "/"
        case divideDown = "//"
        case remainder = "%"
        case power = "**"
        case join = "~"
    }

    enum Comparison: String, Sendable {
        case equal = "=="
        case unequal = "!="
        case less = "<"
        case atMost = "<="
        case greater = ">"
        case atLeast = ">="
        case isIn = "in"
        case isNotIn = "not in"
    }
}

/// Arguments, not yet computed.
struct TemplateCall: Sendable {
    var positional: [TemplateExpression] = []
    var named: [(String, TemplateExpression)] = []
}

/// What is done.
indirect enum TemplateNode: Sendable {
    case text(String)
    case output(TemplateExpression, line: Int)
    case branch([(TemplateExpression, [TemplateNode])], otherwise: [TemplateNode], line: Int)
    case loop(TemplateLoop, line: Int)
    case set(TemplateTarget, TemplateExpression, line: Int)
    /// `{% set x %}…{% endset %}`, and the filters that the text goes through.
    case capture(TemplateTarget, [(String, TemplateCall)], [TemplateNode], line: Int)
    case macro(TemplateMacro)
    /// A scope of its own.
    case scope([(String, TemplateExpression)], [TemplateNode], line: Int)
    case breakLoop
    case continueLoop
}

struct TemplateLoop: Sendable {
    let target: TemplateTarget
    let items: TemplateExpression
    let condition: TemplateExpression?
    let body: [TemplateNode]
    /// Whether `loop` is named in the body.
    let usesLoop: Bool
    let otherwise: [TemplateNode]
}

struct TemplateMacro: Sendable {
    let name: String
    let parameters: [(String, TemplateExpression?)]
    let body: [TemplateNode]
}

/// What is set.
enum TemplateTarget: Sendable {
    case name(String)
    case names([String])
    case attribute(String, String)
}
