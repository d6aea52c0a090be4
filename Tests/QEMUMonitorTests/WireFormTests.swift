import QEMUMonitor
import Testing

// Goal: each verb says exactly what was verified with qemu, and leaves out what an older qemu does not know.
// Method: a scripted monitor hears it. That a real qemu takes it is shown in `RealVerbsTests`.

@Suite("the wire form")
struct WireFormTests {
  @Test("of a backup has the word that the oldest qemu knows, and only options that were chosen")
  func backup() {
    #expect(
      QEMUBackup(id: "a", node: "src", target: "tgt", .full).arguments == [
        "job-id": "a", "device": "src", "target": "tgt", "sync": "full", "auto-dismiss": false,
      ])
    #expect(QEMUBackup(id: "a", node: "n", target: "t", .beforeWrites).arguments["sync"] == "none")
    var marked = QEMUBackup(id: "a", node: "n", target: "t", .marked(bitmap: "b", .clearedOnSuccess))
    marked.bytesPerSecond = 5
    marked.waitsForFinalize = true
    marked.workersMax = 4
    marked.chunkBytesMax = 262_144
    #expect(
      marked.arguments == [
        "job-id": "a", "device": "n", "target": "t", "sync": "incremental", "bitmap": "b",
        "auto-dismiss": false, "auto-finalize": false, "speed": 5,
        "x-perf": ["max-workers": 4, "max-chunk": 262_144],
      ])
    let kept = QEMUBackup(id: "a", node: "n", target: "t", .marked(bitmap: "b", .kept)).arguments
    #expect(kept["sync"] == "bitmap" && kept["bitmap-mode"] == "never")
  }

  @Test("of a transaction keeps the order of its actions")
  func transaction() {
    var transaction = QEMUTransaction([
      .addBitmap("t0", node: "src", granularity: 65536, isDisabled: true),
      .mergeBitmaps(["b0"], into: "t0", node: "src"),
      .enableBitmap("b1", node: "src"), .disableBitmap("b0", node: "src"),
      .addBitmap("b2", node: "src", isPersistent: true),
      .backup(QEMUBackup(id: "a", node: "src", target: "tgt", .beforeWrites)),
    ])
    let actions: JSONValue = [
      [
        "type": "block-dirty-bitmap-add",
        "data": ["node": "src", "name": "t0", "granularity": 65536, "disabled": true],
      ],
      [
        "type": "block-dirty-bitmap-merge", "data": ["node": "src", "target": "t0", "bitmaps": ["b0"]],
      ],
      ["type": "block-dirty-bitmap-enable", "data": ["node": "src", "name": "b1"]],
      ["type": "block-dirty-bitmap-disable", "data": ["node": "src", "name": "b0"]],
      ["type": "block-dirty-bitmap-add", "data": ["node": "src", "name": "b2", "persistent": true]],
      [
        "type": "blockdev-backup",
        "data": [
          "job-id": "a", "device": "src", "target": "tgt", "sync": "none", "auto-dismiss": false,
        ],
      ],
    ]
    #expect(transaction.arguments == ["actions": actions])
    transaction.isGrouped = true
    #expect(
      transaction.arguments == ["actions": actions, "properties": ["completion-mode": "grouped"]])
  }

  @Test("for a qemu that knows little leaves out what it does not know")
  func oldQEMU() throws {
    let monitor = try ScriptedMonitor(
      ScriptedMonitor.opening
        + (2...7).flatMap { [ScriptedMonitor.Step.hear, .say(#"{"return": {}, "id": \#($0)}"#)] })
    let connection = try QMPConnection(connectingTo: monitor.path)
    let schema = QEMUSchema(commands: ["nbd-server-add", "nbd-server-start", "blockdev-add"])
    try connection.startNBDServer(atUnixSocket: "/s", schema)
    try connection.addNBDTarget("tgt", atUnixSocket: "/t", export: "e", reconnectSeconds: 30, schema)
    let export = QEMUExport(id: "i", node: "src", name: "e", bitmap: "t0")
    try connection.addExport(export, schema)
    try connection.removeExport(export, schema)
    try connection.setJobSpeed("a", bytesPerSecond: 7)
    try connection.finalizeJob("a")
    #expect(
      monitor.heard.dropFirst() == [
        #"{"arguments":{"addr":{"data":{"path":"/s"},"type":"unix"}},"execute":"nbd-server-start","id":2}"#,
        #"{"arguments":{"discard":"unmap","driver":"nbd","export":"e","node-name":"tgt","server":{"path":"/t","type":"unix"}},"execute":"blockdev-add","id":3}"#,
        #"{"arguments":{"bitmap":"t0","device":"src","name":"e","writable":false},"execute":"nbd-server-add","id":4}"#,
        #"{"arguments":{"mode":"hard","name":"e"},"execute":"nbd-server-remove","id":5}"#,
        #"{"arguments":{"device":"a","speed":7},"execute":"block-job-set-speed","id":6}"#,
        #"{"arguments":{"id":"a"},"execute":"job-finalize","id":7}"#,
      ])
  }

  @Test("of a removed export is followed by questions until it is gone")
  func removal() throws {
    let listed = #"[{"id": "other"}, {"id": "e", "shutting-down": false}]"#
    let monitor = try ScriptedMonitor(
      ScriptedMonitor.opening + [
        .hear, .say(#"{"return": \#(listed), "id": 2}"#),
        .hear, .say(#"{"return": {}, "id": 3}"#),
        .hear, .say(#"{"return": \#(listed), "id": 4}"#),
        .say(#"{"event": "BLOCK_EXPORT_DELETED", "data": {"id": "e"}}"#),
        .hear, .say(#"{"return": [{"id": "other"}], "id": 5}"#), .keepSilent,
      ])
    let schema = QEMUSchema(commands: ["block-export-add"])
    try QMPConnection(connectingTo: monitor.path).removeExport(QEMUExport(id: "e", node: "n"), schema)
    let ask = #""execute":"query-block-exports""#
    #expect(
      monitor.heard.dropFirst() == [
        "{\(ask),\"id\":2}",
        #"{"arguments":{"id":"e","mode":"hard"},"execute":"block-export-del","id":3}"#,
        "{\(ask),\"id\":4}", "{\(ask),\"id\":5}",
      ])
  }

  @Test("of a cancel is the block job's where qemu has no other")
  func oldCancel() throws {
    let monitor = try ScriptedMonitor(
      ScriptedMonitor.opening + [
        .hear, .say(#"{"error": {"class": "CommandNotFound", "desc": "no"}, "id": 2}"#),
        .hear, .say(#"{"return": {}, "id": 3}"#),
      ])
    try QMPConnection(connectingTo: monitor.path).cancelJob("a")
    #expect(
      monitor.heard.last
        == #"{"arguments":{"device":"a","force":true},"execute":"block-job-cancel","id":3}"#)
  }

  @Test("of devices: a node is found by its name, by the drive, by the device and by the device's path")
  func devices() throws {
    let nodes =
      ##"[{"node-name":"#block1","drv":"raw","ro":false,"image":{"virtual-size":512}},{"node-name":"disk","drv":"qcow2","ro":true,"image":{"virtual-size":1024}}]"##
    let devices =
      ##"[{"device":"drive0","qdev":"/machine/peripheral/vda/virtio-backend","inserted":{"node-name":"#block1"}},{"device":"","qdev":"cd0"}]"##
    for (name, node) in [
      ("disk", "disk"), ("drive0", "#block1"), ("vda", "#block1"),
      ("/machine/peripheral/vda/virtio-backend", "#block1"), ("cd0", nil), ("virtio-backend", nil),
    ] {
      let monitor = try ScriptedMonitor(
        ScriptedMonitor.opening + [
          .hear, .say(#"{"return": \#(nodes), "id": 2}"#), .hear, .say(#"{"return": \#(devices), "id": 3}"#),
        ])
      let connection = try QMPConnection(connectingTo: monitor.path)
      let schema = QEMUSchema(commands: [])
      if let node {
        #expect(try connection.blockNode(name, schema).name == node)
      } else {
        let missing = QMPError.noSuchNode(name: name, known: ["disk", "cd0", "drive0"])
        #expect(throws: missing) { try connection.blockNode(name, schema) }
        #expect(missing.description == "qemu has no disk called \(name); it has disk, cd0, drive0")
      }
    }
  }
}
