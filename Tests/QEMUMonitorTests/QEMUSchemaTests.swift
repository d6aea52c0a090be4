import QEMUMonitor
import Testing

// Goal: what is asked of a schema is answered from its types, through every way that they are nested in.
// Method: a small schema with each kind of type, said by a scripted monitor; qemu's own in `RealVerbsTests`.

@Suite("a schema")
struct QEMUSchemaTests {
  private static let types = [
    #"{"meta-type":"command","name":"add","arg-type":"1","ret-type":"0"}"#,
    #"{"meta-type":"command","name":"list","arg-type":"9"}"#,
    #"{"meta-type":"event","name":"GONE","arg-type":"1"}"#,
    // An object with variants, one of which refers to itself.
    #"{"meta-type":"object","name":"1","tag":"kind","members":[{"name":"kind","type":"2"},{"name":"limit","type":"int","default":null}],"variants":[{"case":"net","type":"3"},{"case":"copy","type":"4"}]}"#,
    #"{"meta-type":"enum","name":"2","values":["net","copy"],"members":[{"name":"net"},{"name":"copy"}]}"#,
    #"{"meta-type":"object","name":"3","members":[{"name":"server","type":"5"}]}"#,
    #"{"meta-type":"object","name":"4","members":[{"name":"file","type":"6"},{"name":"mode","type":"7"}]}"#,
    #"{"meta-type":"object","name":"5","members":[{"name":"path","type":"str"}]}"#,
    // Either a name or the whole thing.
    #"{"meta-type":"alternate","name":"6","members":[{"type":"str"},{"type":"1"}]}"#,
    #"{"meta-type":"enum","name":"7","members":[{"name":"fast"}]}"#,
    #"{"meta-type":"builtin","name":"str","json-type":"string"}"#,
    #"{"meta-type":"builtin","name":"int","json-type":"int"}"#,
    #"{"meta-type":"array","name":"[1]","element-type":"1"}"#,
    #"{"meta-type":"object","name":"9","members":[{"name":"all","type":"[1]"}]}"#,
  ]

  @Test(
    "finds arguments in objects, variants, alternatives and arrays",
    arguments: [
      "kind", "limit", "server", "server.path", "file", "file.server.path", "file.file.file.limit", "mode",
      "kind=net", "kind=copy", "mode=fast", "file.kind=net",
    ])
  func found(path: String) throws {
    let schema = try Self.schema()
    #expect(schema.has("add"))
    #expect(schema.has("add", argument: path))
    #expect(schema.has("list", argument: "all.\(path)"))
  }

  @Test(
    "finds nothing where nothing is",
    arguments: [
      "path", "limit.path", "server.path.path", "kind=slow", "mode=net", "limit=net", "net", "copy.file",
    ])
  func absent(path: String) throws {
    let schema = try Self.schema()
    #expect(!schema.has("add", argument: path))
    #expect(!schema.has("list", argument: path))
  }

  @Test("knows commands from events and types")
  func commands() throws {
    let schema = try Self.schema()
    for name in ["GONE", "1", "str", "remove"] {
      #expect(!schema.has(name))
      #expect(!schema.has(name, argument: "limit"))
    }
  }

  @Test("of a qemu that cannot describe itself is at least its commands")
  func oldest() throws {
    let monitor = try ScriptedMonitor(
      ScriptedMonitor.opening + [
        .hear, .say(#"{"error": {"class": "CommandNotFound", "desc": "no"}, "id": 2}"#),
        .hear, .say(#"{"return": [{"name": "nbd-server-add"}, {"name": "quit"}], "id": 3}"#),
      ])
    let schema = try QMPConnection(connectingTo: monitor.path).schema()
    #expect(schema.has("nbd-server-add"))
    #expect(!schema.has("block-export-add"))
    #expect(!schema.has("nbd-server-add", argument: "device"))
  }

  private static func schema() throws -> QEMUSchema {
    let monitor = try ScriptedMonitor(
      ScriptedMonitor.opening + [
        .hear, .say(#"{"return": [\#(types.joined(separator: ","))], "id": 2}"#),
      ])
    return try QMPConnection(connectingTo: monitor.path).schema()
  }
}
