import Testing

@testable import MLXQuantFormats

private func parse(_ text: String) throws -> JSON {
    try Array(text.utf8).withUnsafeBytes { bytes in
        var parser = JSONParser(bytes)
        return try parser.whole()
    }
}

@Suite("JSON, names and large numbers")
struct TextTests {
    @Test("JSON that is read")
    func valid() throws {
        let text = #"""
            {"a": [1, -2.5e3, true, false, null], "b\u0041\n": "\ud83d\ude00 é", "": {}}
            """#
        let value = try parse(text)
        #expect(value["a"]?.array?.map(\.description) == ["1", "-2.5e3", "true", "false", "null"])
        #expect(value["a"]?.array?[1].double == -2500)
        #expect(value["a"]?.array?[1].int == nil)
        #expect(value["bA\n"]?.string == "😀 é")
        #expect(value[""]?.object?.members.isEmpty == true)
        #expect(value.object?.members.map(\.name) == ["a", "bA\n", ""])
        #expect(try parse(value.description) == value)
        #expect(try parse(#"{"x": 1, "y": 2}"#) == parse(#"{"y": 2, "x": 1}"#))
        let deep = String(repeating: "[", count: 64) + String(repeating: "]", count: 64)
        #expect(throws: Never.self) { try parse(deep) }
    }

    @Test("names that Unicode calls equivalent are two", arguments: [2, 200])
    func equivalents(_ count: Int) throws {
        let others = (2..<count).map { ", \"\($0)\": \($0)" }.joined()
        let value = try parse("{\"\u{E9}\": 1, \"e\u{301}\": 2\(others)}")
        #expect(value["\u{E9}"]?.int == 1)
        #expect(value["e\u{301}"]?.int == 2)
        #expect(value["e"] == nil)
        #expect((2..<count).allSatisfy { value["\($0)"]?.int == $0 })
        #expect(value.object?.members.count == count)
        let twice = "{\"e\u{301}\": 2\(others), \"e\u{301}\": 3}"
        #expect(throws: JSONParser.Problem.self) { try parse(twice) }
    }

    @Test(
        "text that is no JSON",
        arguments: [
            "", " ", "{", "[", "\"", "\"\\", "\"\\u12", "\"\\x\"", "\"\n\"", "{\"a\"}", "{\"a\":}",
            "{\"a\":1,}", "[1,]", "[1 2]", "01", "-", "1.", "1e", "+1", ".5", "tru", "nul", "{}{}",
            "NaN", "Infinity", "-Infinity", "{\"a\":1,\"a\":2}", "\"\\ud800\"",
            "\"\\udc00\\ud800\"",
            "\"\\ud800\\u0041\"", "{a:1}", "'a'", "[\u{7F}]",
        ]
    )
    func invalid(_ text: String) {
        #expect(throws: JSONParser.Problem.self) { try parse(text) }
    }

    @Test("bytes that are no UTF-8")
    func invalidBytes() {
        for bytes in [
            [0xFF], [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xE2, 0x82],
            [0x80],
        ] as [[UInt8]] {
            #expect(([0x61] + bytes).withUnsafeBytes { invalidUTF8(in: $0) } == 1)
        }
        let fine = Array("aé€😀\u{10FFFF}\u{D7FF}".utf8)
        #expect(fine.withUnsafeBytes { invalidUTF8(in: $0) } == nil)
    }

    @Test("quoting")
    func quoting() {
        #expect(quote("a'b") == "\"a'b\"")
        #expect(quote("a\0\n\u{1B}é\u{202E}") == "'a\\x00\\n\\x1bé\\u202e'")
        let long = quote(String(repeating: "x", count: 500))
        #expect(
            long == "'" + String(repeating: "x", count: 60) + "…"
                + String(repeating: "x", count: 60) + "'"
        )
        let error = FormatError(
            .file,
            file: "f\n",
            field: "x",
            offset: 7,
            reason: String(repeating: "y", count: 700)
        )
        #expect(error.description.hasPrefix("f\\n: x @7: yyy"))
        #expect(error.description.unicodeScalars.count == 601)
        #expect(isPrintable(error.description))
    }

    @Test("numbers of any size")
    func natural() {
        #expect(Natural(0).description == "0")
        #expect(Natural(product: [1 << 62, 4]).description == "18446744073709551616")
        #expect(Natural(product: [4_194_305, 4_194_305, 211_106_198_978_564]).int == nil)
        var number = Natural(product: [UInt64](repeating: 10, count: 40))
        #expect(number.description == "1" + String(repeating: "0", count: 40))
        #expect(number.divide(by: 7) == 4)
        #expect(number.description == "1428571428571428571428571428571428571428")
        #expect(Natural(UInt64.max).int == nil)
        #expect(Natural(UInt64(Int.max)).int == Int.max)
        #expect(Natural(product: [3, 0, .max]).int == 0)
    }
}
