import TestSupport
import Testing

@testable import MLXQuantFormats

extension HostileCase: CustomTestStringConvertible {
    var testDescription: String { "\(group): \(name)" }
}

/// Opens a model and looks at all that its headers say; nil where nothing is wrong with it.
func problem(of hostile: HostileCase, _ path: String) -> FormatError? {
    do throws(FormatError) {
        if hostile.group == "folder" {
            _ = try ModelFolder(path).tokenizer()
        } else {
            let model = try GGUFModel(path)
            try model.checkModel()
            try model.checkVocabulary()
        }
        return nil
    } catch {
        return error
    }
}

@Suite("Hostile files get Python's errors")
struct HostileTests {
    @Test("the cases are there")
    func count() {
        #expect(HostileCase.cases("folder").count > 190)
        #expect(HostileCase.cases("gguf").count > 80)
        #expect(HostileCase.cases("gguf model", "gguf vocabulary", "gguf split").count > 50)
    }

    @Test(
        "a hostile model",
        arguments: HostileCase.cases(
            "folder",
            "gguf",
            "gguf model",
            "gguf vocabulary",
            "gguf split"
        )
    )
    func hostile(_ hostile: HostileCase) throws {
        try withFolder { folder in
            let error = try #require(problem(of: hostile, try hostile.build(in: folder)))
            #expect("\(error.kind)" == hostile.kind)
            let line = error.description
            #expect(isPrintable(line))
            for part in hostile.says {
                #expect(line.contains(part))
            }
        }
    }

    @Test("a model that opens", arguments: HostileCase.cases("valid"))
    func valid(_ valid: HostileCase) throws {
        try withFolder { folder in
            let path = try valid.build(in: folder)
            let model = try Model(path)
            for weight in model.weights where weight.rows > 0 {
                let row = try weight.floats(rows: (weight.rows - 1)..<weight.rows)
                #expect(row.count == weight.columns)
            }
        }
    }
}
