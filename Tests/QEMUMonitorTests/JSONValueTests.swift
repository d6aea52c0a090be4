import Foundation
import QEMUMonitor
import Testing

@Suite("a JSON value")
struct JSONValueTests {
  @Test("keeps each kind of JSON apart, there and back")
  func roundTrip() throws {
    let value: JSONValue = [
      "null": .null, "true": true, "one": 1, "big": .integer(.max), "bigger": .unsigned(.max),
      "half": .number(0.5), "text": "1",
      "list": [1, "a", [], [:]], "object": ["false": false],
    ]
    let bytes = try JSONEncoder().encode(value)
    #expect(try JSONDecoder().decode(JSONValue.self, from: bytes) == value)
  }

  @Test("answers nil for what it is not")
  func accessors() {
    let value: JSONValue = ["name": "vda", "size": 5, "on": true, "list": [1]]
    #expect(value["name"]?.string == "vda")
    #expect(value["size"]?.integer == 5)
    #expect(value["on"]?.bool == true)
    #expect(value["list"]?.array == [1])
    #expect(value["absent"] == nil)
    #expect(value["name"]?.integer == nil)
    #expect(value["name"]?["inner"] == nil)
  }
}
